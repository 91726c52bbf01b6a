"""Uploads to the Hugging Face Hub, and what may keep them from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx import HTTPError
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from common.errors import UserError, reason
from common.untrusted import check_inside


def check_hub_name(name: str, kind: str, setting: str = "push_to_hub") -> None:
    """Raise ValueError if this value of a setting is no name on the Hub; empty means no upload."""
    if not name:
        return
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ValueError(f"{setting} must be of the form user/{kind}, got {name}")


def check_nothing_linked(folder: Path) -> None:
    """Raise UserError where a link in the folder leads out of it: what it leads to would be published."""
    for path in folder.rglob("*"):
        check_inside(path, folder)


@contextmanager
def uploading(name: str, whole: str, again: str) -> Iterator[None]:
    """Tell in one sentence why the upload in this block failed.

    Args:
        name: on the Hub.
        whole: what is not lost, and where.
        again: how to start once more.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: could not be uploaded ({reason(error)}); {whole}: log in with `hf auth login`, "
            f"see that there is a network, and start {again}"
        ) from None
