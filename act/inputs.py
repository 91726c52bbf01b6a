"""Which features of a dataset a policy looks at."""

from collections.abc import Sequence

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.utils.constants import OBS_ENV_STATE, OBS_STATE

from common.errors import UserError


def choose_inputs(
    available: dict[str, PolicyFeature],
    wanted: Sequence[str] = (),
    title: str = "ACT",
    state_suffices: bool = False,
) -> dict[str, PolicyFeature]:
    """The features of a dataset that a policy looks at.

    Left to itself LeRobot takes all of them: a dataset with pictures and `observation.environment_state`
    would show the simulator's state to a policy that is to see pictures only.

    Args:
        available: of the dataset, in LeRobot's form.
        wanted: names; none for every camera and `observation.state`, and where there is no camera
            `observation.environment_state`.
        title: of the policy, for errors.
        state_suffices: it may look at one state alone, or at one state beside pictures.

    Raises:
        UserError: the dataset lacks one, or the policy cannot look at it.
    """
    usable = {
        name: feature
        for name, feature in available.items()
        if feature.type is FeatureType.VISUAL or name in (OBS_STATE, OBS_ENV_STATE)
    }
    cameras = [name for name, feature in usable.items() if feature.type is FeatureType.VISUAL]
    names = list(wanted) or [*cameras, OBS_STATE, *([] if cameras else [OBS_ENV_STATE])]
    if state_suffices and not wanted:  # so a missing one is no error
        names = [name for name in names if name in usable]
    for name in names:
        if name not in available:
            raise UserError(f"the dataset has no {name}, it has {', '.join(available)}")
        if name not in usable:
            raise UserError(
                f"{title} cannot look at {name}, it looks at cameras, {OBS_STATE} and {OBS_ENV_STATE}"
            )
    if state_suffices and not {OBS_STATE, OBS_ENV_STATE} & {*names}:
        raise UserError(
            f"policy.inputs must have {OBS_STATE} or {OBS_ENV_STATE}, got {', '.join(names) or 'none'}"
        )
    if not state_suffices and (OBS_STATE not in names or len(set(names)) < 2):
        raise UserError(
            f"policy.inputs must have {OBS_STATE} and at least one camera or {OBS_ENV_STATE}, "
            f"got {', '.join(names)}"
        )
    return {name: usable[name] for name in names}
