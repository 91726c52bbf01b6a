"""A stranger's policy runs nothing, whatever its files say: none of the forms makes its file."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies import make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from safetensors.torch import load_file, save_file

import collect_dataset
import evaluate
from act.foreign import decode_pipeline_config, decode_policy_config, load_processors
from common.untrusted import load_json
from policies import load_policy
from tests.security.payloads import CALLS, MARK, STEPS, TEXTS, pickled

FILES = ("policy_preprocessor.json", "policy_postprocessor.json")


@pytest.fixture
def mark(policy, tmp_path, monkeypatch):
    """The file that a payload would make; what payloads need lies beside the policy, where one stands too."""
    mark = tmp_path / "MARK"
    (policy / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Step: pass\n")
    for name in ("evil.pkl", "evil.safetensors", "pytorch_model.bin"):
        (policy / name).write_bytes(pickled(str(mark)))
    (policy.parent / "evil.safetensors").write_bytes(pickled(str(mark)))
    monkeypatch.chdir(policy)
    monkeypatch.syspath_prepend(str(policy))
    yield mark
    sys.modules.pop("evil", None)
    assert not mark.exists()


def put(file: Path, text: str, mark: Path) -> None:
    file.write_text(text.replace(MARK, str(mark)), encoding="utf-8")


def add_step(file: Path, step, mark: Path) -> None:
    content = json.loads(file.read_text())
    put(file, json.dumps(content | {"steps": [*content["steps"], step]}), mark)


def test_the_payloads_are_live(policy, tmp_path):
    """LeRobot's own way to open them makes the file."""
    add_step(policy / FILES[0], CALLS["open"], tmp_path / "MARK")
    with pytest.raises(Exception):  # noqa: B017  after the call
        PolicyProcessorPipeline.from_pretrained(policy, config_filename=FILES[0])
    assert (tmp_path / "MARK").exists()


@pytest.mark.slow
def test_what_is_lerobots_is_opened_as_lerobot_opens_it(policy, trainings):
    ours = load_processors(policy, "cpu")
    config = PreTrainedConfig.from_pretrained(policy)
    assert decode_policy_config(load_json(policy / "config.json")) == config
    for one, other in zip(ours, make_pre_post_processors(config, str(policy)), strict=True):
        assert one.get_config() == other.get_config()
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
        assert (one.to_transition, one.to_output) == (other.to_transition, other.to_output)

    folder = trainings[0] / "act/run/checkpoints/last/pretrained_model"
    training = load_json(folder / "train_config.json")
    assert decode_pipeline_config(training) == TrainPipelineConfig.from_pretrained(folder)
    assert decode_pipeline_config(training | {"use_rabc": False}) == decode_pipeline_config(training)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_no_step_but_lerobots_own_is_made(policy, mark, told, file, step):
    add_step(policy / file, step, mark)
    os.mkfifo(policy / "pipe.safetensors")
    assert str(policy) in told(load_policy, policy)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_processor_but_lerobots_own_is_opened(policy, mark, told, file, text):
    put(policy / file, text, mark)
    assert file in told(load_policy, policy)


@pytest.mark.parametrize("name", ["Popen", "exec", "torch.load", "an own module"])
@pytest.mark.parametrize(
    "door",
    [
        lambda policy: evaluate.main(["--policy", str(policy), "--episodes", "1"]),
        lambda policy: collect_dataset.main(["--policy", str(policy), "--root", str(policy.parent / "data")]),
    ],
    ids=["evaluate", "collect_dataset"],
)
def test_every_script_opens_it_that_way(policy, mark, told, name, door):
    add_step(policy / FILES[1], CALLS[name], mark)
    assert "could run code" in told(door, policy)


CONFIGS = {  # changes of config.json
    "a plugin's type": {"type": "evil"},
    "a path as type": {"type": "../evil"},
    "another policy of LeRobot's": {"type": "pi0"},
    "a list as type": {"type": ["act"]},
    "no type": {"type": None},
    "auto_map": {"auto_map": {"AutoModel": "evil.Step"}},
    "no function of torchvision": {"vision_backbone": "../evil"},
    "a target": {"_target_": "evil.Step"},
    "normalised otherwise": {"normalization_mapping": {"STATE": {"class": "evil.Step"}}},
    "features of no type": {"input_features": {"observation.state": {"type": "evil", "shape": [2]}}},
    "no features": {"input_features": None, "output_features": None},
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_imports_nothing(policy, mark, told, change):
    content = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(content | change))
    assert str(policy) in told(load_policy, policy)


@pytest.mark.parametrize(
    "change",
    [
        {"pretrained_backbone_weights": "http://127.0.0.1:9/evil.pth"},
        {"use_peft": True, "pretrained_path": "evil/adapter"},
        {"repo_id": "evil/policy", "push_to_hub": True},
    ],
    ids=["backbone", "adapter", "push"],
)
def test_what_a_configuration_points_to_is_not_fetched(policy, mark, change):
    """It plays as it does without."""
    content = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(content | change))
    (policy / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/base"}')
    assert load_policy(policy).n_action_steps == 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", *FILES])
@pytest.mark.parametrize("how", ["pickle", "pipe", "folder", "device", "loop"])
def test_a_file_of_another_kind_is_a_sentence(policy, mark, told, name, how):
    path = policy / name
    path.unlink()
    if how == "pickle":
        path.write_bytes(pickled(str(mark)))
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if how == "device" else path)
    assert str(policy) in told(load_policy, policy)


