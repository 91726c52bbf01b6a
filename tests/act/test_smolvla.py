"""SmolVLA against LeRobot's own, and its flow against the training's network; sentences, resume, steering."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_pre_post_processors
from torch.utils.data import default_collate

import act.vlm
import evaluate
import train_act
from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.kinds.act import PolicyConfig as ACTSettings
from act.kinds.act import act_config
from act.opening import load_player, make_player
from act.optimizer import OptimizerConfig
from common.config import from_dict, load_yaml, to_dict
from common.errors import UserError
from common.paths import REPOSITORY
from common.untrusted import load_json, load_tensors
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from envs.steering import Steering, SteeringConfig, SteeringEnv
from sac.policy import SACPolicy
from tests.act.changed import change_column, damage
from tests.act.tiny import CHUNK, IMAGE, KEYPOINTS, STATE, features
from tests.act.tiny_vla import KIND, SENTENCES, SmolVLAPolicy, make, make_vlm, samples, save, settings
from tests.runs import sentence

TASK = PushT()
STATS = {name: {"mean": np.full(2, 250.0), "std": np.full(2, 100.0)} for name in (STATE, "action")}
TOKENS, MASK = KIND.language


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    return make_vlm(tmp_path_factory.mktemp("vlm") / "vlm")


@pytest.fixture(scope="module")
def policy(vlm):
    """Not to be changed."""
    return make(vlm)


def player_of(policy):
    return make_player(policy, make_pre_post_processors(policy.config, dataset_stats=STATS), TASK)


def observations(num_slots=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num_slots, 32, 32, 3), np.uint8)
    return {"agent_pos": rng.uniform(100, 400, (num_slots, 2)), "pixels": pixels}


def noise(num_slots=3, seed=0):
    return np.random.default_rng(seed).standard_normal((num_slots, CHUNK, 4))


def valid(batch):
    return (~batch["action_is_pad"]).sum() * 2


def inputs(batch):
    return {name: value for name, value in batch.items() if "action" not in name}


@pytest.mark.parametrize("all_trained", [True, False])
def test_loss_is_lerobots(vlm, all_trained):
    frozen = {"train_expert_only": not all_trained, "freeze_vision_encoder": not all_trained, "saved": {}}
    policy, batch = make(vlm, **frozen), samples()

    def loss(batch):
        torch.manual_seed(3)
        return KIND.make_loss(policy)(batch, valid(batch), 6)[0]

    torch.manual_seed(3)
    theirs, _ = policy.forward(batch)
    theirs.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    (ours := loss(batch)).backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained and any("vision" in name for name in trained) == all_trained
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.grad, gradients.get(name), rtol=1e-4, atol=1e-7)
    for name, other in (
        (IMAGE, batch[IMAGE].flip(-1)),
        (TOKENS, batch[TOKENS].flip(1)),
        (STATE, -batch[STATE]),
    ):
        assert loss(batch | {name: other}).item() != pytest.approx(ours.item(), rel=1e-6), f"it sees {name}"
    unread = batch[TOKENS].where(batch[MASK], 0)
    assert loss(batch | {TOKENS: unread}).item() == pytest.approx(ours.item(), rel=1e-6), (
        "padding is not read"
    )


def test_losses_of_pieces_add_up(policy, monkeypatch):
    whole = samples()
    monkeypatch.setattr(policy.model, "sample_noise", lambda shape, _: torch.full(shape, 0.3))
    monkeypatch.setattr(policy.model, "sample_time", lambda size, _: torch.full((size,), 0.6))
    pieces = [{name: tensor[i : i + 4] for name, tensor in whole.items()} for i in (0, 4)]
    loss = KIND.make_loss(policy)
    added = sum(loss(piece, valid(whole), 6) for piece in pieces)
    torch.testing.assert_close(added, loss(whole, valid(whole), 6), rtol=1e-5, atol=0)


def test_a_chunk_is_the_end_of_eulers_steps(policy):
    """By the network as it is trained, without the cache of what was seen: x is its own noise and actions."""
    batch, x = samples(), torch.from_numpy(noise(6)).float()
    slopes = []
    hook = policy.model.action_out_proj.register_forward_hook(lambda *args: slopes.append(args[2]))
    seen = (*policy.prepare_images(batch), batch[TOKENS], batch[MASK], policy.prepare_state(batch))
    with torch.no_grad():
        for time in (1.0, 2 / 3, 1 / 3):
            policy.model.forward(*seen, actions=x, noise=x, time=torch.full((6,), time))
            x = x - slopes[-1] / 3
    hook.remove()
    chunks = KIND.chunks(policy, inputs(batch), torch.from_numpy(noise(6)).float())
    torch.testing.assert_close(chunks, x[..., :2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_slots_play_as_lerobots_policy_does_alone(policy):
    pre, post = make_pre_post_processors(policy.config, dataset_stats=STATS)
    player = player_of(policy)
    raws = [observations(2, seed) for seed in range(5)]
    player.reset(np.arange(2))
    together = [player.act(raw) for raw in raws]
    for slot in range(2):
        policy.reset()
        for raw, actions in zip(raws, together, strict=True):
            picture = torch.from_numpy(raw["pixels"][slot : slot + 1]).movedim(-1, 1).float() / 255
            one = {STATE: torch.from_numpy(raw["agent_pos"][slot : slot + 1]).float(), IMAGE: picture}
            normal = pre(
                one | {"task": "Push the T-shaped blue block onto the T-shaped green target surface."}
            )
            action = post(policy.select_action(normal, noise=torch.zeros(1, CHUNK, 4)))[0]
            np.testing.assert_allclose(actions[slot], np.clip(action, 0, 512), atol=1e-2)


def test_it_hears_the_tasks_sentence(policy):
    other = player_of(policy)
    other.task = type("Other", (PushT,), {"sentence": "push the T away"})()
    raw = observations()
    assert np.abs(other.chunk(raw, noise()) - player_of(policy).chunk(raw, noise())).max() > 1e-3


@pytest.mark.slow
def test_saved_and_opened_again_it_plays_the_same(policy, tmp_path, capfd):
    save(tmp_path, policy, STATS)
    raw, chunk = observations(), player_of(policy).chunk(observations(), noise())
    ours = load_player(tmp_path, TASK)
    assert capfd.readouterr().out == "", "what LeRobot prints of layers is no output of ours"
    assert ours.noise_shape == (CHUNK, 4) and np.array_equal(ours.chunk(raw, noise()), chunk)
    assert np.array_equal(ours.chunk(raw, noise()), chunk), "twice"
    theirs = SmolVLAPolicy.from_pretrained(tmp_path)
    assert np.array_equal(player_of(theirs).chunk(raw, noise()), chunk)
    assert np.abs(chunk - ours.chunk(raw, -noise())).max() > 1.0
    player = load_player(tmp_path, TASK, sampled=True, seed=3)
    assert not np.allclose(player.act(raw), ours.act(raw))


def test_a_frozen_vlm_is_bfloat16_as_lerobots_and_the_expert_float32(vlm, tmp_path, monkeypatch):
    """With weights of its own, which our checkpoint holds and LeRobot opens first."""
    from transformers import AutoConfig, SmolVLMForConditionalGeneration

    make_vlm(whole := tmp_path / "whole")
    torch.manual_seed(0)
    SmolVLMForConditionalGeneration(AutoConfig.from_pretrained(whole)).save_pretrained(whole)
    for module in ("act.kinds.smolvla", "act.foreign"):  # such a folder is only the Hub's
        monkeypatch.setattr(f"{module}.read_sizes", lambda _: load_json(vlm / "config.json"))
    chosen = settings(vlm, train_expert_only=True, freeze_vision_encoder=True)
    config = KIND.make_config(chosen, features(), OptimizerConfig(), "cpu")
    config.vlm_model_name, config.load_vlm_weights = str(whole), True
    policy, origin = KIND.make_policy(config, chosen, 1, None)
    assert "its own weights" in origin and policy.config.load_vlm_weights
    dtypes = {n.split(".")[2]: p.dtype for n, p in policy.named_parameters() if "vlm_with_expert" in n}
    assert dtypes == {"vlm": torch.bfloat16, "lm_expert": torch.float32}
    own = load_tensors(whole / "model.safetensors")["model.text_model.embed_tokens.weight"]
    ours = policy.model.vlm_with_expert.get_vlm_model().text_model.embed_tokens.weight
    assert torch.equal(ours, own.bfloat16())

    folder, raw = tmp_path / "policy", observations()
    save(folder, policy, STATS)
    chunk = player_of(policy.eval()).chunk(raw, noise())
    theirs = player_of(SmolVLAPolicy.from_pretrained(folder)).chunk(raw, noise())
    np.testing.assert_allclose(theirs, chunk, atol=2.0)  # of 100 px: their expert is bfloat16
    (whole / "model.safetensors").unlink()
    assert np.array_equal(load_player(folder, TASK).chunk(raw, noise()), chunk), "without the VLM's weights"


def test_a_vlm_that_is_trained_is_float32(policy, vlm):
    """Also of a training of LeRobot's, which had loaded it in bfloat16."""
    config = KIND.make_config(settings(vlm), features(), OptimizerConfig(), "cpu")
    config.load_vlm_weights = True
    continued, origin = KIND.make_policy(config, ACTSettings(), 1, {})
    assert "of the checkpoint" in origin and not continued.config.load_vlm_weights
    assert {parameter.dtype for parameter in continued.parameters()} == {torch.float32}


