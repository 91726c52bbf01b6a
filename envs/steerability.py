"""How far a policy can be steered by its noise, measured before anything is trained.

Three numbers, because each of them alone misleads: success with noise 0 and with drawn noise, how far noise
moves a chunk, and the success of the best of several draws from the same start. A policy may follow its noise
anywhere and never succeed; one whose draws do no better together than alone leaves nothing to choose.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from envs.history import frames_seen
from envs.interfaces import Episode, RawObservation, Steerable, Stochastic, VectorEnv
from envs.rollout import rollout
from envs.summary import wilson_interval

EPISODES, STATES, DRAWS = 32, 384, 16  # that the authority is measured on: states of episodes, draws in each
LEAST_AUTHORITY = 0.01
TRIAL_STARTS, TRIAL_DRAWS = 32, 4  # played before a training
LEAST_HEADROOM = 0.05  # share of starts that these draws must solve together beyond what each solves alone


def visited(env: VectorEnv, policy: Steerable, seeds: Sequence[int]) -> RawObservation:
    """What a policy sees where it decides, at most `STATES` of such moments, spread over its episodes."""
    seen: dict[str, list[np.ndarray]] = {}
    for episode in rollout(env, policy, seeds, keep_pixels=policy.image_size > 0):
        for name, values in episode.observations.items():
            decided = np.arange(0, len(values) - 1, policy.n_action_steps)
            seen.setdefault(name, []).append(values[frames_seen(decided, policy.history)])
    together = {name: np.concatenate(parts) for name, parts in seen.items()}
    count = len(next(iter(together.values())))
    chosen = np.linspace(0, count - 1, min(STATES, count)).astype(int)
    return {name: values[chosen] for name, values in together.items()}


def spreads(policy: Steerable, observations: RawObservation, rng: np.random.Generator) -> dict[str, float]:
    """How far noise and states move a chunk.

    Returns:
        noise_spread: standard deviation of an action over drawn noise, in the task's units, averaged over
            states, steps of the chunk and numbers of the action.
        state_spread: the same over states, of the mean over noise.
        authority: the first divided by the second.
    """
    count = len(next(iter(observations.values())))
    chunks = np.stack(
        [policy.chunk(observations, rng.standard_normal((count, *policy.noise_shape))) for _ in range(DRAWS)]
    )
    over_noise, over_states = float(chunks.std(0).mean()), float(chunks.mean(0).std(0).mean())
    authority = over_noise / over_states if over_states else 0.0
    return {"noise_spread": over_noise, "state_spread": over_states, "authority": authority}


def check_authority(numbers: dict[str, float], source: str) -> None:
    """Raise UserError where noise does next to nothing."""
    if not numbers["authority"] >= LEAST_AUTHORITY:
        raise UserError(
            f"{source}: cannot be steered: noise moves its actions by {numbers['noise_spread']:.3g} and "
            f"states by {numbers['state_spread']:.3g}, an authority of {numbers['authority']:.2g}, and at "
            f"least {LEAST_AUTHORITY:g} is needed"
        )


def in_words(numbers: dict[str, Any]) -> str:
    """The numbers of `successes` as a sentence."""
    return (
        f"of {numbers['episodes']} starts it solves {100 * numbers['success_rate']:.0f} % with noise 0, "
        f"{100 * numbers['sampled_success_rate']:.0f} % with drawn noise, the best of "
        f"{len(numbers['best_of'])} draws {100 * numbers['best_of'][-1]:.0f} %"
    )


def check_headroom(numbers: dict[str, Any], source: str) -> None:
    """Raise UserError where the best of several draws solves hardly more than noise 0 or one draw does."""
    best, drawn, mean = numbers["best_of"][-1], numbers["sampled_success_rate"], numbers["success_rate"]
    if best - max(mean, drawn) < LEAST_HEADROOM:
        raise UserError(
            f"{source}: steering has nothing to gain: {in_words(numbers)}, "
            f"not {100 * LEAST_HEADROOM:.0f} points more (--steer-anyway trains all the same)"
        )


def trial(
    policy: Stochastic, env: VectorEnv, first_seed: int, stop: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """What a few draws solve together of a few starts, see `successes`.

    Args:
        policy: draws what a learner could choose.
        env: of `TRIAL_STARTS` slots.
        first_seed: of the starts.
        stop: is asked after each episode.

    Raises:
        UserError: `stop` says so.
    """
    seeds, total = range(first_seed, first_seed + TRIAL_STARTS), (1 + TRIAL_DRAWS) * TRIAL_STARTS
    with tqdm(total=total, unit="episode", desc="trial", dynamic_ncols=True, disable=None) as bar:

        def play() -> list[Episode]:
            episodes = []
            for episode in rollout(env, policy, seeds, keep_pixels=False):
                if stop():
                    raise UserError("stopped in the trial of steering.policy; nothing is saved")
                episodes.append(episode)
                bar.update()
            return sorted(episodes, key=lambda episode: episode.seed)

        return successes(policy, play, TRIAL_DRAWS)


def successes(policy: Stochastic, play: Callable[[], list[Episode]], best_of: int) -> dict[str, Any]:
    """Success with noise 0, with drawn noise, and of the best of several draws from the same start.

    Args:
        policy: that plays.
        play: plays the same starts each time, in their order.
        best_of: how many draws.

    Returns:
        success_rate, success_ci95: with noise 0, and its Wilson interval.
        sampled_success_rate: with drawn noise, of all draws.
        best_of: share of starts that at least one of the first 1, 2, ... draws solves.
    """
    before = policy.sampled
    try:
        policy.sampled = False
        mean = [bool(episode.success) for episode in play()]
        policy.sampled = True
        drawn = np.array([[bool(episode.success) for episode in play()] for _ in range(best_of)])
    finally:
        policy.sampled = before
    return {
        "episodes": len(mean),
        "success_rate": float(np.mean(mean)),
        "success_ci95": list(wilson_interval(sum(mean), len(mean))),
        "sampled_success_rate": float(drawn.mean()),
        "best_of": np.logical_or.accumulate(drawn).mean(axis=1).tolist(),
    }


def table(numbers: dict[str, Any]) -> dict[str, str]:
    """The numbers of `spreads` and `successes` as people read them."""
    low, high = (100 * bound for bound in numbers["success_ci95"])
    best = ", ".join(f"{100 * share:.1f}" for share in numbers["best_of"])
    return {
        "noise 0": f"{100 * numbers['success_rate']:.1f} % (95 % interval {low:.1f} to {high:.1f})",
        "noise drawn": f"{100 * numbers['sampled_success_rate']:.1f} %",
        f"best of 1 to {len(numbers['best_of'])}": f"{best} %",
        "noise moves": f"an action by {numbers['noise_spread']:.3g}, states by {numbers['state_spread']:.3g}",
        "authority": f"{numbers['authority']:.2f}",
    }
