import numpy as np
import pytest
import torch

from common import memory
from common.errors import UserError
from envs.interfaces import Symmetry
from sac.frame_replay import FrameReplay, frame_bytes
from sac.frames import gather, gather_on
from sac.replay_buffer import Batch, NStepWindow, ReplayBuffer
from tests.sac.pixel_play import GAMMA, Play, Transition

PICTURE = 4, 5, 3


def make(capacity: int, num_envs: int = 3, stack: int = 3, n_step: int = 3, **others) -> FrameReplay:
    picture = others.pop("picture", PICTURE)
    return FrameReplay(capacity, num_envs, picture, stack, 3, 2, n_step, GAMMA, **others)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(pixels: torch.Tensor) -> np.ndarray:
    """Pixels (B, S * C, H, W) in [0, 1] as the uint8 (B, H, W, S * C) that they were."""
    return (255 * pixels.permute(0, 2, 3, 1)).round().numpy().astype(np.uint8)


def assert_drawn_are(batch: Batch, expected: dict) -> None:
    """Every transition of the batch is, in every part, the one of its first number."""
    observations, next_observations = batch.observations, batch.next_observations
    parts = (
        *(rows(observations.pixels), observations.numbers, batch.actions, batch.rewards),
        *(rows(next_observations.pixels), next_observations.numbers, batch.discounts),
    )
    found = [expected[int(first)] for first in observations.numbers[:, 0]]
    for name, ours, theirs in zip(Transition._fields, parts, zip(*found, strict=True), strict=True):
        np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("capacity", [400, 31], ids=["roomy", "wrapped"])
@pytest.mark.parametrize("stack", [1, 3])
def test_draws_what_brute_force_finds(n_step, num_envs, capacity, stack):
    play = Play(num_envs, PICTURE, stack)
    replay = make(capacity * num_envs, num_envs, stack, n_step)
    for _ in range(60):
        play(1 + int(play.rng.integers(3)), replay)
        expected = play.transitions(capacity, n_step)
        assert replay.size == len(expected)
        if expected:
            batch = replay.sample(40, generator(replay.position))
            assert_drawn_are(batch, expected)
    assert (len(play.places[0]) > 2 * capacity) == (capacity == 31)
    drawn = replay.sample(40 * replay.size, generator()).observations.numbers[:, 0]
    assert set(drawn.tolist()) == set(expected)


def test_the_shortest_ring_is_right_and_a_shorter_one_refused():
    play, replay = Play(2, PICTURE, 3), make(2 * 7, 2)
    for _ in range(150):
        play(1, replay)
        expected = play.transitions(7, 3)
        assert replay.size == len(expected)
        if expected:
            assert_drawn_are(replay.sample(20, generator(replay.position)), expected)
    with pytest.raises(UserError, match="buffer_capacity must be at least 14 for 2 environments"):
        make(2 * 7 - 1, 2)


@pytest.mark.parametrize("n_step", [1, 3, 5])
def test_returns_are_the_windows_to_the_bit(n_step):
    play, replay = Play(3, PICTURE, 1), make(3000, stack=1, n_step=n_step)
    play(200, replay)
    window, states = NStepWindow(3, 3, 2, n_step, GAMMA), ReplayBuffer(1000, 3, 2)
    for before, actions, step, _ in play.steps:
        ends = step.terminated, step.truncated, step.durations
        states.add(window.add(before.numbers, actions, step.rewards, step.observations.numbers, *ends))
    held = states.held()
    of = {int(first): i for i, first in enumerate(held.observations[:, 0].tolist())}
    batch = replay.sample(5000, generator())
    assert set(of) == {int(first) for first in batch.observations.numbers[:, 0]}
    order = [of[int(first)] for first in batch.observations.numbers[:, 0]]
    assert torch.equal(batch.rewards, held.rewards[order])
    assert torch.equal(batch.discounts, held.discounts[order])
    assert torch.equal(batch.next_observations.numbers, held.next_observations[order])


