"""A person made of SDL events, at a window on SDL's screen that shows nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pygame
import pytest
from lerobot.datasets import LeRobotDataset

import envs.pusht.recording
from envs import window
from envs.window import SIDE_PX, Window
from recording.dataset import Dataset, Notes
from recording.human import record_human
from recording.schema import HUMAN, Recipe


class Person:
    """Does one thing per tick: moves the pointer to a place of the board, presses a key, or what it says."""

    def __init__(self, monkeypatch, *deeds):
        monkeypatch.setattr(window, "INVISIBLE_DRIVERS", ())
        self.deeds = iter(deeds)
        self.seen = []
        self.draw = Window._draw
        monkeypatch.setattr(Window, "_draw", lambda window: self.look(window))
        self.ticks = set()  # as often per second
        monkeypatch.setattr(pygame.time, "Clock", lambda: SimpleNamespace(tick=self.ticks.add))  # no waiting

    def look(self, window):
        self.draw(window)
        self.seen.append(pygame.surfarray.array3d(window.screen).transpose(1, 0, 2))
        deed = next(self.deeds)
        if isinstance(deed, pygame.event.EventType):
            pygame.event.post(deed)
            return
        if deed == "agent":
            deed = window.env.observations()["agent_pos"][0]
        if isinstance(deed, int):
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=deed))
        else:
            x, y = np.array(deed) * SIDE_PX / 512
            event = pygame.event.Event(pygame.MOUSEMOTION, pos=(x, y), rel=(0, 0), buttons=(0, 0, 0))
            pygame.event.post(event)


PLACES = [(100.0, 80.0), (120.0, 80.0), (140.0, 90.0)]


def test_the_pointer_leads_the_agent(new_dataset, monkeypatch):
    person = Person(monkeypatch, (0, 0), "agent", *PLACES, pygame.K_SPACE, "agent", PLACES[0], pygame.K_SPACE)
    dataset = new_dataset(all=True)
    assert record_human(dataset, 2)
    opened = LeRobotDataset("local/mine", root=dataset.root)
    assert list(opened.meta.episodes["length"]) == [5, 3]
    actions = np.stack(opened.hf_dataset.with_format("numpy")[:]["action"])
    np.testing.assert_allclose(actions[1:4], PLACES, atol=1e-4)
    np.testing.assert_allclose(actions[4], PLACES[-1], atol=1e-4)  # space: the pointer has not moved
    assert list(opened.meta.episodes["seed"]) == [7000, 7001]
    assert person.ticks == {10}
    board, text = np.split(person.seen[0], [SIDE_PX])
    assert board.std() > 20 and text.min() < 100


def test_discard_undo_and_quit(new_dataset, monkeypatch):
    save = ("agent", PLACES[0], pygame.K_SPACE)
    Person(
        monkeypatch,
        *save,  # seed 7000
        *("agent", PLACES[0], pygame.K_BACKSPACE),  # seed 7001
        *save,  # seed 7002
        pygame.K_u,  # takes 7002 back
        *save,  # seed 7003
        pygame.K_ESCAPE,
    )
    dataset = new_dataset(all=True)
    assert not record_human(dataset, 9)
    opened = LeRobotDataset("local/mine", root=dataset.root)
    assert list(opened.meta.episodes["seed"]) == [7000, 7003]
    assert (dataset.notes.attempts, dataset.notes.successes) == (4, 0)


@pytest.mark.slow
def test_when_time_is_up_the_person_decides(new_dataset, monkeypatch):
    monkeypatch.setattr(envs.pusht.recording, "MAX_EPISODE_STEPS", 2)
    episode = ("agent", PLACES[0])
    Person(
        monkeypatch,
        *(*episode, PLACES[1], pygame.K_SPACE),  # seed 7000
        *(*episode, PLACES[1], pygame.K_BACKSPACE),  # seed 7001
        *(*episode, pygame.K_SPACE),  # seed 7002
        pygame.K_ESCAPE,
    )
    dataset = new_dataset(all=True)
    assert not record_human(dataset, 9)
    opened = LeRobotDataset("local/mine", root=dataset.root)
    assert list(opened.meta.episodes["seed"]) == [7000, 7002]
    assert list(opened.meta.episodes["length"]) == [2, 2]


def test_a_success_taken_back_is_none(block, new_dataset):
    dataset = new_dataset()
    dataset.append(block[:2], replace(dataset.notes, attempts=2, successes=2))
    for left in (1, 0):
        dataset.drop_last()
        assert dataset.notes.successes == left


def test_nothing_is_saved_before_it_has_begun(new_dataset, monkeypatch):
    Person(monkeypatch, (0, 0), pygame.K_SPACE, (0, 0), pygame.K_ESCAPE)
    dataset = new_dataset(all=True)
    assert not record_human(dataset, 1)
    assert not dataset.root.exists()


def release(key):
    return pygame.event.Event(pygame.KEYUP, key=key)


def test_keys_drive_the_car(tmp_path, monkeypatch):
    nothing = pygame.event.Event(pygame.USEREVENT)
    person = Person(
        monkeypatch,
        *(nothing, pygame.K_UP, nothing, pygame.K_LEFT, pygame.K_RIGHT),
        *(release(pygame.K_LEFT), release(pygame.K_UP), pygame.K_SPACE),
        *(pygame.event.Event(pygame.WINDOWFOCUSLOST), pygame.K_RETURN),
        *(pygame.K_DOWN, pygame.K_ESCAPE),
    )
    settings = {"observations": "pixels", "resolution": 16, "all": True, "seed": 7_000}
    recipe = Recipe(policy=HUMAN, fingerprint=HUMAN, task="car_racing", **settings)
    dataset = Dataset(tmp_path / "data", Notes(recipe, next_seed=7_000))
    assert not record_human(dataset, 2)
    opened = LeRobotDataset("local/car", root=dataset.root)
    actions = np.stack(opened.hf_dataset.with_format("numpy")[:]["action"])
    expected = [
        *([0, 1, 0], [0, 1, 0], [-1, 1, 0], [0, 1, 0]),  # both arrows are none
        *([1, 1, 0], [1, 0, 0], [1, 0, 0.8], [0, 0, 0], [0, 0, 0]),
    ]
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    assert person.ticks == {50}
    picture, text = np.split(person.seen[0], [SIDE_PX])
    assert picture.std() > 20 and text.min() < 100


def test_a_key_that_is_held_when_an_episode_ends_does_not_begin_the_next(tmp_path, monkeypatch):
    person = Person(
        monkeypatch,
        *(pygame.K_UP, pygame.K_BACKSPACE),  # seed 7000; up stays down
        *(pygame.event.Event(pygame.USEREVENT), release(pygame.K_UP), pygame.K_LEFT, pygame.K_RETURN),
        pygame.K_ESCAPE,
    )
    settings = {"observations": "pixels", "resolution": 16, "all": True, "seed": 7_000}
    recipe = Recipe(policy=HUMAN, fingerprint=HUMAN, task="car_racing", **settings)
    dataset = Dataset(tmp_path / "data", Notes(recipe, next_seed=7_000))
    assert not record_human(dataset, 2) and len(person.seen) == 7
    opened = LeRobotDataset("local/car", root=dataset.root)
    actions = np.stack(opened.hf_dataset.with_format("numpy")[:]["action"])
    np.testing.assert_array_equal(actions, [[-1, 0, 0], [-1, 0, 0]])
