"""Uploads to the Hugging Face Hub, and what may keep them from it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from httpx import HTTPError

from common.errors import UserError


def check_hub_name(name: str, kind: str) -> None:
    """Raise ValueError if it is no `push_to_hub` of such a kind; an empty one asks for no upload."""
    if name and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"push_to_hub must be of the form user/{kind}, got {name}")


@contextmanager
def uploading(name: str, whole: str, again: str) -> Iterator[None]:
    """Tell in one sentence why the upload in this block failed.

    Args:
        name: on the Hub.
        whole: what is not lost, and where.
        again: how the upload is tried again.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name}: could not be uploaded ({reason}); {whole}: log in with `hf auth login`, "
            f"see that there is a network, and start again {again}"
        ) from None
