"""Opens checkpoints in LeRobot's layout, perhaps a stranger's, without running anything that they name.

LeRobot's own `from_pretrained` imports and calls whatever a processor's `class` names. Here a processor has
only the steps listed below, with settings that LeRobot saves for them. `common.untrusted` reads the files.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import draccus
import numpy as np
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.train import TrainPipelineConfig, _migrate_legacy_rabc_fields
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import _reconnect_relative_absolute_steps
from lerobot.processor import (
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    TokenizerProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import (
    batch_to_transition,
    policy_action_to_transition,
    transition_to_batch,
    transition_to_policy_action,
)
from lerobot.utils.constants import ACTION

from act.vlm import read_sizes
from common.errors import UserError, reason, show
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
STATISTICS = {  # of each way to normalise
    NormalizationMode.MEAN_STD: ("mean", "std"),
    NormalizationMode.MIN_MAX: ("min", "max"),
    NormalizationMode.QUANTILES: ("q01", "q99"),
    NormalizationMode.QUANTILE10: ("q10", "q90"),
}
LARGEST_EPS = 1e-3  # added to standard deviations; LeRobot's is 1e-8
MOST_TOKENS = 1_024  # of a sentence


@contextmanager
def opening(refusal: str) -> Iterator[None]:
    """What draccus, LeRobot and PyTorch raise, of many kinds, becomes a UserError: `refusal: why`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{refusal}: {reason(error.__cause__ or error)}") from None  # draccus hides the cause


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
    steps = load_json(file).get("steps")
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
        renamed = settings.get("rename_map", {})
        if not isinstance(renamed, dict) or not all(isinstance(new, str) for new in renamed.values()):
            raise UserError(f"{where}: rename_map must give names for names, got {show(renamed)}")
        if name == "tokenizer_processor":
            _check_tokenizer(settings, where)
        checked.append({"registry_name": name, "config": dict(settings)})
        if state is not None:
            if not isinstance(state, str) or not re.fullmatch(r"[\w.-]+\.safetensors", state):
                raise UserError(f"{where}: state_file must name a .safetensors beside it, got {show(state)}")
            checked[-1]["state_file"] = state
            states[state.removesuffix(".safetensors")] = load_tensors(file.with_name(state))
    return {"name": file.stem, "steps": checked}, states


def _check_tokenizer(settings: dict[str, Any], where: str) -> None:
    """Raise UserError where it is not one that SmolVLA may have; what it leaves out is LeRobot's default."""
    length = settings.get("max_length", MOST_TOKENS)
    if type(length) is not int or not 0 < length <= MOST_TOKENS:
        raise UserError(f"{where}: max_length must be from 1 to {MOST_TOKENS}, got {show(length)}")
    if settings.get("task_key", "task") != "task":
        raise UserError(f"{where}: task_key must be task, got {show(settings['task_key'])}")
    if not isinstance(name := settings.get("tokenizer_name"), str):
        raise UserError(f"{where}: tokenizer_name must be a name, got {show(name)}")
    try:
        read_sizes(name)
    except UserError as error:
        raise UserError(f"{where}: tokenizer_name: {error}") from None


def check_tokenizer(
    config: PreTrainedConfig, reads: bool, preprocessor: PolicyProcessorPipeline, folder: Path
) -> None:
    """Refuse a preprocessor that has no tokenizer, several, or another than the policy was built with.

    Args:
        config: of the policy.
        reads: the policy has language among its inputs.
        preprocessor: of the policy.
        folder: of the policy, to open an error with.

    Raises:
        UserError: says which.
    """
    file = folder / f"{preprocessor.name}.json"
    steps: list[Any] = [step for step in preprocessor.steps if isinstance(step, TokenizerProcessorStep)]
    if len(steps) != int(reads):
        raise UserError(f"{file}: must have {'one tokenizer' if reads else 'no tokenizer'}, got {len(steps)}")
    wanted = getattr(config, "vlm_model_name", None)
    if reads and steps[0].tokenizer_name != wanted:
        raise UserError(
            f"{file}: tokenizer_name must be {wanted}, the policy's, got {show(steps[0].tokenizer_name)}"
        )


