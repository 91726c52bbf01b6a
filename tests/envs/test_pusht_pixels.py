"""PushT from pictures: the codec with poses that are known, and without the state."""

import json

import numpy as np
import pytest

import evaluate
import train_sac
from envs.interfaces import RawObservation
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.pusht_pixels import PoseCodec, PushTPixels, agent_motion

FEATURES = (*PushT().features, "agent_vel", "target_lead_in_block_frame")


class Known:
    """An estimator that is never wrong: it is told the states of pictures before."""

    def __init__(self) -> None:
        self.states: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        self.looks: list[int] = []

    def tell(self, raw: RawObservation) -> RawObservation:
        for picture, *state in zip(raw["pixels"], raw["agent_pos"], raw["block_pose"], strict=True):
            self.states[picture.tobytes()] = tuple(state)
        return {"pixels": raw["pixels"]}

    def __call__(self, pictures: np.ndarray) -> RawObservation:
        self.looks.append(len(pictures))
        nothing = np.zeros(2), np.zeros(3)  # of the black pictures before the first
        found = [self.states.get(picture.tobytes(), nothing) for picture in pictures]
        agent_pos = np.array([agent for agent, _ in found]).reshape(-1, 2)
        block_pose = np.array([block for _, block in found]).reshape(-1, 3)
        return {"agent_pos": agent_pos, "block_pose": block_pose}


@pytest.mark.parametrize("steps", [1, 3])
def test_agents_move_as_in_the_simulator(steps):
    env, rng = PushTVectorEnv(3), np.random.default_rng(0)
    raw, _ = env.reset(seed=range(3))
    for _ in range(5):
        targets = rng.uniform(0, 512, (3, 2))
        at_rest = np.stack([targets, np.zeros_like(targets)], axis=1)
        before = np.stack([raw["agent_pos"], raw["agent_vel"]], axis=1)
        for _ in range(steps):
            raw, *_ = env.step(targets)
        after = np.stack([raw["agent_pos"], raw["agent_vel"]], axis=1)
        np.testing.assert_allclose(at_rest + agent_motion(steps) @ (before - at_rest), after, atol=1e-8)


@pytest.mark.parametrize("repeat", [1, 2])
def test_with_exact_poses_a_policy_sees_what_it_sees_of_the_state(repeat):
    """In four slots, of which one begins anew and one rests; velocities are never told, only pictures."""
    task = PushT(features=FEATURES, action_repeat=repeat)
    known, state, rng = Known(), task.codec(4), np.random.default_rng(1)
    codec = PoseCodec(4, task.codec(4), known, repeat)  # pyright: ignore[reportArgumentType]
    env, seeds, everywhere = task.vector_env(4, 96), np.arange(4), np.ones(4, bool)
    raw, _ = env.reset(seed=seeds)
    codec.reset(everywhere, known.tell(raw))
    state.reset(everywhere, raw)
    for step in range(25):
        np.testing.assert_allclose(codec.encode(known.tell(raw)), state.encode(raw), atol=1e-5)
        actions = rng.uniform(-1, 1, (4, 2))
        inverse = state.encode_actions(actions, raw), codec.encode_actions(actions, known.tell(raw))
        np.testing.assert_allclose(*inverse, atol=1e-5)
        targets = codec.decode(actions, known.tell(raw), env.active)
        np.testing.assert_allclose(targets, state.decode(actions, raw, env.active), atol=1e-5)
        for _ in range(repeat):
            raw, *_ = env.step(targets)
        if step == 10:
            begins = seeds == 2
            raw, _ = env.reset(seed=seeds + 50, options={"reset_mask": begins})
            codec.reset(begins, known.tell(raw))
            state.reset(begins, raw)
        if step == 15:
            env.active[1] = False


def test_each_picture_is_looked_at_once():
    known, task = Known(), PushT()
    codec = PoseCodec(3, task.codec(3), known, 1)  # pyright: ignore[reportArgumentType]
    env = task.vector_env(3, 96)
    raw, _ = env.reset(seed=range(3))
    seen = known.tell(raw)
    codec.reset(np.ones(3, bool), seen)
    first = codec.encode(seen)
    codec.decode(np.zeros((3, 2)), seen, np.ones(3, bool))
    raw, _ = env.reset(seed=range(10, 13), options={"reset_mask": np.arange(3) == 1})
    codec.reset(np.arange(3) == 1, known.tell(raw))
    again = codec.encode(known.tell(raw))
    assert known.looks == [3, 3, 1]  # the black ones of the beginning first
    assert (first[1] != again[1]).any()