def test_it_begins_with_the_weights_of_another(policy, vlm, tmp_path):
    """And its own data's statistics."""
    save(tmp_path, policy, STATS)
    frozen = {"train_expert_only": True, "freeze_vision_encoder": True, "pretrained": tmp_path}
    begun = make(vlm, seed=2, **frozen)
    for name, weights in policy.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weights), name
    with pytest.raises(UserError, match="pretrained: .* has weights of another network than the settings'"):
        make(vlm, **frozen, max_action_dim=5)


# Sentences


def open_frames(root, vlm, tmp_path, **changes):
    config = DatasetConfig(root=root, **changes)
    meta = open_dataset(config, TASK)
    terms = KIND.make_config(settings(vlm), features_of(meta), OptimizerConfig(), "cpu")
    pre, _ = make_pre_post_processors(terms, dataset_stats=meta.stats)
    return Frames(meta, terms, pre, torch.device("cpu"), config, tmp_path, TASK), pre, meta


@pytest.fixture(scope="module")
def dataset(make_dataset, tmp_path_factory):
    """Three episodes, of which the second has another sentence."""
    return make_dataset(tmp_path_factory.mktemp("datasets") / "words", pictures=32, sentences=SENTENCES)


@pytest.mark.slow
def test_a_batch_is_lerobots(dataset, vlm, tmp_path):
    frames, pre, meta = open_frames(dataset, vlm, tmp_path)
    deltas = [step / meta.fps for step in range(CHUNK)]
    past = {name: [0.0] for name in (STATE, IMAGE)}
    lerobots = LeRobotDataset("local/x", root=dataset, delta_timestamps={"action": deltas} | past)
    indices = torch.tensor([0, 8, 9, 13, 14, 25])  # the second episode is 9 to 13
    ours, theirs = frames.batch(indices), pre(default_collate([lerobots[i] for i in indices.tolist()]))
    assert set(ours) == {STATE, IMAGE, TOKENS, MASK, "action", "action_is_pad"}
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    assert ours[MASK].sum(1).tolist() == [4, 4, 6, 6, 4, 4], "words, and the end of the line"


