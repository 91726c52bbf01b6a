"""What a recording leaves: episodes, a card, an upload, something to train on."""

import json
import re
import shutil
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi
from lerobot.datasets import LeRobotDataset

import collect_dataset
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from policies import EXPERT, load_policy
from tests.act.interop import lerobot_trains
from tests.act.tiny import IMAGE, KEYPOINTS, STATE, save
from tests.act.tiny_act import make
from tests.collect_dataset.runs import REPOSITORY, SMALL, content, notes, record
from tests.runs import last_of_each

pytestmark = pytest.mark.slow


def test_failures_are_kept_when_asked_for(tmp_path, short_blocks):
    record(tmp_path / "all", "--policy scripted --episodes 5 --all --observations keypoints")
    opened = LeRobotDataset("local/any", root=tmp_path / "all")
    rows = opened.meta.episodes
    assert list(rows["seed"]) == [7000, 7001, 7002, 7003, 7004]
    assert not all(rows["success"])
    for row in rows:
        successes = opened.hf_dataset.with_format("numpy")["next.success"][
            row["dataset_from_index"] : row["dataset_to_index"]
        ]
        assert bool(np.any(successes)) == row["success"]
    record(
        tmp_path / "good", "--policy scripted --episodes 2 --all --min-coverage 0.5 --observations keypoints"
    )
    good = LeRobotDataset("local/any", root=tmp_path / "good").meta.episodes
    assert min(good["max_coverage"]) >= 0.5


@pytest.mark.parametrize("inputs", [(STATE, KEYPOINTS), (STATE, IMAGE)], ids=["keypoints", "pictures"])
def test_an_act_is_recorded_as_it_plays(tmp_path, short_blocks, forked_workers, monkeypatch, inputs):
    """In episodes of 20 steps; two of them are the second worker's."""
    monkeypatch.setattr("envs.pusht.recording.MAX_EPISODE_STEPS", 20)
    save(make(inputs), tmp_path / "act")
    flags = f"--policy {tmp_path / 'act'} --all --episodes 6 --observations keypoints"
    record(tmp_path / "data", f"{flags} --workers 2")
    policy = load_policy(str(tmp_path / "act"))
    env = PushTVectorEnv(6, policy.image_size, max_episode_steps=20)
    episodes = list(rollout(env, policy, range(7000, 7006)))
    opened = LeRobotDataset("local/any", root=tmp_path / "data").hf_dataset.with_format("numpy")
    actions = np.concatenate([episode.actions for episode in episodes])
    # How many are played together changes the last digits of what a network says.
    np.testing.assert_allclose(np.stack(list(opened["action"])), actions, atol=0.01)