@pytest.mark.parametrize("capacity", [600, 90], ids=["roomy", "wrapped"])
def test_sampling_is_uniform(capacity):
    play, replay = Play(3, PICTURE, 3), make(capacity)
    play(120, replay)
    drawn = replay.sample(100_000, generator()).observations.numbers[:, 0]
    found, counts = drawn.unique(return_counts=True)
    expected = 100_000 / replay.size
    assert found.tolist() == sorted(play.transitions(capacity // 3, 3))
    assert (counts - expected).abs().max() < 5 * expected**0.5  # five standard deviations


def test_nothing_to_draw_before_a_return_is_complete():
    play, replay = Play(2, PICTURE, 3, seed=1), make(100, 2)
    with pytest.raises(ValueError, match="no transition is complete"):
        replay.sample(1, generator())
    while not play.transitions(50, 3):
        assert replay.size == 0
        play(1, replay)
    assert replay.size > 0


def by_numpy(stacks: np.ndarray, shifts: np.ndarray, mirrored: np.ndarray, pad: int) -> np.ndarray:
    """Stacks (R, H, W, K) uint8, shifted with replicated edges, then mirrored, in [0, 1]."""
    height, width = stacks.shape[1:3]
    padded = np.pad(stacks, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    windows = []
    for stack, (down, right), flip in zip(padded, shifts + pad, mirrored, strict=True):
        window = stack[down : down + height, right : right + width]
        windows.append(np.flip(window, axis=1) if flip else window)
    return np.stack(windows) / np.float32(255)


@pytest.mark.parametrize("picture", [(6, 5, 1), (5, 6, 2), (4, 7, 3), (2, 1, 4)])
@pytest.mark.parametrize("stack", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 2, 9])
def test_both_gathers_are_pad_and_flip(picture, stack, pad):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (50, *picture), np.uint8)
    places = rng.integers(0, 50, (40, stack))
    shifts, mirrored = rng.integers(-pad, pad + 1, (40, 2)), rng.random(40) < 0.5
    stacks = np.concatenate(list(frames[places].swapaxes(0, 1)), axis=-1)
    expected = by_numpy(stacks, shifts, mirrored, pad)
    out = np.empty_like(expected)
    gather(frames, places, shifts, mirrored, out)
    np.testing.assert_array_equal(out, expected)
    on = gather_on(torch.from_numpy(frames), places, shifts, mirrored)
    np.testing.assert_array_equal(on, expected)


SYMMETRY = Symmetry(
    np.array([1, 0, 2]), np.float32([-1, -1, 1]), np.array([1, 0]), np.array([1, -1], np.float32)
)


def test_half_of_a_batch_is_mirrored():
    play, plain, mirroring = Play(3, PICTURE, 3), make(300), make(300, symmetry=SYMMETRY)
    play(80, plain, mirroring)
    expected, batch = plain.sample(21, generator()), mirroring.sample(21, generator())
    mirrored = np.arange(21) < 10
    no_shift = np.zeros((21, 2), int)
    for ours, theirs in ((batch.observations, expected.observations), (batch[3], expected[3])):
        flipped = by_numpy(rows(theirs.pixels), no_shift, mirrored, 0)
        np.testing.assert_array_equal(ours.pixels.permute(0, 2, 3, 1), flipped)
        swapped = torch.stack([-theirs.numbers[:, 1], -theirs.numbers[:, 0], theirs.numbers[:, 2]], dim=1)
        assert torch.equal(ours.numbers, torch.where(torch.from_numpy(mirrored)[:, None], swapped, theirs[1]))
    swapped = torch.stack([expected.actions[:, 1], -expected.actions[:, 0]], dim=1)
    assert torch.equal(batch.actions[:10], swapped[:10])
    assert torch.equal(batch.actions[10:], expected.actions[10:])
    assert torch.equal(batch.rewards, expected.rewards)


def test_views_are_the_same_transitions_in_other_shifts():
    picture, shift = (9, 8, 3), 2
    play = Play(3, picture, 3)
    plain = make(600, picture=picture)
    shifting = make(600, picture=picture, shift=shift, symmetry=SYMMETRY, views=2, target_views=3)
    play(80, plain, shifting)
    expected = plain.sample(30, generator())
    batch = shifting.sample(30, generator())
    assert torch.equal(batch.rewards, expected.rewards)
    seen = set()
    for ours, theirs, views in (
        (batch.observations, expected.observations, 2),
        (batch.next_observations, expected.next_observations, 3),
    ):
        assert len(ours.pixels) == len(ours.numbers) == views * 30
        candidates = {}
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                shifts = np.full((30, 2), (down, right))
                candidates[down, right] = by_numpy(rows(theirs.pixels), shifts, np.arange(30) < 15, shift)
        chosen = []
        for i, row in enumerate(ours.pixels.permute(0, 2, 3, 1).numpy()):
            (found,) = [by for by, pictures in candidates.items() if (pictures[i % 30] == row).all()]
            chosen.append(found)
        seen |= set(chosen)
        assert chosen[:30] != chosen[30:60]
    assert len(seen) == (2 * shift + 1) ** 2


def test_pictures_are_brighter_or_darker_each_by_a_factor_of_its_own():
    """One for a whole stack; everything but the pictures stays the same."""
    play, plain, bright = Play(2, PICTURE, 3), make(100, 2), make(100, 2, brightness=0.25)
    play(30, plain, bright)
    expected, batch = plain.sample(40, generator()), bright.sample(40, generator())
    assert torch.equal(batch.rewards, expected.rewards) and torch.equal(batch.actions, expected.actions)
    ratios = []
    for row, other in zip(batch.observations.pixels, expected.observations.pixels, strict=True):
        ratio = (row[other > 0] / other[other > 0]).numpy()
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)
        ratios.append(ratio[0])
    assert 0.75 <= min(ratios) < 0.85 and 1.15 < max(ratios) <= 1.25