def check_normalised(
    config: PreTrainedConfig, pipelines: Sequence[PolicyProcessorPipeline], folder: Path
) -> None:
    """Refuse processors that do not convert a policy's inputs and actions as its configuration says.

    Where a step, a feature or its statistics are missing, LeRobot passes on other units without a warning.

    Args:
        config: of the policy.
        pipelines: before and after it.
        folder: of the policy, to open an error with.

    Raises:
        UserError: names what is not normalised as `config.json` says, or renamed.
    """
    sides = (
        (config.input_features, NormalizerProcessorStep),
        (config.output_features, UnnormalizerProcessorStep),
    )
    modes = getattr(config, "normalization_mapping", {})
    relative, absolute = (sum(getattr(step, "enabled", False) for step in each.steps) for each in pipelines)
    if relative != absolute:
        raise UserError(f"{folder}: its actions are made relative, and not absolute again, or the other way")
    for pipeline, (features, kind) in zip(pipelines, sides, strict=True):
        file = folder / f"{pipeline.name}.json"
        normalizers = [step for step in pipeline.steps if isinstance(step, kind)]
        for name, feature in (features or {}).items():
            mode = NormalizationMode(modes.get(feature.type.value, NormalizationMode.IDENTITY))
            if mode in STATISTICS and [_normalises(s, name, feature, mode) for s in normalizers] != [True]:
                raise UserError(
                    f"{file}: has not what normalises {name} by {mode.value}, as config.json says"
                )
        for step in pipeline.steps:
            renamed = getattr(step, "rename_map", {}).keys() & (features or {})
            if renamed:
                raise UserError(f"{file}: rename_map takes away {min(renamed)}, which the policy looks at")


def _normalises(step: Any, name: str, feature: PolicyFeature, mode: NormalizationMode) -> bool:
    """Whether a normaliser has what it needs for a feature: statistics of each of its numbers or channels."""
    size = feature.shape[0] if feature.type is FeatureType.VISUAL else math.prod(feature.shape)
    stats = [np.asarray(step.stats.get(name, {}).get(kind, math.nan)) for kind in STATISTICS[mode]]
    whole = all(values.size == size and np.isfinite(values).all() for values in stats)
    whole = whole and not (mode is NormalizationMode.MEAN_STD and (stats[1] < 0).any())
    meant = step.normalize_observation_keys is None or name in step.normalize_observation_keys
    whole = whole and step.eps <= LARGEST_EPS
    return whole and meant and name in step.features and step.norm_map.get(feature.type) is mode


def check_complete(settings: type, content: dict[str, Any], source: str, needed: Sequence[str] = ()) -> None:
    """Refuse a policy's description that leaves to LeRobot's defaults what they may get wrong.

    Names that LeRobot alone knows are not needed: its versions have others.

    Args:
        settings: of the kind of policy. What LeRobot has too is needed, and what the policy sees and does.
        content: of a `config.json`, or `policy` of a `train_config.json`.
        source: to open an error with.
        needed: what else the kind needs.

    Raises:
        UserError: something is missing.
    """
    chosen = {field.name for field in fields(settings)} | {"input_features", "output_features", *needed}
    known = [field.name for field in fields(PreTrainedConfig.get_choice_class(content["type"]))]
    if missing := [name for name in known if name in chosen and name not in content]:
        raise UserError(
            f"{source}{', '.join(missing)[:150]} missing, without which the policy cannot be opened"
        )
    if not isinstance(outputs := content["output_features"], dict) or ACTION not in outputs:
        raise UserError(f"{source}output_features has no {ACTION}, so it is not a policy that acts")


def decode_policy_config(content: dict[str, Any]) -> PreTrainedConfig:
    """What LeRobot's `PreTrainedConfig.from_pretrained` makes of a `config.json`, without its temporary file.

    Raises:
        Exception: draccus' and LeRobot's, of many kinds.
    """
    kind = PreTrainedConfig.get_choice_class(content["type"])
    return draccus.decode(kind, {name: value for name, value in content.items() if name != "type"})


def decode_pipeline_config(content: dict[str, Any]) -> TrainPipelineConfig:
    """What LeRobot's `TrainPipelineConfig.from_pretrained` makes of a `train_config.json`.

    Raises:
        Exception: as `decode_policy_config`.
    """
    return draccus.decode(TrainPipelineConfig, _migrate_legacy_rabc_fields(content) or content)
