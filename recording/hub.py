"""Upload a dataset with LeRobot's own upload."""

from pathlib import Path

from huggingface_hub import HfApi
from lerobot.datasets import LeRobotDataset

from common.hub import check_nothing_linked, uploading


def check_access(name: str) -> None:
    """Check that the Hub knows us, before anything is recorded.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
    with uploading(name, "nothing was recorded yet", "again"):
        HfApi().whoami()


def push(root: Path, name: str, license: str) -> None:
    """Upload the dataset at `root`, its card included, as `name`, and print its address.

    Args:
        root: of the dataset.
        name: on the Hub.
        license: as the Hub names it.

    Raises:
        UserError: a link leads out of it, no network, no token, or the Hub refuses.
    """
    check_nothing_linked(root)
    dataset = LeRobotDataset(name, root=root, video_backend="pyav")
    with uploading(name, f"the dataset is whole at {root}", "again with --resume"):
        dataset.push_to_hub(license=license)
        # LeRobot replaces our card by its own.
        HfApi().upload_file(
            path_or_fileobj=root / "README.md", path_in_repo="README.md", repo_id=name, repo_type="dataset"
        )
    print(f"https://huggingface.co/datasets/{name}")