def test_a_policy_reads_nothing_but_pictures():
    task = PushTPixels(features=FEATURES)
    env, codecs = task.vector_env(2), [task.codec(2), task.codec(2)]
    raw, _ = env.reset(seed=[5, 6])
    assert raw["pixels"].shape == (2, 96, 96, 3)
    for step in range(4):
        blind = {name: np.full_like(v, np.nan) for name, v in raw.items() if name != "pixels"}
        blind["pixels"] = raw["pixels"]
        both = list(zip(codecs, (raw, blind), strict=True))
        if step == 0:
            for codec, seen in both:
                codec.reset(np.ones(2, bool), seen)
        encoded = [codec.encode(seen) for codec, seen in both]
        np.testing.assert_array_equal(*encoded)
        targets = [codec.decode(np.full((2, 2), 0.3), seen, np.ones(2, bool)) for codec, seen in both]
        np.testing.assert_array_equal(*targets)
        raw, *_ = env.step(targets[0])
    assert np.isfinite(encoded[0]).all()


def test_a_training_environment_resumes_where_it_was():
    """Beside one that was not interrupted, past the ends of episodes."""
    task, rng = PushTPixels(num_envs=3, curriculum=1.0), np.random.default_rng(0)
    env = task.training_env(1, 0.99)
    env.reset()
    for _ in range(12):
        env.step(rng.uniform(-1, 1, (3, 2)))
    env.reset(np.arange(3) == 0)
    last = env.step(rng.uniform(-1, 1, (3, 2))).observations
    resumed = task.training_env(1, 0.99)
    np.testing.assert_allclose(resumed.load_state_dict(*env.state_dict()), last, atol=1e-4)
    for _ in range(5):
        actions = rng.uniform(-1, 1, (3, 2))
        expected, step = env.step(actions), resumed.step(actions)
        np.testing.assert_allclose(step.observations, expected.observations, atol=1e-3)
        np.testing.assert_allclose(step.rewards, expected.rewards, atol=1e-3)
    state, arrays = env.state_dict()
    arrays["agents"] = arrays["agents"][:2]
    with pytest.raises(ValueError, match=r"env\.agents"):
        resumed.load_state_dict(state, arrays)


@pytest.mark.slow
def test_a_short_training_plays_the_stock_environment(tmp_path):
    flags = "--config configs/sac_pusht_pixels.yaml --run-name run --env.num-envs 4 --agent.batch-size 16"
    flags += " --total-env-steps 300 --training.start-steps 100 --training.eval-episodes 2"
    flags += " --training.eval-every 0 --training.video-every 0"
    assert train_sac.main([*flags.split(), "--logs", str(tmp_path)])
    numbers = tmp_path / "numbers.json"
    played = f"--policy {tmp_path / 'run'} --env stock --episodes 2 --json {numbers}"
    evaluate.main(played.split())
    assert json.loads(numbers.read_text())["task"] == "PushT from pictures"


def test_with_exact_poses_it_knows_where_a_chunk_leads():
    task, rng = PushT(features=FEATURES), np.random.default_rng(3)
    known, state = Known(), task.codec(2)
    codec = PoseCodec(2, task.codec(2), known, 1)  # pyright: ignore[reportArgumentType]
    env, everywhere = task.vector_env(2, 96), np.ones(2, bool)
    raw, _ = env.reset(seed=[1, 2])
    codec.reset(everywhere, known.tell(raw))
    state.reset(everywhere, raw)
    for _ in range(6):
        np.testing.assert_allclose(codec.encode(known.tell(raw)), state.encode(raw), atol=1e-5)
        chunk = raw["agent_pos"] + rng.uniform(-60, 60, (3, 2, 2)).cumsum(axis=0)
        codec.advance(chunk, known.tell(raw), env.active)
        state.advance(chunk, raw, env.active)
        for targets in chunk:
            raw, *_ = env.step(targets)
