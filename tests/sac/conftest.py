from pathlib import Path

import pytest

from common import checkpoint
from tests.sac.walk import Rows, run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, Rows]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(folder)[1]


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """A test pulls no plug, and waiting for the disk would be most of its time."""
    monkeypatch.setattr(checkpoint, "flush", lambda path: None)
