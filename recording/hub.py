"""Upload a dataset by LeRobot's own means."""

from pathlib import Path

from httpx import HTTPError
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from lerobot.datasets import LeRobotDataset

from common.errors import UserError


def push(root: Path, name: str) -> None:
    """Upload the dataset at `root` as `name` (user/dataset), with the description of its card.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
    card = (root / "README.md").read_text(encoding="utf-8")
    description = card.partition("## Dataset Description\n")[2].partition("\n- **Homepage:**")[0].strip()
    try:
        LeRobotDataset(name, root=root).push_to_hub(license="mit", dataset_description=description)
    except (
        HfHubHTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        HTTPError,
        OSError,
    ) as error:
        raise UserError(
            f"{name}: could not be uploaded ({str(error).splitlines()[0]}); the dataset is whole at {root}: "
            "log in with `hf auth login`, see that there is a network, and start again with --resume"
        ) from None
