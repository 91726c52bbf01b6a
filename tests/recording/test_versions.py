import multiprocessing

import pytest

from common.errors import UserError
from recording import versions
from recording.versions import link_all, next_version, writing_to


def files(root):
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def grow(root, name, text):
    with next_version(root) as new:
        if root.exists():
            link_all(root, new, lambda path: str(path) != name)
        (new / name).write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_changes_as_a_whole(exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(versions, "_exchange", lambda *_: False)
    root = tmp_path / "data"
    with writing_to(root):
        grow(root, "a", "1")
        grow(root, "b", "2")
        inode = (root / "a").stat().st_ino
        with pytest.raises(RuntimeError), next_version(root) as new:
            (new / "c").write_text("3")
            raise RuntimeError
        assert files(root) == {"a": "1", "b": "2"}
        grow(root, "b", "4")
        assert files(root) == {"a": "1", "b": "4"}
        assert (root / "a").stat().st_ino == inode  # linked, not copied
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_kill_between_two_renames_is_mended(tmp_path):
    root, workplace = tmp_path / "data", tmp_path / ".data.recording"
    (workplace / "previous").mkdir(parents=True)
    (workplace / "previous" / "a").write_text("1")
    (workplace / "next").mkdir()
    with writing_to(root):
        assert files(root) == {"a": "1"}
        assert not (workplace / "next").exists()


def test_one_process_at_a_time(tmp_path):
    def other(queue):
        try:
            with writing_to(tmp_path / "data"):
                queue.put("got in")
        except UserError as error:
            queue.put(str(error))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with writing_to(tmp_path / "data"):
        process = context.Process(target=other, args=(queue,))
        process.start()
        assert "another process is recording there" in queue.get(timeout=30)
        process.join()


def test_folders_of_lerobot_may_be_links_and_other_links_stay_links(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for name in (
        "data/chunk-000/a",
        "videos/camera/chunk-000/b",
        "meta/episodes/chunk-000/c",
        "meta/d",
        "notes/e",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    whole = files(root)
    elsewhere.mkdir()
    for name in ("data", "videos/camera/chunk-000", "meta/episodes", "meta/d"):
        moved = (root / name).rename(elsewhere / name.replace("/", "_"))
        (root / name).symlink_to(moved)
    (root / "more").symlink_to(elsewhere)
    (root / "broken").symlink_to("nowhere")
    with writing_to(root):
        grow(root, "new", "1")
    assert files(root) == whole | {"new": "1"}
    assert not (root / "data").is_symlink() and (elsewhere / "data/chunk-000/a").exists()
    assert (root / "more").is_symlink() and (root / "broken").is_symlink()


def test_a_folder_that_cannot_be_replaced_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(type(tmp_path), "is_mount", lambda path: path.name == "data")
    with pytest.raises(UserError, match="data: a disk is mounted there"), writing_to(tmp_path / "data"):
        pytest.fail("went on")
    with writing_to(tmp_path / "data" / "in_it"):
        pass