def test_a_mirrored_frame_has_its_sentence(dataset, vlm, tmp_path):
    frames, *_ = open_frames(dataset, vlm, tmp_path, mirror=True)
    indices = torch.tensor([0, 9, 13, 25])
    for name in (TOKENS, MASK):
        assert torch.equal(frames.batch(indices)[name], frames.batch(indices + 26)[name])


def test_the_fingerprint_knows_the_sentences_where_they_are_read(dataset, vlm, tmp_path):
    def other(root):
        change_column("meta/tasks.parquet", "task", lambda _: ["push", "push it"])(root)

    changed = damage(dataset, tmp_path, other)
    seen = [open_frames(root, vlm, tmp_path)[0].fingerprint for root in (dataset, dataset, changed)]
    assert seen[0] == seen[1] != seen[2]

    def of_act(root):
        meta = open_dataset(config := DatasetConfig(root=root), TASK)
        terms = act_config(ACTSettings(inputs=(STATE, KEYPOINTS)), features_of(meta), device="cpu")
        return Frames(
            meta, terms, lambda batch: batch, torch.device("cpu"), config, tmp_path, TASK
        ).fingerprint

    assert of_act(dataset) == of_act(changed), "as before there was language"


@pytest.mark.parametrize(
    ("pattern", "column", "values", "message"),
    [
        (
            "meta/*.parquet",
            "task",
            lambda v: ["a" * 1001, *v[1:]],
            "a sentence of 1,001 characters, more than",
        ),
        ("meta/*.parquet", "task", lambda v: [1, 2], "must hold text, got int64"),
        ("meta/*.parquet", "task", lambda v: [None, *v[1:]], "must hold text"),
        ("meta/*.parquet", "task_index", lambda v: [1, 0], "task_index in row 0 is 1"),
        (
            "data/*/*.parquet",
            "task_index",
            lambda v: [*v[1:], 2],
            "task_index is 2 or less, and .* has 2 sent",
        ),
        ("data/*/*.parquet", "task_index", lambda v: [*v[1:], -1], "task_index is 1 or less"),
    ],
)
def test_sentences_that_are_none_are_refused(dataset, vlm, tmp_path, pattern, column, values, message):
    with pytest.raises(UserError, match=f"damaged .*{message}"):
        open_frames(damage(dataset, tmp_path, change_column(pattern, column, values)), vlm, tmp_path)


