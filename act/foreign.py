"""Opens checkpoints in LeRobot's layout, perhaps a stranger's, without running anything that they name.

LeRobot's own `from_pretrained` imports and calls whatever a processor's `class` names. Here a processor has
only the steps listed below, with settings that LeRobot saves for them. `common.untrusted` reads the files.
"""

import re
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig, _migrate_legacy_rabc_fields
from lerobot.policies.factory import _reconnect_relative_absolute_steps
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import (
    batch_to_transition,
    policy_action_to_transition,
    transition_to_batch,
    transition_to_policy_action,
)

from common.errors import UserError, show
from common.untrusted import load_json, load_tensors

NORMALIZER = {"eps", "features", "norm_map", "normalize_observation_keys"}
STEPS = {  # registry name -> the settings that LeRobot saves
    "rename_observations_processor": {"rename_map"},
    "to_batch_processor": set(),
    "device_processor": {"device", "float_dtype"},
    "normalizer_processor": NORMALIZER,
    "unnormalizer_processor": NORMALIZER,
    "relative_actions_processor": {"enabled", "exclude_joints", "action_names"},
    "absolute_actions_processor": {"enabled"},
    "smolvla_new_line_processor": set(),
    "tokenizer_processor": {
        *("tokenizer_name", "max_length", "task_key", "padding_side", "padding", "truncation"),
    },
}
TOKENIZERS = ("HuggingFaceTB/SmolVLM2-500M-Video-Instruct",)  # SmolVLA's; others may bring code


def load_processors(folder: Path, device: str) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """What LeRobot's `make_pre_post_processors` opens.

    Args:
        folder: of the policy.
        device: of the network; actions come back to the CPU.

    Raises:
        UserError: a file is missing or damaged, or has a step that is not one of `STEPS`.
        Exception: LeRobot's, of many kinds: a step cannot be made with its settings.
    """
    pipelines: list[Any] = []
    parts: tuple[tuple[str, str, Any, Any], ...] = (
        ("policy_preprocessor", device, batch_to_transition, transition_to_batch),
        ("policy_postprocessor", "cpu", policy_action_to_transition, transition_to_policy_action),
    )
    for name, target, to_transition, to_output in parts:
        config, states = read_processor(folder / f"{name}.json")
        for step in config["steps"]:
            if step["registry_name"] == "device_processor":
                step["config"]["device"] = target
        make: Any = PolicyProcessorPipeline.from_config
        pipelines.append(make(config, state_dict=states, to_transition=to_transition, to_output=to_output))
    preprocessor, postprocessor = pipelines
    _reconnect_relative_absolute_steps(preprocessor, postprocessor)
    return preprocessor, postprocessor


def read_processor(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A processor as LeRobot's `from_config` takes it: its settings, and its steps' tensors by file.

    Raises:
        UserError: a file is missing or damaged, or has a step that is not one of `STEPS`.
    """
    content = load_json(file)
    steps = content.get("steps") if isinstance(content, dict) else None
    if not isinstance(steps, list):
        raise UserError(f"{file}: not one of LeRobot's processors, which have a list of steps")
    checked, states = [], {}
    for number, step in enumerate(steps):
        where, step = f"{file}: step {number}", step if isinstance(step, dict) else {}
        name, settings, state = step.get("registry_name"), step.get("config", {}), step.get("state_file")
        if not isinstance(name, str) or name not in STEPS or "class" in step:
            what = step.get("class", name)
            raise UserError(f"{where} is {show(what)}, which is not opened, because it could run code")
        if not isinstance(settings, dict) or not settings.keys() <= STEPS[name]:
            raise UserError(f"{where}, {name}, has other settings than LeRobot's: {show(settings)}")
        if settings.get("tokenizer_name", TOKENIZERS[0]) not in TOKENIZERS:
            raise UserError(f"{where}: tokenizer_name must be {TOKENIZERS[0]}")
        checked.append({"registry_name": name, "config": dict(settings)})
        if state is not None:
            if not isinstance(state, str) or not re.fullmatch(r"[\w.-]+\.safetensors", state):
                raise UserError(f"{where}: state_file must name a .safetensors beside it, got {show(state)}")
            checked[-1]["state_file"] = state
            states[state.removesuffix(".safetensors")] = load_tensors(file.with_name(state))
    return {"name": file.stem, "steps": checked}, states


def policy_config(content: dict[str, Any]) -> PreTrainedConfig:
    """What LeRobot's `PreTrainedConfig.from_pretrained` makes of a `config.json`, without its temporary file.

    Raises:
        Exception: draccus' and LeRobot's, of many kinds.
    """
    kind = PreTrainedConfig.get_choice_class(content["type"])
    return draccus.decode(kind, {name: value for name, value in content.items() if name != "type"})


def pipeline_config(content: dict[str, Any]) -> TrainPipelineConfig:
    """What LeRobot's `TrainPipelineConfig.from_pretrained` makes of a `train_config.json`.

    Raises:
        Exception: as `policy_config`.
    """
    return draccus.decode(TrainPipelineConfig, _migrate_legacy_rabc_fields(content) or content)
