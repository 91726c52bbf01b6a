import os
import shutil
from pathlib import Path

import pytest
import torch

from common import checkpoint, untrusted
from common.errors import UserError


def save(folder: Path, number: int) -> Path:
    """A checkpoint with something in it."""

    def write(into: Path) -> None:
        assert not path.exists()
        checkpoint.save_tensors(into / "model.safetensors", {"weight": torch.full((3,), float(number))})
        (into / checkpoint.TRAINING_STATE).mkdir()
        checkpoint.save_json(into / checkpoint.TRAINING_STATE / "counters.json", {"number": number})

    path = folder / f"step_{number}"
    checkpoint.write_folder(path, write)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_tensors_come_back_as_they_were(tmp_path):
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "plain": torch.tensor([1.5, float("nan"), -0.0]),
        "transposed": base.T,
        "slice": base[1:],
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "with_gradient": torch.ones(2, requires_grad=True),
    }
    checkpoint.save_tensors(tmp_path / "tensors", tensors)
    loaded = untrusted.load_tensors(tmp_path / "tensors")
    torch.testing.assert_close(
        loaded, {k: v.detach() for k, v in tensors.items()}, rtol=0, atol=0, equal_nan=True
    )


def test_a_folder_that_exists_is_left_alone(tmp_path):
    path = save(tmp_path, 1)
    checkpoint.write_folder(path, lambda folder: pytest.fail("written again"))
    assert untrusted.load_json(path / "training_state/counters.json") == {"number": 1}


def test_what_an_earlier_attempt_left_does_not_get_in(tmp_path):
    (tmp_path / ".step_1.partial").mkdir()
    (tmp_path / ".step_1.partial" / "leftover").touch()
    assert names(save(tmp_path, 1)) == {"model.safetensors", "training_state"}
    assert names(tmp_path) == {"step_1"}


def test_a_failing_disk_leaves_no_trace(tmp_path):
    def write(into: Path) -> None:
        (into / "half").touch()
        raise OSError(28, "No space left on device")

    save(tmp_path, 1)
    with pytest.raises(UserError, match="step_2: could not be written, earlier .* No space left"):
        checkpoint.write_folder(tmp_path / "step_2", write)
    assert names(tmp_path) == {"step_1"}


def test_a_link_is_never_missing(tmp_path, monkeypatch):
    last = tmp_path / "last"
    checkpoint.link(last, save(tmp_path, 1))
    new = save(tmp_path, 2)
    seen = []
    for method in ("unlink", "symlink_to", "replace"):
        original = getattr(Path, method)

        def watched(*arguments, original=original, **options):
            result = original(*arguments, **options)
            seen.append(last.resolve().name)
            return result

        monkeypatch.setattr(Path, method, watched)
    checkpoint.link(last, new)
    assert seen == ["step_1", "step_1", "step_2"]
    assert last.readlink() == Path("step_2")  # relative: a run may be moved


def test_a_link_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="last: could not be written, it leads where it led: .* too long"):
        checkpoint.link(tmp_path / f"{'x' * 300}last", save(tmp_path, 1))


def test_a_copied_checkpoint_makes_room_for_the_link(tmp_path):
    """As of `scp -r`, which follows links."""
    for number in (1, 2):
        save(tmp_path, number)
    shutil.copytree(tmp_path / "step_1", tmp_path / "last")
    checkpoint.link(tmp_path / "last", tmp_path / "step_2")
    assert (tmp_path / "last").readlink() == Path("step_2")
    assert names(tmp_path) == {"last", "step_1", "step_2"}


@pytest.fixture
def without_links(monkeypatch) -> None:
    def denied(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")  # exFAT's

    monkeypatch.setattr(os, "symlink", denied)


def test_without_links_a_text_leads_there(tmp_path, without_links, monkeypatch):
    last = tmp_path / "last"
    assert not checkpoint.has_links(tmp_path) and names(tmp_path) == set()
    for number in (1, 2):
        folder = save(tmp_path, number)
        checkpoint.link(last, folder)
        assert checkpoint.follow(last) == folder and last.read_text() == folder.name
    checkpoint.prune(tmp_path, keep=lambda path: False)
    assert names(tmp_path) == {"last", "step_2"}
    assert (tmp_path / "step_2" / checkpoint.TRAINING_STATE).exists()
    monkeypatch.undo()  # moved to another disk
    assert checkpoint.has_links(tmp_path)
    checkpoint.link(last, save(tmp_path, 3))
    assert last.is_symlink() and checkpoint.follow(last) == last


@pytest.mark.parametrize("text", ["", "../step_1", "..", "/etc", "step_1/x", "a\nb", "x" * 1000, "\x00"])
def test_only_a_name_is_followed(tmp_path, text):
    (tmp_path / "last").write_text(text)
    assert checkpoint.follow(tmp_path / "last") == tmp_path / "last"


def test_following_waits_for_nothing(tmp_path):
    os.mkfifo(tmp_path / "last")
    for path in (tmp_path / "last", tmp_path / "absent", tmp_path):
        assert checkpoint.follow(path) == path


def test_a_checkpoint_that_does_not_fit_is_told_before(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", "steps")
    free = shutil.disk_usage(tmp_path).free
    checkpoints.check_room(free // 2)
    with pytest.raises(UserError, match="a checkpoint takes .* MB, and its disk has .* MB left"):
        checkpoints.check_room(2 * free)


def test_prune_keeps_what_is_needed_and_no_more(tmp_path):
    for number in range(1, 6):
        save(tmp_path, number)
    checkpoint.link(tmp_path / "best", tmp_path / "step_2")
    checkpoint.link(tmp_path / "last", tmp_path / "step_4")
    (tmp_path / ".step_6.partial").mkdir()
    (tmp_path / ".best.partial").symlink_to("step_5")  # of a kill: it keeps nothing
    (tmp_path / "notes.txt").touch()
    checkpoint.prune(tmp_path, keep=lambda path: path.name == "step_1")
    kept = {"step_1", "step_2", "step_4"}
    assert names(tmp_path) - {".best.partial"} == kept | {"best", "last", "notes.txt"}
    with_state = {name for name in kept if (tmp_path / name / checkpoint.TRAINING_STATE).exists()}
    assert with_state == {"step_4"}
    assert all((tmp_path / name / "model.safetensors").exists() for name in kept)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_tensors_are_told(tmp_path, share):
    path = tmp_path / "model.safetensors"
    checkpoint.save_tensors(path, {"weight": torch.zeros(100)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="model.safetensors: damaged"):
        untrusted.load_tensors(path)


@pytest.mark.parametrize("content", ["", '{"a": ', "\x00\x00"])
def test_truncated_json_is_told(tmp_path, content):
    path = tmp_path / "counters.json"
    path.write_text(content)
    with pytest.raises(UserError, match="counters.json: damaged"):
        untrusted.load_json(path)


@pytest.mark.parametrize("load", [untrusted.load_tensors, untrusted.load_json])
def test_missing_files_and_folders_are_told(tmp_path, load):
    with pytest.raises(UserError, match="absent: missing"):
        load(tmp_path / "absent")
    with pytest.raises(UserError, match="damaged"):
        load(tmp_path)