def test_opening_leaves_no_file_behind(policy, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = sorted(policy.rglob("*"))
    load_policy(policy)
    assert sorted(policy.rglob("*")) == before and not list((tmp_path / "temporary").iterdir())


def test_a_policy_that_cannot_act_is_a_sentence(policy, told):
    """Each of its parts is whole, and they do not fit together."""
    for change, said in (
        ({"rename_map": {"observation.state": "elsewhere"}}, "rename_map takes away observation.state"),
        ({"rename_map": ["observation.state"]}, "rename_map must give names for names, got ['obs"),
        ({"eps": float("nan")}, "has not what normalises observation.state"),
    ):
        file = policy / FILES[0]
        text, content = file.read_text(), json.loads(file.read_text())
        for step in content["steps"]:
            step["config"] |= {name: value for name, value in change.items() if name in step["config"]}
        file.write_text(json.dumps(content))
        assert said in told(load_policy, policy)
        file.write_text(text)


def test_what_lerobot_would_fill_in_is_needed_and_what_other_versions_lack_is_not(policy, told):
    """LeRobot's default for the number of heads opens the weights of another number and plays badly."""
    file = policy / "config.json"
    content = json.loads(file.read_text())
    others = {"device", "use_amp", "use_peft", "push_to_hub", "repo_id", "private", "tags", "license"}
    others |= {
        "pretrained_path",
        "pretrained_revision",
        "pretrained_backbone_weights",
        "normalization_mapping",
    }
    others |= {name for name in content if name.startswith("optimizer_")}
    for name in content.keys() - others - {"type"}:
        file.write_text(json.dumps({key: value for key, value in content.items() if key != name}))
        assert f"config.json: {name} missing" in told(load_policy, policy)
    file.write_text(json.dumps({key: value for key, value in content.items() if key not in others}))
    assert load_policy(policy).n_action_steps == 3
    for change, said in (
        ({"output_features": {"other": content["output_features"]["action"]}}, "has no action"),
        ({"n_action_steps": True}, "n_action_steps must be int, got true"),
    ):
        file.write_text(json.dumps(content | change))
        assert said in told(load_policy, policy)


def rewrite_statistics(change):
    def rewrite(step, folder):
        file = folder / step["state_file"]
        save_file({name: change(values) for name, values in load_file(file).items()}, file)

    return rewrite


def twice(steps, _):
    steps += [step for step in steps if step["registry_name"].endswith("normalizer_processor")]


UNNORMALISED = {  # changes of the step that normalises
    "no step": lambda step, _: [step.clear(), step.update(registry_name="to_batch_processor", config={})],
    "twice": twice,
    "no statistics": lambda step, _: step.pop("state_file"),
    "no feature": lambda step, _: step["config"].update(features={}),
    "no way": lambda step, _: step["config"].update(norm_map={}),
    "another way": lambda step, _: step["config"].update(
        norm_map=dict.fromkeys(step["config"]["norm_map"], "MIN_MAX")
    ),
    "other keys": lambda step, _: step["config"].update(normalize_observation_keys=["other"]),
    "of another": rewrite_statistics(lambda values: torch.cat([values, values])),
    "one for all": rewrite_statistics(lambda values: values[:1].clone()),
    "infinite": rewrite_statistics(lambda values: values / 0),
    "levelled": lambda step, _: step["config"].update(eps=1e9),
    "mirrored": rewrite_statistics(lambda values: -1 - values.abs()),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("change", UNNORMALISED.values(), ids=UNNORMALISED)
def test_what_is_not_normalised_as_the_policy_expects_is_a_sentence(policy, told, file, change):
    """LeRobot plays it, in other units."""
    content = json.loads((policy / file).read_text())
    (step,) = (step for step in content["steps"] if step["registry_name"].endswith("normalizer_processor"))
    change(content["steps"] if change is twice else step, policy)
    (policy / file).write_text(json.dumps(content))
    name = "observation.state" if file == FILES[0] else "action"
    assert f"{file}: has not what normalises {name} by MEAN_STD" in told(load_policy, policy)


@pytest.mark.parametrize(("file", "kind"), zip(FILES, ("relative", "absolute"), strict=True))
def test_actions_that_are_half_relative_are_a_sentence(policy, told, file, kind):
    content = json.loads((policy / file).read_text())
    step = {"registry_name": f"{kind}_actions_processor", "config": {"enabled": True}}
    (policy / file).write_text(json.dumps(content | {"steps": [*content["steps"], step]}))
    assert "made relative, and not absolute again" in told(load_policy, policy)
