"""The notebook is executed as it is shipped, by a kernel that starts in `examples/` of a repository."""

import json
from pathlib import Path

import nbformat
import pyarrow.parquet as pq
import pytest
from nbclient import NotebookClient
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
TOUR = REPOSITORY / "examples" / "tour.ipynb"
WRITTEN = "examples", "data", "logs", "outputs"  # folders that are the test's own


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The executed notebook, and the folder, made of links to this repository, that it was executed in."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "examples").mkdir()
    for path in REPOSITORY.iterdir():
        if path.name not in WRITTEN and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    notebook = nbformat.read(TOUR, as_version=4)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("IPYTHONDIR", str(folder / "ipython"))
        environment.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder / "examples"}}).execute()
    return notebook, folder


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def test_it_is_shipped_without_outputs():
    cells = [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_it_records_five_successful_episodes(executed):
    _, folder = executed
    root = folder / "data" / "tour"
    info = json.loads((root / "meta" / "info.json").read_text())
    frames = pq.read_table(root / "data").to_pydict()
    successes = {
        episode
        for episode, success in zip(frames["episode_index"], frames["next.success"], strict=True)
        if success
    }
    assert info["total_episodes"] == 5
    assert successes == set(range(5))
    assert len(frames["index"]) == info["total_frames"]


def test_it_shows_what_it_played_and_recorded(executed):
    notebook, folder = executed
    text = printed(notebook)
    assert text.count("success True") == 6
    assert "5 episodes" in text
    assert "observation.image   (3, 96, 96)" in text
    with Image.open(folder / "data" / "tour.gif") as film:
        assert film.size == (3 * 192, 2 * 192)
        assert film.n_frames > 20
    shown = {
        kind for cell in notebook.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())
    }
    assert {"image/gif", "image/png"} <= shown
