import numpy as np
import pytest
import torch

from common.checkpoint import save_tensors
from common.untrusted import load_tensors
from sac.replay_buffer import Batch, NStepWindow, ReplayBuffer

NUM_ENVS, STEPS, GAMMA = 3, 300, 0.9
FIELDS = (
    *("observations", "actions", "rewards", "next_observations", "terminated", "truncated"),
    "durations",
)


@pytest.fixture(scope="module")
def experience() -> dict[str, np.ndarray]:
    """STEPS of NUM_ENVS environments whose episodes end at random, some in their first step."""
    rng = np.random.default_rng(0)
    shape = STEPS, NUM_ENVS
    observations = rng.normal(size=(*shape, 4)).astype(np.float32)
    terminated, truncated = rng.random(shape) < 0.15, rng.random(shape) < 0.1
    following = np.concatenate([observations[1:], rng.normal(size=(1, NUM_ENVS, 4)).astype(np.float32)])
    last = rng.normal(size=(*shape, 4)).astype(
        np.float32
    )  # of an episode: the row after it is of the next one
    return {
        "observations": observations,
        "actions": rng.normal(size=(*shape, 2)).astype(np.float32),
        "rewards": rng.normal(size=shape),
        "next_observations": np.where((terminated | truncated)[..., None], last, following),
        "terminated": terminated,
        "truncated": truncated,
        "durations": rng.integers(1, 9, shape),  # of chunks, some of which an episode's end cuts short
    }


def brute_force(experience: dict[str, np.ndarray], steps: int, n_step: int) -> list[tuple]:
    """All transitions that are complete after `steps`, found one by one, in the order of their completion."""
    complete = []
    for env in range(NUM_ENVS):
        for start in range(steps):
            value, discount = 0.0, 1.0
            for t in range(start, min(start + n_step, steps)):
                value += discount * experience["rewards"][t, env]
                discount *= GAMMA ** experience["durations"][t, env]
                terminated = experience["terminated"][t, env]
                if terminated or experience["truncated"][t, env] or t == start + n_step - 1:
                    transition = (
                        experience["observations"][start, env],
                        experience["actions"][start, env],
                        value,
                        experience["next_observations"][t, env],
                        0.0 if terminated else discount,
                    )
                    complete.append(((t, start, env), transition))
                    break
    return [transition for _, transition in sorted(complete, key=lambda item: item[0])]


def play(experience, window: NStepWindow, buffer: ReplayBuffer, begin: int, end: int) -> None:
    for t in range(begin, end):
        buffer.add(window.add(*(experience[field][t] for field in FIELDS)))


def oldest_first(buffer: ReplayBuffer) -> list[torch.Tensor]:
    shift = -buffer.position if buffer.size == buffer.capacity else 0
    return [field.roll(shift, dims=0) for field in buffer.held()]


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("capacity", [1000, 97], ids=["roomy", "wrapped"])
def test_buffer_holds_what_brute_force_finds(experience, n_step, capacity):
    window, buffer = NStepWindow(NUM_ENVS, 4, 2, n_step, GAMMA), ReplayBuffer(capacity, 4, 2)
    for steps in range(1, STEPS + 1):
        play(experience, window, buffer, steps - 1, steps)
        if steps % 37 == 1 or steps == STEPS:
            expected = brute_force(experience, steps, n_step)[-capacity:]
            assert buffer.size == len(expected)
            for ours, theirs in zip(oldest_first(buffer), zip(*expected, strict=True), strict=True):
                np.testing.assert_allclose(ours, np.array(theirs), rtol=1e-5, atol=1e-6)


def identified(count: int, first: int = 0) -> Batch:
    """Transitions that can be told apart in every field."""
    ids = torch.arange(first, first + count, dtype=torch.float32)
    return Batch(ids[:, None].expand(-1, 4), ids[:, None].expand(-1, 2), ids, ids[:, None].expand(-1, 4), ids)


@pytest.mark.parametrize(
    ("added", "held"), [(7, range(7)), (25, range(15, 25))], ids=["half full", "wrapped"]
)
def test_sampling_is_uniform_over_whole_transitions(added, held):
    buffer = ReplayBuffer(10, 4, 2)
    for first in range(0, added, 4):
        buffer.add(identified(min(4, added - first), first))
    batch = buffer.sample(100_000, torch.Generator().manual_seed(0))
    for field in batch:
        assert torch.equal(field.reshape(100_000, -1)[:, 0], batch.rewards)
    ids, counts = batch.rewards.unique(return_counts=True)
    assert ids.tolist() == list(held)
    expected = 100_000 / len(held)
    assert (counts - expected).abs().max() < 5 * expected**0.5  # five standard deviations


@pytest.mark.parametrize("capacity", [1000, 97], ids=["roomy", "wrapped"])
def test_state_goes_on_as_if_nothing_had_happened(experience, capacity, tmp_path):
    def make():
        return NStepWindow(NUM_ENVS, 4, 2, 3, GAMMA), ReplayBuffer(capacity, 4, 2)

    window, buffer = make()
    play(experience, window, buffer, 0, 101)
    save_tensors(tmp_path / "window", window.state_dict())
    save_tensors(tmp_path / "buffer", buffer.state_dict())
    restored_window, restored_buffer = make()
    restored_window.load_state_dict(load_tensors(tmp_path / "window"))
    restored_buffer.load_state_dict(load_tensors(tmp_path / "buffer"), buffer.position)
    play(experience, window, buffer, 101, STEPS)
    play(experience, restored_window, restored_buffer, 101, STEPS)

    assert (restored_buffer.position, restored_buffer.size) == (buffer.position, buffer.size)
    for ours, theirs in zip(restored_buffer.held(), buffer.held(), strict=True):
        assert torch.equal(ours, theirs)
    drawn = [each.sample(50, torch.Generator().manual_seed(3)) for each in (buffer, restored_buffer)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*drawn, strict=True))


def test_a_window_of_another_number_of_environments_is_refused():
    of_one = NStepWindow(1, 4, 2, 3, GAMMA).state_dict()
    with pytest.raises(ValueError, match="has the shape"):
        NStepWindow(NUM_ENVS, 4, 2, 3, GAMMA).load_state_dict(of_one)
