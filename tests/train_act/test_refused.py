"""Training ACT from the command line: misused."""

import pytest

import train_act
from act.checkpoint import find_training
from common.config import load_yaml
from common.errors import UserError
from common.run import only_process_in
from tests.train_act.runs import command_line

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ("--dataset.root", "nowhere"),
            "nowhere: no such folder; this command records it: python collect",
        ),
        (
            ("--policy.inputs", "observation.image", "observation.state"),
            "the dataset has no observation.image",
        ),
        (("--policy.n-action-steps", "8"), "policy.n_action_steps must be at most chunk_size, 7, got 8"),
        (("--dataset.episodes", "4"), "dataset.episodes must be at most 3, all of"),
        (("--start-from", "nowhere"), "nowhere: no such folder; --start-from takes a checkpoint"),
        (("--policy.hidden-dim", "8"), "unknown flag --policy.hidden-dim; did you mean --policy.dim-model?"),
        (("--push-to-hub", "pusht"), "push_to_hub must be of the form user/policy, got pusht"),
        (("--dataset.root", "None", "--dataset.repo-id", "a/b"), "is that its name, and is there a network?"),
        (("--start-from", "assets/sac_expert"), "assets/sac_expert: holds no training, ours"),
        (("--seed", "4294967296"), "seed must be at most 4294967295"),
        (("--threads", "100000"), "threads must be at most 256, got 100000"),
        (("--policy.inputs", "observation.state", "observation.state"), "policy.inputs must have"),
        (("--task", "pendulum"), "has 10 frames per second, Pendulum-v1 has 20"),
        (("--task", "pushd"), "task must be one of"),
        (("--policy.type", "flow"), "settings of policy.type act, not flow: leave --policy.type out or"),
        (("--policy.type", "flaw"), "one of act, diffusion, flow, smolvla, got 'flaw'; did you mean flow?"),
        (("--steps", "0"), "steps must be at least 1, got 0"),
        (("--optimizer.lr", "1e30"), "is not finite after"),
    ],
)
def test_bad_input_is_a_sentence(refused, flags, message):
    assert message in refused(*flags)


def test_a_refused_start_claims_no_name(train, refused, tmp_path):
    refused("--dataset.root", "nowhere")
    refused("--start-from", "nowhere")
    refused("--optimizer.lr", "1e30")
    assert train("--steps", "1")
    assert load_yaml(tmp_path / "run" / "config.yaml")["optimizer"]["lr"] == 1e-3


def test_fewer_steps_than_it_has_had(train, refused, tmp_path):
    train("--steps", "2")
    last = tmp_path / "run" / "checkpoints" / "last"
    trained = f"{last} has been trained for 2 steps already: steps must be more, got 1"
    assert refused("--steps", "1") == trained
    assert load_yaml(tmp_path / "run" / "config.yaml")["steps"] == 2


def test_a_run_goes_on_only_as_it_was(train, refused, make_dataset, tmp_path):
    train("--steps", "4")
    assert "was trained with another configuration (batch_size: 4 -> 8)" in refused("--batch-size", "8")
    other = make_dataset(tmp_path / "other", lengths=(9, 5, 11))
    assert "trained on another dataset" in refused("--dataset.root", str(other))
    with only_process_in(tmp_path / "run"):
        assert "another process is training there" in refused()
    train("--no-resume", "--steps", "4")
    assert (tmp_path / "run_2" / "checkpoints" / "last").exists()