# Settings


def test_it_has_at_least_the_weights_that_are_counted(vlm, tmp_path):
    deep = make_vlm(tmp_path / "deep", layers=4)
    for folder, changes in (
        (vlm, {}),
        (vlm, {"expert_width_multiplier": 2.0}),
        (deep, {"num_vlm_layers": 3}),
        (deep, {"num_expert_layers": 2, "self_attn_every_n_layers": -1}),
    ):
        policy = make(folder, **changes)
        counted, of_expert, _ = KIND.least_size(policy.config)
        built = sum(p.numel() for p in policy.parameters())
        expert = sum(p.numel() for p in policy.model.vlm_with_expert.lm_expert.parameters())
        assert 0.5 * built < counted < built and 0.5 * expert < of_expert < expert


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_action_steps": 6}, "n_action_steps must be at most chunk_size, 5, got 6"),
        ({"max_state_dim": 1}, "policy.max_state_dim must be at least 2, as many as there are, got 1"),
        ({"max_action_dim": 1}, "policy.max_action_dim must be at least 2, as many as there are, got 1"),
        (
            {"inputs": (STATE, KEYPOINTS)},
            f"policy.inputs must not have {KEYPOINTS}, which a SmolVLA cannot see",
        ),
        ({"inputs": (IMAGE,)}, f"policy.inputs must have {STATE}"),
        (
            {"expert_width_multiplier": 0.2},
            "policy.expert_width_multiplier must make an even number of 16, got 3",
        ),
        ({"num_expert_layers": 3}, "policy.num_expert_layers must divide 2, got 3"),
        ({"resize_imgs_with_padding": (16, 24)}, "must be two equal multiples of 8, got"),
        ({"resize_imgs_with_padding": (20, 20)}, "must be two equal multiples of 8, got"),
        ({"vlm_model_name": "no/where"}, "vlm_model_name must be HuggingFaceTB/.* or a folder that is there"),
        ({"load_vlm_weights": True}, "policy.load_vlm_weights must be false with a folder"),
        ({"train_expert_only": True}, "else a random vision-language model would stay random"),
        ({"freeze_vision_encoder": True}, "else a random vision-language model would stay random"),
    ],
)
def test_impossible_settings_are_refused(vlm, changes, message):
    with pytest.raises(UserError, match=message):
        from_dict(type(settings(vlm)), to_dict(settings(vlm, **changes)))
        make(vlm, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_expert_layers": 2}, "num_expert_layers must not be 2 with self_attn_every_n_layers 2"),
        ({"num_expert_layers": 1}, "num_expert_layers must be at least 2, half of the VLM's, unless"),
    ],
)
def test_layers_that_do_not_meet_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make(make_vlm(tmp_path / "deep", layers=4), **changes)