def test_a_card_that_fails_fails_no_recording(tmp_path, short_blocks, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no font, no ffmpeg, no anything")

    flags = "--policy random --episodes 2 --all --observations keypoints"
    with monkeypatch.context() as patch:
        patch.setattr("collect_dataset.write_card", fail)
        record(tmp_path / "data", flags)
    printed = capsys.readouterr()
    assert "warning:" in printed.err and "has no card (no font" in printed.err
    assert "data: 2 episodes" in printed.out
    record(tmp_path / "data", f"{flags} --resume")
    assert (tmp_path / "data/README.md").exists()


def test_without_a_root_it_goes_by_who_plays(tmp_path, short_blocks, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = f"{SMALL} --policy random --all --episodes 1 --observations keypoints"
    assert collect_dataset.main(last_of_each(flags.split()))
    root = "data/pusht_random_keypoints"
    begins, recorded, advice = capsys.readouterr().out.splitlines()
    assert begins == f"recording random on PushT, keypoints, to {root}"
    assert recorded == f"{root}: 1 episodes, 300 frames" and advice.endswith(f"--dataset.root {root}")
    notes = json.loads(Path(root, "meta/recording.json").read_text())
    assert (notes["recipe"]["policy"], notes["recipe"]["task"]) == ("random", "pusht")
    assert LeRobotDataset("local/any", root=root).num_frames == 300


def test_the_card_tells_what_is_there(tmp_path, short_blocks):
    record(tmp_path / "data", "--episodes 4 --observations keypoints")
    card = (tmp_path / "data/README.md").read_text()
    opened = LeRobotDataset("local/any", root=tmp_path / "data")
    actions = np.stack(list(opened.hf_dataset.with_format("numpy")["action"])).astype(np.float64)
    assert f"| frames | {opened.num_frames:,} at 10 Hz" in card
    shown = [actions[:, 0].min(), np.quantile(actions[:, 0], 0.01), np.median(actions[:, 0])]
    assert f"| x | {' | '.join(f'{value:.4g}' for value in shown)} |" in card
    assert "[More Information Needed]" not in card and "Recorded in the simulator" in card
    assert "put the T on its place in 4 of 4 episodes played: 100.0 %" in card
    assert "seeds 7000 to 7003" in card and "assets/" in card and str(REPOSITORY) not in card
    for name in re.findall(r"card/\w+\.\w+", card):
        assert (tmp_path / "data" / name).stat().st_size > 1000


def test_a_strangers_command_stays_one_in_the_card(tmp_path, short_blocks):
    record(tmp_path / "data", "--episodes 1 --observations keypoints")
    file = tmp_path / "data/meta/recording.json"
    said = json.loads(file.read_text()) | {"commands": ["rm\x1b[2J\n```\n# heading"]}
    file.write_text(json.dumps(said))
    record(tmp_path / "data", "--episodes 2 --observations keypoints --resume")
    lines = (tmp_path / "data/README.md").read_text().splitlines()
    assert "rm\\x1b[2J\\n'''\\n# heading" in lines and "# heading" not in lines


@pytest.mark.parametrize(
    "edit", [lambda card: "My words.", lambda card: card + "My words.", lambda card: card[5:]]
)
def test_an_edited_card_stays(tmp_path, short_blocks, capsys, edit):
    """Its pictures are of all episodes, and one that nobody edited is too."""
    flags, card = "--observations keypoints --resume --episodes", tmp_path / "data/README.md"
    record(tmp_path / "data", f"{flags} 3")
    record(tmp_path / "data", f"{flags} 4")
    assert "| episodes | 4, of which" in card.read_text()
    card.write_text(words := edit(card.read_text()))
    before = notes(tmp_path / "data"), content(tmp_path / "data")
    record(tmp_path / "data", f"{flags} 4")
    assert card.read_text() == words
    assert (notes(tmp_path / "data"), content(tmp_path / "data")) == before
    pictures = (tmp_path / "data/card/lengths.png").read_bytes()
    capsys.readouterr()
    record(tmp_path / "data", f"{flags} 5")
    assert card.read_text() == words and "README.md may be edited, so it stays" in capsys.readouterr().out
    assert (tmp_path / "data/card/lengths.png").read_bytes() != pictures
    card.unlink()
    record(tmp_path / "data", f"{flags} 5")
    assert "| episodes | 5, of which" in card.read_text()


def test_sampled_actions_are_of_the_seed(tmp_path, short_blocks):
    for name, sampled in (("one", "--sampled"), ("same", "--sampled"), ("other", "--device cpu")):
        record(tmp_path / name, f"--episodes 4 --observations keypoints {sampled}")
    assert content(tmp_path / "one") == content(tmp_path / "same")
    sampled, modes = (
        LeRobotDataset("local/any", root=tmp_path / name).hf_dataset.with_format("numpy")["action"][0]
        for name in ("one", "other")
    )
    assert (sampled != modes).all()


def test_the_card_links_to_where_the_dataset_will_be(tmp_path, short_blocks):
    for name, flags in (("mine", "--repo-id me/pusht"), ("nameless", "")):
        record(tmp_path / name, f"--episodes 1 --observations keypoints {flags}")
    link = "visualize_dataset?path="
    assert f"{link}me/pusht" in (tmp_path / "mine/README.md").read_text()
    assert link not in (tmp_path / "nameless/README.md").read_text()
    assert collect_dataset.main(
        f"--root {tmp_path / 'nameless'} --resume --episodes 1 --repo-id me/it".split()
    )
    assert f"{link}me/it" in (tmp_path / "nameless/README.md").read_text()


@pytest.mark.parametrize("hindsight", ["", "--hindsight"])
def test_demonstrations_of_people(hindsight, tmp_path, finished, capsys):
    """Episodes of ours, as such a file has them."""
    frames = LeRobotDataset("local/any", root=finished).hf_dataset.with_format("numpy")[:]
    states = np.stack(frames["sim.state"])
    ends = np.flatnonzero(frames["next.done"]) + 1
    people = tmp_path / "people.npz"
    np.savez(people, state=states[:, :5], action=np.stack(frames["action"]), episode_ends=ends)
    flags, said = f"--import-human {people} --root {tmp_path / 'data'} --resolution 32 {hindsight}", []
    for resume in ("", "--resume"):
        assert collect_dataset.main(f"{flags} {resume}".split())
        said.append(re.search(r"data: (\d+) episodes, (\d+) frames", capsys.readouterr().out).groups())
    assert said[0] == said[1]
    episodes, count = map(int, said[0])
    assert episodes > 2 if hindsight else (episodes, count) == (2, len(states))
    assert collect_dataset.main(["--verify", str(tmp_path / "data")])
    how = "exactly" if hindsight else "within 1 px"
    assert f"{episodes} of {episodes} episodes replay {how}" in capsys.readouterr().out
    card = (tmp_path / "data/README.md").read_text()
    assert "Recorded by people for [Diffusion Policy]" in card and "Recorded in the simulator" not in card
    assert "episodes played" not in card
    if hindsight:
        assert re.search(rf"\| policy \| people; of \d+ segments {episodes} succeed", card)
        assert "| starts | moved |" in card and "the recorded states" not in card
    else:
        assert "| policy | people |" in card and "| starts | as recorded |" in card
        assert "computed from the recorded states" in card


class Hub(dict):
    """What was uploaded to me/pusht, by path, in place of huggingface_hub's client."""

    def __init__(self, monkeypatch):
        for name in ("whoami", "create_repo", "upload_folder", "upload_file", "delete_tag", "create_tag"):
            monkeypatch.setattr(HfApi, name, partialmethod(getattr(Hub, name), self))
        monkeypatch.setattr(DatasetCard, "push_to_hub", lambda card, **_: self.update({"README.md": card}))
        self.tags = []

    def whoami(api, self):
        pass

    def create_repo(api, self, repo_id, repo_type, **_):
        assert (repo_id, repo_type) == ("me/pusht", "dataset")

    def upload_folder(api, self, repo_id, folder_path, **_):
        assert repo_id == "me/pusht"
        self.update({str(p.relative_to(folder_path)): p for p in folder_path.rglob("*") if p.is_file()})

    def upload_file(api, self, path_or_fileobj, path_in_repo, repo_id, repo_type):
        assert (repo_id, repo_type) == ("me/pusht", "dataset")
        self[path_in_repo] = path_or_fileobj

    def delete_tag(api, self, *_, **__):
        pass

    def create_tag(api, self, repo_id, tag, **_):
        self.tags.append(tag)


def test_it_is_pushed_with_its_own_card(tmp_path, short_blocks, monkeypatch, capsys):
    hub = Hub(monkeypatch)
    record(tmp_path / "data", "--episodes 1 --push-to-hub me/pusht")
    assert capsys.readouterr().out.splitlines()[-1] == "https://huggingface.co/datasets/me/pusht"
    card = (tmp_path / "data/README.md").read_text()
    assert hub["README.md"].read_text() == card and "visualize_dataset?path=me/pusht" in card
    assert "put the T on its place in 1 of 1 episodes played" in card
    files = [str(p.relative_to(tmp_path / "data")) for p in tmp_path.rglob("data/**/*") if p.is_file()]
    assert sorted(hub) == sorted(files) and hub.tags == ["v3.0"]


@pytest.mark.parametrize("observations", ["pixels", "pixels --video", "keypoints"])
def test_lerobot_train_takes_it_as_it_is(observations, tmp_path, short_blocks):
    record(tmp_path / "data", f"--episodes 2 --observations {observations}")
    checkpoint = lerobot_trains(tmp_path / "data", tmp_path / "run", steps=1)
    config = json.loads((checkpoint / "pretrained_model/config.json").read_text())
    seen = "observation.image" if observations.startswith("pixels") else "observation.environment_state"
    assert config["input_features"].keys() == {seen, "observation.state"}
    assert config["output_features"].keys() == {"action"}


def test_by_default_it_records_what_act_is_trained_on():
    """`python collect_dataset.py` is the command of configs/act_pusht.yaml."""
    act = yaml.safe_load((REPOSITORY / "configs/act_pusht.yaml").read_text())
    config = collect_dataset.Config()
    assert (config.observations, config.hold, config.episodes) == ("keypoints", 10, 2000)
    assert str(collect_dataset.choose_root(config)) == act["dataset"]["root"]
    assert collect_dataset.make_recipe(config).policy == "assets/sac_expert"


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({"observations": "pixels"}, "data/pusht_expert"),
        ({"policy": "scripted"}, "data/pusht_scripted_keypoints"),
        ({"policy": "human", "observations": "pixels"}, "data/pusht_human"),
        ({"import_human": Path("a.npz")}, "data/pusht_people_keypoints"),
        ({"import_human": Path("a.npz"), "hindsight": True}, "data/pusht_people_hindsight_keypoints"),
        ({"import_human": Path("a.npz"), "observations": "pixels"}, "data/pusht_people"),
    ],
)
def test_pictures_and_keypoints_have_folders_of_their_own(settings, root):
    assert str(collect_dataset.choose_root(collect_dataset.Config(**settings))) == root


