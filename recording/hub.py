"""Upload a dataset by LeRobot's own means."""

from pathlib import Path

from lerobot.datasets import LeRobotDataset

from common.hub import uploading


def push(root: Path, name: str) -> None:
    """Upload the dataset at `root` as `name` (user/dataset), with the description of its card.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
    card = (root / "README.md").read_text(encoding="utf-8")
    description = card.partition("## Dataset Description\n")[2].partition("\n- **Homepage:**")[0].strip()
    with uploading(name, f"the dataset is whole at {root}", "with --resume"):
        LeRobotDataset(name, root=root).push_to_hub(license="mit", dataset_description=description)
