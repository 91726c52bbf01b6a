"""--overwrite replaces datasets, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

import collect_dataset
from recording.files import foreign_file
from recording.versions import writing_to

pytestmark = pytest.mark.slow

INFO = {"codebase_version": "v3.0", "features": {}}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def overwrite(root: Path, *flags: str) -> bool:
    settings = "--policy scripted --all --episodes 1 --observations keypoints --hold 0 --overwrite"
    return collect_dataset.main([*f"--root {root} {settings}".split(), *flags])


@pytest.mark.parametrize(
    "files",
    [
        {"meta/info.json": "mine"},
        {"meta/info.json": "{}"},
        {"meta/info.json": "[]"},
        {"meta/info.json": '{"codebase_version": "v3.0"}'},
        {"meta/recording.json": "{}"},
        {"meta/info.json": "{}", "thesis.tex": ""},
        {"thesis.tex": ""},
    ],
)
def test_what_only_has_the_names_is_no_dataset(tmp_path, told, files):
    root = tmp_path / "root"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    before = contents(root)
    assert "not a LeRobot dataset, so --overwrite does not touch it" in told(overwrite, root)
    assert contents(root) == before


@pytest.mark.parametrize(
    "name",
    [
        *("thesis.tex", "meta/notes.txt", "data/mine.parquet", "data/chunk-000/file-000.parquet.bak"),
        *("card/mine.png", "videos/film.mp4", ".hidden", "data/chunk-000/deep/er/file-000.parquet"),
        *(
            "README.md/thesis.tex",
            "images/photo.png",
            ".cache/huggingface/thesis.tex",
            "meta/info.json.old",
            "models/a/model.safetensors",
        ),
    ],
)
def test_a_file_of_somebodys_is_named(make_dataset, tmp_path, told, name):
    root = make_dataset(tmp_path / "root", lengths=(3,))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("mine")
    before = contents(root)
    assert f"holds {name}, which is no part of a dataset" in told(overwrite, root)
    assert contents(root) == before


@pytest.mark.parametrize("kind", ["image", "video"])
def test_all_that_lerobot_writes_is_known(make_dataset, tmp_path, kind):
    root = make_dataset(tmp_path / "root", lengths=(3,), pictures=64, kind=kind)
    for name in (".gitattributes", "README.md", ".cache/huggingface/download/data/a.metadata", ".DS_Store"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert foreign_file(root) is None


def test_a_dataset_is_replaced_and_what_is_linked_stays(make_dataset, tmp_path):
    root = make_dataset(tmp_path / "root", lengths=(3,))
    shutil.move(root / "data", tmp_path / "disk")
    (root / "data").symlink_to(tmp_path / "disk")
    before = contents(tmp_path / "disk")
    assert overwrite(root)
    assert contents(tmp_path / "disk") == before
    assert json.loads((root / "meta/info.json").read_text())["total_episodes"] == 1
    assert foreign_file(root) is None  # nor do we write anything else
    (root / "card" / "mine.png").write_text("mine")
    assert overwrite_by_resume(root)
    assert (root / "card" / "mine.png").read_text() == "mine"
    (root / "card").rename(tmp_path / "card")
    (root / "card").symlink_to(tmp_path / "card")
    before = contents(tmp_path / "card")
    assert overwrite_by_resume(root, episodes=3)
    assert contents(tmp_path / "card") == before


def overwrite_by_resume(root: Path, episodes: int = 2) -> bool:
    return collect_dataset.main(f"--root {root} --policy scripted --resume --episodes {episodes}".split())


def test_the_folder_beside_it_is_emptied_of_ours_alone(tmp_path):
    workplace = tmp_path / ".data.recording"
    (workplace / "mine").mkdir(parents=True)
    with writing_to(tmp_path / "data"):
        (workplace / "next").mkdir()
    assert {path.name for path in workplace.iterdir()} == {"mine"}


def test_what_is_left_of_a_dataset_is_not_deleted(tmp_path):
    """The old version was moved away, and the new one could not take its place."""
    with writing_to(tmp_path / "data"):
        (tmp_path / ".data.recording" / "previous").mkdir()
    assert (tmp_path / ".data.recording" / "previous").is_dir()
    with writing_to(tmp_path / "data"):
        assert (tmp_path / "data").is_dir()


def test_a_link_in_the_place_of_the_folder_beside_it(tmp_path, told):
    (tmp_path / "mine" / "next").mkdir(parents=True)
    (tmp_path / ".data.recording").symlink_to("mine")
    assert ".data.recording: is a link" in told(overwrite, tmp_path / "data")
    assert (tmp_path / "mine" / "next").is_dir()
