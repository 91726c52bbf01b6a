"""A person at the mouse: a window in which the agent follows the pointer, ten times a second.

An episode begins when the pointer comes near the agent and ends when the T is on its place, or when it is
said to. When time is up, who played says whether it is to be kept.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pygame

from common.errors import UserError, reason
from envs.interfaces import RawObservation
from envs.pusht.observations import FPS
from envs.pusht.renderer import Renderer
from recording.dataset import Dataset
from recording.play import RecordingEnv, play
from recording.schema import Recorded

SIDE, BAR = 640, 56  # pixels of the board on the screen, and of the text below it
INVISIBLE = "dummy", "offscreen"  # SDL's screens that nobody sees, to which it turns if there is no other
NEAR = 30.0  # pixels of the board between pointer and agent at which an episode begins
KEYS = "space: save   backspace: discard   u: undo the last   escape: quit"


class Discard(Exception):
    """This episode is not wanted."""


class Undo(Exception):
    """The last saved episode is not wanted, nor is this one."""


class Quit(Exception):
    """Enough."""


class Window:
    """A policy that asks a person.

    Args:
        env: with one slot; told to end the episode when it is to be saved as it is.
        wanted: episodes that there will be.

    Raises:
        UserError: there is no screen.
    """

    n_action_steps = 1
    image_size = 0

    def __init__(self, env: RecordingEnv, wanted: int) -> None:
        try:
            pygame.display.init()
            if pygame.display.get_driver() in INVISIBLE:
                raise pygame.error(f"SDL would draw to {pygame.display.get_driver()}, which nobody sees")
            self.screen = pygame.display.set_mode((SIDE, SIDE + BAR))
        except pygame.error as error:
            raise UserError(
                f"--policy human needs a screen to open a window on, and there is none ({reason(error)}); "
                "start it from a desktop"
            ) from None
        pygame.display.set_caption("PushT")
        pygame.font.init()
        self.font = pygame.font.Font(None, 26)
        self.env, self.wanted, self.saved = env, wanted, 0
        self.renderer, self.clock = Renderer(SIDE, SIDE), pygame.time.Clock()
        self.pointer = np.full(2, np.inf)  # in pixels of the board
        self.begun = False

    def close(self) -> None:
        pygame.display.quit()

    def seed_slots(self, seeds: Sequence[int]) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        self.begun = False

    def act(self, observations: RawObservation) -> np.ndarray:
        """One tick: draw, wait, see what the person did.

        Raises:
            Discard, Undo, Quit: as the person wishes.
        """
        while True:
            self._draw(observations)
            self.clock.tick(FPS)
            for event in pygame.event.get():
                self._heed(event)
            distance = np.linalg.norm(self.pointer - observations["agent_pos"][0])
            self.begun = self.begun or bool(distance < NEAR)
            if self.begun:
                return np.clip(self.pointer, 0.0, 512.0)[None]

    def decide(self) -> None:
        """Time is up: wait until the person saves the episode.

        Raises:
            Discard, Undo, Quit: or not.
        """
        while not self.env.stop[0]:
            self._draw(self.env.observations())
            self.clock.tick(FPS)
            for event in pygame.event.get():
                self._heed(event)

    def _heed(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            raise Quit
        if event.type == pygame.MOUSEMOTION:
            self.pointer = np.array(event.pos) * 512.0 / SIDE
        if event.type == pygame.KEYDOWN:
            if event.key == pygame.K_SPACE and self.begun:
                self.env.stop[0] = True
            elif event.key in (pygame.K_BACKSPACE, pygame.K_DELETE):
                raise Discard
            elif event.key == pygame.K_u:
                raise Undo
            elif event.key == pygame.K_ESCAPE:
                raise Quit

    def _draw(self, observations: RawObservation) -> None:
        target = self.pointer if self.begun else None
        frame = self.renderer.draw(observations["agent_pos"][0], observations["block_pose"][0], (), target)
        pygame.surfarray.blit_array(self.screen.subsurface((0, 0, SIDE, SIDE)), frame.transpose(1, 0, 2))
        self.screen.fill("white", (0, SIDE, SIDE, BAR))
        coverage = self.env.infos()["progress"][0]
        left = (self.env.max_episode_steps - self.env.steps[0]) / FPS
        time = f"{left:.0f} s left" if left else "time is up: save it or discard it"
        begin = "bring the pointer to the blue disc to begin"
        state = f"coverage {coverage:.2f}   {time}" if self.begun else begin
        for line, text in enumerate((f"{self.saved} of {self.wanted} saved   {state}", KEYS)):
            self.screen.blit(self.font.render(text, True, "#22262b"), (10, SIDE + 6 + 24 * line))
        pygame.display.flip()


def record_human(dataset: Dataset, episodes: int) -> bool:
    """Let a person play until there are `episodes`, each of them saved as it ends.

    Returns:
        False if the person quit before.

    Raises:
        UserError: there is no screen, or the disk is full.
    """
    env = RecordingEnv(1, dataset.notes.recipe)
    window = Window(env, episodes)
    try:
        while dataset.episodes < episodes:
            window.saved = dataset.episodes
            seed = dataset.notes.next_seed
            try:
                (episode,) = play(env, window, [seed], rests=False)
                if not episode.success:
                    window.decide()
                _keep(dataset, episode)
            except Discard:
                _pass_over(dataset)
            except Undo:
                _take_back(dataset)
    except Quit:
        return False
    finally:
        window.close()
    return True


def _keep(dataset: Dataset, episode: Recorded) -> None:
    if not episode.accepted:
        print(f"seed {episode.seed}: not saved, its coverage is too small")
        _pass_over(dataset)
        return
    notes = dataset.notes
    successes = notes.successes + episode.success
    after = replace(notes, next_seed=episode.seed + 1, attempts=notes.attempts + 1, successes=successes)
    dataset.append([episode], after)


def _pass_over(dataset: Dataset) -> None:
    """Go on with the next start; written down with the next episode."""
    notes = dataset.notes
    dataset.notes = replace(notes, next_seed=notes.next_seed + 1, attempts=notes.attempts + 1)


def _take_back(dataset: Dataset) -> None:
    if dataset.episodes:
        dataset.drop_last()