def test_without_a_camera_it_is_not_trained(vlm):
    numbers = {name: feature for name, feature in features().items() if name != IMAGE}
    with pytest.raises(
        UserError, match="a SmolVLA looks at pictures, and it is to be trained without a camera"
    ):
        KIND.make_config(settings(vlm, inputs=()), numbers, OptimizerConfig(), "cpu")


@pytest.mark.parametrize("name", ["smolvla_pusht", "smolvla_pusht_tiny"])
def test_a_shipped_configuration_is_what_lerobot_is_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act.vlm.main([])
    written = load_yaml(path := REPOSITORY / "configs" / f"{name}.yaml")["policy"]
    chosen = train_act.read_config(["--config", str(path)])
    seen = features(side=96)
    made = KIND.make_config(chosen.policy, seen, chosen.optimizer, "cpu")
    if "vlm_model_name" in written:
        assert made.vlm_model_name == str(tmp_path / written.pop("vlm_model_name"))
        policy, _ = KIND.make_policy(made, chosen.policy, 1, None)
        assert sum(p.numel() for p in policy.parameters()) == 792_546
    assert json.loads(json.dumps({key: getattr(made, key) for key in written})) == written
    assert set(made.input_features) == {STATE, IMAGE} and made.optimizer_lr == chosen.optimizer.lr


# Training and playing


@pytest.fixture
def refused_by(capfd):
    """Calls a script that is to refuse, and returns its sentence."""

    def refused_by(main, flags):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(flags)
        assert stopped.value.code == 2
        return sentence(capfd.readouterr().err)

    return refused_by


@pytest.fixture
def usual(dataset, vlm, tmp_path):
    """The command line of a short training."""
    policy = to_dict(replace(settings(vlm), inputs=()))
    content = {
        "device": "cpu",
        "batch_size": 4,
        "logs": str(tmp_path),
        "run_name": "run",
        "dataset": {"root": str(dataset), "mirror": True},
        "policy": {name: value for name, value in policy.items() if value is not None},
        "optimizer": {"schedule": "constant", "warmup_steps": 0, "micro_batches": 2},
        "training": {"eval_every": 0, "eval_episodes": 1, "video_every": 0},
    }
    (config := tmp_path / "smolvla.yaml").write_text(json.dumps(content))
    return ["--config", str(config)]


