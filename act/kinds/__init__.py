"""Kinds of imitation policies by name. `policy.type` of a YAML chooses one; the default is `act`.

A kind is a module `act/kinds/<name>.py` that says `KIND = <an object of the shape Kind>`. It is imported when
it is asked for. To add one, write that module; nothing else names it. `policy` below is
LeRobot's `PreTrainedPolicy` of that type.
"""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.by_name import choose, modules_with, with_settings

if TYPE_CHECKING:
    import torch
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.types import PolicyFeature
    from lerobot.policies.pretrained import PreTrainedPolicy
    from torch import nn

    from act.optimizer import OptimizerConfig

DEFAULT = "act"
# All of LeRobot's. Its own default leaves ENV out, which would enter in its own units.
FEATURE_TYPES = ("VISUAL", "STATE", "ENV", "ACTION")
Batch = dict[str, "torch.Tensor"]


class Kind(Protocol):
    """What training and playing need to know of a policy."""

    title: str  # in sentences: "ACT"
    settings: type  # dataclass, the `policy:` of a YAML; with `type` and `inputs`
    needed: tuple[str, ...]  # of LeRobot's configuration beside these, where a checkpoint must not omit it
    metrics: tuple[str, ...]  # TensorBoard's names of what the loss returns; the first is minimised
    language: tuple[str, ...]  # inputs that its preprocessor makes of a batch's "task", sentences; or none

    def make_config(
        self,
        settings: Any,
        features: dict[str, "PolicyFeature"],
        optimizer: "OptimizerConfig",
        device: str,
    ) -> "PreTrainedConfig":
        """LeRobot's configuration of the policy that `settings` describe.

        Its `observation_delta_indices` and `action_delta_indices` say which frames make a sample.

        Args:
            settings: of the class `settings`.
            features: of the dataset, in LeRobot's form.
            optimizer: its learning rates stand in LeRobot's configuration too.
            device: of the network.

        Raises:
            UserError: the dataset lacks what the policy is to see.
        """
        ...

    def make_policy(
        self, config: "PreTrainedConfig", settings: Any, seed: int, saved: dict[str, Any] | None
    ) -> tuple["PreTrainedPolicy", str]:
        """A policy to train, on the CPU.

        Args:
            config: LeRobot's.
            settings: of the class `settings`.
            seed: of its weights, and of everything that draws from the global generators from here on.
            saved: `trainer.json` of the checkpoint whose weights will be loaded, {} where LeRobot wrote it;
                None: there is no checkpoint.

        Returns:
            the policy and, in words, what it begins with.
        """
        ...

    def measure_data(self, policy: "PreTrainedPolicy", batches: Iterable[Batch]) -> None:
        """Give a new policy what it needs to know of its data; `batches` are all samples, each once."""
        ...

    def least_size(self, config: "PreTrainedConfig") -> tuple[int, int, int]:
        """Lower bounds of numbers: in the weights, trained, and kept per sample until its gradient is there.

        Called before the policy is built.
        """
        ...

    def open_policy(self, config: "PreTrainedConfig") -> "PreTrainedPolicy":
        """A policy to play, whose weights will be loaded."""
        ...

    def make_loss(self, policy: "PreTrainedPolicy") -> "nn.Module":
        """The training loss: (batch, num_valid, batch_size) -> (len(metrics),) float32.

        Called with a piece of a batch, it returns that piece's share: the shares add up to the batch's.
        `num_valid` () counts the numbers in the whole batch's actions that are no padding; `batch_size` its
        samples.
        """
        ...

    def speed_up(self, policy: "PreTrainedPolicy") -> None:
        """Change how the policy computes, not what."""
        ...

    def noise_shape(self, config: "PreTrainedConfig") -> tuple[int, ...] | None:
        """Of the noise that a chunk is made of, drawn from N(0, I); None: there is none."""
        ...

    def chunks(
        self, policy: "PreTrainedPolicy", inputs: Batch, noise: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """Normalised inputs of n slots -> normalised actions (n, T, A), the first of them for this step.

        Args:
            policy: on its device.
            inputs: (n, ...) each.
            noise: (n, *noise_shape); None where there is none.
        """
        ...

    def export(self, policy: "PreTrainedPolicy") -> "PreTrainedPolicy":
        """The policy as LeRobot opens it. Draws from no random generator."""
        ...

    def smallest_batch(self, policy: "PreTrainedPolicy") -> int:
        """Samples that a batch must have at least."""
        ...

    def measure_norms(self, policy: "PreTrainedPolicy", batches: Iterable[Batch]) -> None:
        """Measure the statistics of the policy's trained batch norms on these batches."""
        ...


class PlainKind:
    """What kinds have in common whose policy LeRobot opens as it is trained, and that have no batch norms."""

    language: tuple[str, ...] = ()

    def measure_data(self, policy: Any, batches: Iterable[Batch]) -> None:
        """LeRobot's processors know it."""

    def speed_up(self, policy: Any) -> None:
        """There is nothing to."""

    def export(self, policy: Any) -> Any:
        return policy

    def smallest_batch(self, policy: Any) -> int:
        return 1

    def measure_norms(self, policy: Any, batches: Iterable[Batch]) -> None:
        """There are none."""


def lerobot_settings(settings: Any, *without: str) -> dict[str, Any]:
    """The settings that LeRobot's configuration has too, by name: all but type, inputs and `without`."""
    return {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name not in ("type", "inputs", *without)
    }


def check_n_action_steps(settings: Any) -> None:
    """Raise ValueError where more steps are to be played than are predicted."""
    played, predicted = settings.n_action_steps, settings.chunk_size
    if played > predicted:
        raise ValueError(f"n_action_steps must be at most chunk_size, {predicted}, got {played}")


def chunk_size(config: "PreTrainedConfig") -> int:
    """Actions of a chunk from this step on."""
    return sum(index >= 0 for index in config.action_delta_indices or [0])


def names() -> list[str]:
    """Names of all kinds."""
    return list(_modules())


def names_in_words() -> str:
    """`act, diffusion, flow or smolvla`."""
    *others, last = names()
    return f"{', '.join(others)} or {last}"


def find_kind(name: str) -> Kind:
    """The kind of this name.

    Raises:
        UserError: there is none, or a package that it needs is not installed.
    """
    return choose("policy.type", name, _modules(), "KIND")


def with_kind[Config](config_class: type[Config], name: str) -> type[Config]:
    """A script's config class with this kind's settings as its `policy`."""
    return with_settings(config_class, {"policy": find_kind(name).settings})


def _modules() -> dict[str, str]:
    files = [file for folder in __path__ for file in Path(folder).glob("*.py")]
    return modules_with("KIND", [(file.stem, f"{__name__}.{file.stem}", file) for file in files])