def test_a_dataset_is_named_after_its_run_wherever_that_lies(tmp_path):
    run = tmp_path / "checkpoints" / "run1"
    checkpoint = run / "checkpoints" / "step_00000001"
    shutil.copytree(EXPERT, checkpoint)
    (run / "checkpoints" / "best").symlink_to(checkpoint.name)
    for policy in (run, run / "checkpoints/best", checkpoint):
        config = collect_dataset.Config(policy=str(policy), observations="pixels")
        assert str(collect_dataset.choose_root(config)) == "data/pusht_run1"


def test_a_resume_keeps_the_settings_of_the_dataset(tmp_path, short_blocks):
    """Also of a dataset from before tasks had names, with a former name of a setting."""
    flags = "--noise 3 1 --hold 2"
    record(tmp_path / "whole", f"{flags} --episodes 6")
    record(tmp_path / "data", f"{flags} --episodes 4")
    file = tmp_path / "data/meta/recording.json"
    saved = json.loads(file.read_text())
    del saved["recipe"]["task"]
    saved["recipe"]["min_coverage"] = saved["recipe"].pop("min_progress")
    file.write_text(json.dumps(saved))
    assert collect_dataset.main(f"--root {tmp_path / 'data'} --resume --episodes 6".split())
    assert content(tmp_path / "data") == content(tmp_path / "whole")
    assert notes(tmp_path / "data") == notes(tmp_path / "whole")
    assert collect_dataset.main(["--verify", str(tmp_path / "data")])