@pytest.mark.slow
@pytest.mark.parametrize("all_trained", [True, False])
def test_a_training_that_stopped_goes_on_exactly_and_plays(usual, policy, tmp_path, monkeypatch, all_trained):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))
    if not all_trained:
        save(tmp_path / "other", policy, STATS)
        usual += ["--policy.pretrained", str(tmp_path / "other"), "--policy.train-expert-only"]
    for flags in ("--steps 3", "--steps 6", "--steps 6 --run-name whole"):
        train_act.main([*usual, *flags.split()])
    folders = [tmp_path / name / "checkpoints" / "last" for name in ("run", "whole")]
    for file in ("pretrained_model/model.safetensors", "training_state/trainer.safetensors"):
        resumed, whole = (load_tensors(folder / file) for folder in folders)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[name], whole[name]) for name in whole), file
    average, weights = load_tensors(folders[0] / "pretrained_model/model.safetensors"), resumed
    moved = {name for name in average if not torch.equal(average[name], weights[f"weights.{name}"])}
    assert moved and any(".vlm." in name for name in moved) == all_trained
    numbers = tmp_path / "numbers.json"
    evaluate.main(f"--policy {folders[0]} --episodes 2 --output {tmp_path} --json {numbers}".split())
    assert load_json(numbers)["n_action_steps"] == 2


@pytest.mark.slow
def test_a_strangers_training_is_started_from_as_its_policy_is_opened(usual, tmp_path, refused_by):
    train_act.main([*usual, "--steps", "1"])
    folder = tmp_path / "run" / "checkpoints" / "last"
    file = folder / "pretrained_model" / "train_config.json"
    content = load_json(file)
    start = [*usual, "--run-name", "other", "--steps", "2", "--start-from", str(folder)]
    for change, said in (
        ({"vlm_model_name": "evil/vlm"}, "vlm_model_name must be HuggingFaceTB/"),
        (
            {"adapt_to_pi_aloha": True},
            "no policy to start from: adapt_to_pi_aloha and empty_cameras must be off",
        ),
        ({"num_expert_layers": 99}, "no policy to start from: num_expert_layers must divide 2, got 99"),
        ({"compile_model": True, "rtc_config": {"enabled": True}}, ""),
    ):
        file.write_text(json.dumps(content | {"policy": content["policy"] | change}))
        if said:
            assert said in refused_by(train_act.main, start)
        else:
            assert train_act.main(start)


class Rest(torch.nn.Module):
    """An actor whose noise is 0."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def mode(self, observations):
        return torch.zeros(len(observations), 8)


@pytest.mark.slow
def test_steered_by_noise_0_it_plays_as_it_does_alone(policy):
    task = PushT(num_envs=2, mirror=False, curriculum=0.0)
    steering = Steering(player_of(policy), SteeringConfig(rank=2))
    steered = SACPolicy(Rest(), task, escapes=False, steering=steering)
    alone, env = player_of(policy), PushTVectorEnv(2, 32, max_episode_steps=6)
    ours, theirs = (
        {episode.seed: episode for episode in rollout(env, policy, range(3))} for policy in (steered, alone)
    )
    for seed, episode in theirs.items():
        np.testing.assert_allclose(ours[seed].actions, episode.actions, atol=1e-2)
    training = SteeringEnv(task.training_env(1, gamma=0.98, image_size=32), steering)
    training.reset()
    beside, _ = (env := PushTVectorEnv(2, 32)).reset(seed=training.env.seeds)
    alone.reset(np.arange(2))
    training.step(np.zeros((2, 8)))
    for _ in range(steering.n_action_steps):
        beside, *_ = env.step(alone.act(beside))
    np.testing.assert_allclose(training.env.raw["agent_pos"], beside["agent_pos"], atol=1e-2)
    moved = steering.policy.chunk(beside, noise(2)) - steering.policy.chunk(beside, -noise(2))
    assert np.abs(moved).max() > 1.0


def test_a_random_vlm_that_would_stay_random_is_a_sentence(usual, refused_by):
    said = refused_by(train_act.main, [*usual, "--steps", "1", "--policy.train-expert-only"])
    assert "policy.load_vlm_weights must be true, or" in said
