"""What a stranger's run links to stays as it is: nothing is written, emptied or deleted through a link."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import evaluate
from act.checkpoint import publish
from common.checkpoint import Checkpoints, write_folder
from common.errors import UserError
from common.logger import Logger
from common.untrusted import append_text, new_file
from common.video import write_gif, write_video

pytestmark = pytest.mark.slow

NAMES = (
    *("evaluation_best.json", ".evaluation_best.json.partial", "plots/best_starts.png"),
    *(
        "plots/best_coverage.png",
        "plots/.best_starts.png.partial",
        ".config.yaml.partial",
        "config.partial",
        "wandb_id",
    ),
    *("metrics.csv", ".metrics.csv.partial", "metrics.partial"),
    *("videos/best_100000_success.mp4", "videos/best.gif", "videos/.partial_best_100000_failure.mp4"),
    *("checkpoints/.last.partial", "checkpoints/.best.partial"),
)
FRAME = np.zeros((16, 16, 3), np.uint8)
WAYS = {"link": os.symlink, "hard link": os.link}


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder of somebody's, which has to be the same afterwards."""
    folder = tmp_path / "elsewhere"
    (folder / "step_00000001").mkdir(parents=True)
    (folder / "step_00000001" / "thesis.txt").write_text("step,thesis\n1,mine\n")
    (folder / "thesis.txt").write_text("step,thesis\n1,mine\n")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def play(run: Path) -> None:
    evaluate.main(["--policy", str(run), "--episodes", "1", "--num-envs", "1", "--record", "--videos", "1"])


@pytest.mark.parametrize("way", WAYS)
def test_evaluation_and_training_write_through_no_link(run, resume, elsewhere, way):
    for name in NAMES:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        WAYS[way](elsewhere / "thesis.txt", path)
    play(run)
    assert resume(run)
    assert (run / "evaluation_best.json").stat().st_nlink == 1
    assert (run / "metrics.csv").read_text().startswith("step,thesis")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["config.yaml", "command.txt"])
def test_links_in_the_place_of_a_runs_own_words_are_refused(run, resume, elsewhere, told, name, way):
    (run / name).unlink()
    WAYS[way](elsewhere / "thesis.txt", run / name)
    assert name in told(resume, run)


@pytest.mark.parametrize("name", ["plots", "videos", "checkpoints"])
def test_folders_that_lead_elsewhere_are_left_alone(run, resume, elsewhere, told, name):
    if (run / name).exists():
        shutil.rmtree(run / name)
    (run / name).symlink_to(elsewhere)
    said = told(resume if name == "checkpoints" else play, run)
    assert f"{name}: leads out of" in said


def test_a_last_checkpoint_elsewhere_prunes_nothing(run, resume, tmp_path, told):
    checkpoints = run / "checkpoints"
    before = contents(checkpoints)
    moved = shutil.copytree((checkpoints / "last").resolve(), tmp_path / "moved" / "step_00000012")
    (checkpoints / "last").unlink()
    (checkpoints / "last").symlink_to(moved)
    assert "last: leads out of" in told(resume, run)
    (checkpoints / "last").unlink()
    (checkpoints / "last").symlink_to("step_00000012")
    assert contents(checkpoints) == before


def test_a_run_that_was_moved_and_linked_back_goes_on(run, resume, tmp_path):
    real = tmp_path / "disk" / "run"
    shutil.move(run, real)
    run.symlink_to(real)
    assert resume(run)
    assert (real / "checkpoints" / "last").readlink() == Path("step_00000014")


@pytest.mark.parametrize(
    "name", [".step_00000002.partial", "step_00000002", ".step_00000001.deleted.partial"]
)
def test_checkpoints_are_written_over_no_link(tmp_path, elsewhere, name):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "step")
    checkpoints.save(1, lambda folder: (folder / "a").touch())
    (checkpoints.folder / name).symlink_to(elsewhere)
    checkpoints.save(2, lambda folder: (folder / "a").touch())
    assert {path.name for path in (checkpoints.folder / "step_00000002").iterdir()} == {"a"}
    assert {path.name for path in checkpoints.folder.iterdir()} <= {"step_00000002", "last", name}


def test_links_to_themselves_are_no_trap(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "step")
    checkpoints.save(1, lambda folder: (folder / "a").touch())
    (checkpoints.folder / "best").symlink_to("best")
    (checkpoints.folder / "step_00000009").symlink_to("step_00000009")
    checkpoints.tidy()
    assert (checkpoints.folder / "last" / "a").exists()


@pytest.mark.parametrize(
    "name", ["step_by_step", "step_1_notes", "downloads.partial", ".mine.partial", "000010"]
)
def test_only_checkpoints_are_pruned(tmp_path, name):
    checkpoints = Checkpoints(tmp_path / "checkpoints", "step")
    (checkpoints.folder / name).mkdir(parents=True)
    for steps in (1, 2):
        checkpoints.save(steps, lambda folder: (folder / "a").touch())
    assert {path.name for path in checkpoints.folder.iterdir()} == {name, "step_00000002", "last"}


@pytest.mark.parametrize("way", WAYS)
def test_files_take_the_place_of_links(tmp_path, elsewhere, way):
    for name in ("film.gif", ".film.gif.partial", "film.mp4", ".partial_film.mp4"):
        WAYS[way](elsewhere / "thesis.txt", tmp_path / name)
    for name, write in (("film.gif", write_gif), ("film.mp4", write_video)):
        write(tmp_path / name, [FRAME, FRAME], fps=10)
        assert (tmp_path / name).stat().st_nlink == 1 and not (tmp_path / name).is_symlink()


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), new_file(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null"), Path.mkdir])
def test_nothing_is_added_to_what_is_no_file(tmp_path, make):
    make(tmp_path / "file")
    with pytest.raises(OSError):
        append_text(tmp_path / "file", "text")


@pytest.mark.parametrize("identity", ["../../x", "a/b", "", "a" * 65, "a\nb"])
def test_an_identity_at_wandb_is_no_path(tmp_path, identity):
    (tmp_path / "wandb_id").write_text(identity)
    with pytest.raises(UserError, match="wandb_id: not the id of a run"):
        Logger(tmp_path, wandb_project="project")


def test_a_failing_write_leaves_what_the_link_leads_to(tmp_path, elsewhere):
    (tmp_path / ".step_1.partial").symlink_to(elsewhere)

    def write(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError):
        write_folder(tmp_path / "step_1", write)


def test_what_a_link_leads_to_is_not_published(run, elsewhere, told):
    folder = (run / "checkpoints/last").resolve()
    (folder / "pretrained_model" / "README.md").symlink_to(elsewhere / "thesis.txt")
    assert "README.md: leads out of" in told(publish, "me/act", folder)