def test_pixels_are_channels_last_and_float32():
    play, replay = Play(2, PICTURE, 3), make(100, 2)
    play(20, replay)
    pixels = replay.sample(4, generator()).observations.pixels
    assert pixels.shape == (4, 9, 4, 5) and pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_batches_by_a_gather_on_the_device_are_equal(monkeypatch):
    play, replay = Play(3, PICTURE, 3), make(300, shift=2, symmetry=SYMMETRY, views=2)
    play(80, replay)
    compiled = replay.sample(40, generator())
    monkeypatch.setattr(replay, "_pixels", lambda name, *where: gather_on(replay.frames, *where))
    on_device = replay.sample(40, generator())
    for ours, theirs in zip(on_device, compiled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_100_000_pictures_take_less_than_2_9_gb(monkeypatch):
    assert frame_bytes(100_000, (96, 96, 3)) == 2_764_800_000
    asked = []
    monkeypatch.setattr(
        "sac.frame_replay.check_fits", lambda what, numbers, device: asked.append(4 * numbers)
    )
    replay = FrameReplay(1000, 4, (96, 96, 3), 3, 20, 3, 3, GAMMA)
    arrays = [a for a in vars(replay).values() if isinstance(a, np.ndarray) and a.ndim > 1]
    assert abs(asked[0] - sum(a.nbytes for a in arrays) - replay.frames.nbytes) < 4
    assert 100 * asked[0] <= 2.9e9


def test_pictures_that_do_not_fit_are_refused_with_the_arithmetic(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1e9)
    with pytest.raises(UserError) as refused:
        FrameReplay(100_000, 4, (96, 96, 3), 3, 3, 2, 3, GAMMA)
    assert str(refused.value) == (
        "training.buffer_capacity 100,000 (100,000 pictures x 96 x 96 x 3 bytes = 2.76 GB, "
        "and 0.00 GB beside them) does not fit into the memory: it needs at least 2.8 GB, 1.0 GB are free"
    )
