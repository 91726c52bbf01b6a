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


def execute(notebook, folder):
    """Execute it in a folder that is made of links to this repository."""
    (folder / "examples").mkdir()
    for path in REPOSITORY.iterdir():
        if path.name not in WRITTEN and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder / "examples"}}).execute()


def test_it_is_shipped_without_outputs():
    cells = [cell for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_it_plays_films_and_records(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    notebook, folder = nbformat.read(TOUR, as_version=4), tmp_path / "repository"
    folder.mkdir()
    execute(notebook, folder)

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert text.count("success True") == 6
    assert "5 episodes" in text
    assert "observation.image   (3, 96, 96)" in text
    assert {"image/gif", "image/png"} <= {kind for output in outputs for kind in output.get("data", ())}
    with Image.open(folder / "data" / "tour.gif") as film:
        assert film.size == (3 * 192, 2 * 192)
        assert film.n_frames > 20

    root = folder / "data" / "tour"
    info = json.loads((root / "meta" / "info.json").read_text())
    frames = pq.read_table(root / "data").to_pandas()
    assert info["total_episodes"] == 5
    assert info["total_frames"] == len(frames)
    assert frames.groupby("episode_index")["next.success"].any().to_dict() == dict.fromkeys(range(5), True)