def test_a_dataset_of_another_state_is_refused_before_it_is_decoded(
    refused, make_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("act.frames.read_vectors", lambda *_: pytest.fail("decoded"))
    root = make_dataset(tmp_path / "other_state", state_size=7)
    assert "looks at observation.state (7,), which PushT does not show" in refused(
        "--dataset.root", str(root)
    )


@pytest.mark.parametrize("batch_size", [4, 1])
def test_a_batch_too_small_for_batch_norms_is_a_sentence(make_dataset, tmp_path, tiny, capfd, batch_size):
    root = make_dataset(tmp_path / "pictures", lengths=(5, 4), pictures=32, keypoints=False)
    with pytest.raises(SystemExit):
        train_act.main(command_line(tiny, root, tmp_path, "--batch-size", str(batch_size)))
    assert f"batch_size {batch_size} leaves 1 of 9 samples for the last batch" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer_state.safetensors", "trainer.safetensors"])
def test_a_damaged_checkpoint_is_a_sentence(train, refused, tmp_path, name):
    train("--steps", "2")
    (file,) = (tmp_path / "run" / "checkpoints" / "last").glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-50])
    message = refused()
    assert str(tmp_path / "run" / "checkpoints" / "last") in message and "deserializing" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer.json", "[]", "trainer.json: damaged"),
        ("trainer.json", '{"epoch": 0}', "trainer.json: drawn is missing"),
        ("training_step.json", '{"step": -1}', "training_step.json: step must not be negative, got -1"),
    ],
)
def test_a_checkpoint_that_tells_nonsense_is_a_sentence(train, refused, tmp_path, name, content, message):
    train("--steps", "2")
    (tmp_path / "run" / "checkpoints" / "last" / "training_state" / name).write_text(content)
    assert message in refused()


def test_a_finished_policy_that_cannot_be_published_is_finished(train, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as stopped:
        train("--steps", "1", "--push-to-hub", "me/act")
    said = capfd.readouterr()
    assert stopped.value.code == 2 and "finished. Play it" in said.out
    assert (
        said.err.startswith("error: me/act: could not be uploaded (") and "the policy is whole at" in said.err
    )


@pytest.mark.parametrize("names", [("step_00000900", "step_00001000"), ("000900", "1000000")])
def test_a_run_copied_without_links_is_started_from_at_its_newest_whole_checkpoint(tmp_path, names):
    for name in names:
        (tmp_path / "checkpoints" / name / "training_state").mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "pretrained_model").mkdir()
        (tmp_path / "checkpoints" / name / "pretrained_model" / "train_config.json").touch()
    (tmp_path / "checkpoints" / "step_00002000" / "pretrained_model").mkdir(parents=True)
    newest = tmp_path / "checkpoints" / names[1]
    assert (
        find_training(tmp_path)
        == find_training(newest)
        == find_training(newest / "pretrained_model")
        == newest
    )


@pytest.mark.parametrize(
    ("flags", "needs"),
    [
        (("--policy.dim-model", "8192"), "this policy with batch_size 4"),
        (("--policy.chunk-size", "9999"), "this policy with batch_size 4"),
        (("--batch-size", "9000000"), "this policy with batch_size 9000000"),
    ],
)
def test_what_does_not_fit_is_told_before_it_is_built(refused, monkeypatch, flags, needs):
    monkeypatch.setattr("common.memory.free_bytes", lambda device: 1e8)
    monkeypatch.setattr("act.kinds.act.ACT.make_policy", lambda *_: pytest.fail("built"))
    assert refused(*flags).startswith(f"{needs} does not fit into the memory: it needs at least ")


def test_chunks_longer_than_every_episode_are_worth_a_warning(train, capfd):
    train("--steps", "1", "--policy.chunk-size", "13")
    warning = (
        "warning: a chunk of 13 steps is longer than every episode (the longest has 12 frames, the mean 8.7"
    )
    assert warning in capfd.readouterr().err


@pytest.mark.parametrize(
    ("yaml", "wanted", "refusal"),
    [
        ("policy: {type: flow}", "act", "has settings of policy.type flow, not act"),
        ("policy.type: flow", "act", "has settings of policy.type flow, not act"),
        ("policy: {dim_model: 64}", "flow", "has settings of policy.type act, not flow"),
        ("policy: {n_action_steps: 4}", "flow", ""),  # which both have
        ("policy:", "flow", ""),
        ("steps: 5", "diffusion", ""),
    ],
)
def test_a_configuration_is_of_one_kind_of_policy(yaml, wanted, refusal, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(f"dataset: {{root: data/any}}\n{yaml}\n")
    flags = ["--config", str(tmp_path / "config.yaml"), "--policy.type", wanted]
    if refusal:
        with pytest.raises(UserError, match=refusal):
            train_act.read_config(flags)
    else:
        assert train_act.read_config(flags).policy.type == wanted
