"""A person at the controls: a window that shows one environment and asks for an action at each of its steps.

An episode begins with the person's first action. It ends with a success, with the environment's own end, or
when the person saves or discards it. When it ends without a success, the window waits for one of the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pygame

from common.errors import UserError, reason
from envs.interfaces import RawObservation
from envs.recording import Discard, Quit, Undo

SIDE_PX, TEXT_PX = 640, 56  # of the picture, and height of the text below it
INVISIBLE_DRIVERS = "dummy", "offscreen"  # of SDL, which it uses where there is no screen
TEXT_COLOR = "#22262b"
COMMON_KEYS = "backspace: discard   u: undo   esc: quit"


class Window(ABC):
    """A window as an `envs.recording.HumanPolicy`. Subclasses draw the picture and read the controls.

    Args:
        title: of the window.
        fps: steps of the environment per second.
        stop: (1,) bool; True ends the episode with its next step, as it is.
        wanted: episodes that there will be.

    Raises:
        UserError: there is no screen.
    """

    n_action_steps = 1
    image_size = 0
    history = 1
    save_key = pygame.K_SPACE
    keys = f"space: save   {COMMON_KEYS}"
    how_to_begin = ""

    def __init__(self, title: str, fps: int, stop: np.ndarray, wanted: int) -> None:
        try:
            pygame.display.init()
            if pygame.display.get_driver() in INVISIBLE_DRIVERS:
                raise pygame.error(f"SDL would draw to {pygame.display.get_driver()}, which nobody sees")
            self.screen = pygame.display.set_mode((SIDE_PX, SIDE_PX + TEXT_PX))
        except pygame.error as error:
            raise UserError(
                f"--policy human needs a screen to open a window on, and there is none ({reason(error)}); "
                "start it from a desktop"
            ) from None
        pygame.display.set_caption(title)
        pygame.font.init()
        self.font = pygame.font.Font(None, 26)
        self.fps, self.stop, self.wanted, self.saved = fps, stop, wanted, 0
        self.clock = pygame.time.Clock()
        self.begun = False

    @abstractmethod
    def picture(self) -> np.ndarray:
        """The environment as it is now, (SIDE_PX, SIDE_PX, 3) uint8 RGB."""

    @abstractmethod
    def state(self) -> str:
        """How far the episode is, for the line below the picture."""

    @abstractmethod
    def control(self) -> np.ndarray:
        """What the person does, (A,) in the task's units."""

    @abstractmethod
    def begins(self) -> bool:
        """Whether the person has begun to act."""

    @abstractmethod
    def handle(self, event: pygame.event.Event) -> None:
        """Take note of what the person does."""

    def close(self) -> None:
        pygame.display.quit()

    def seed_slots(self, seeds: Sequence[int]) -> None:
        del seeds  # a person has none

    def reset(self, slots: np.ndarray) -> None:
        self.begun = False

    def act(self, observations: RawObservation) -> np.ndarray:
        """Draw, wait for the next tick, and ask: action (1, A).

        Raises:
            Discard, Undo, Quit: the person pressed that key.
        """
        while True:
            self._tick()
            self.begun = self.begun or self.begins()
            if self.begun:
                return self.control()[None]

    def decide(self) -> None:
        """Time is up: wait until the person saves the episode.

        Raises:
            Discard, Undo, Quit: the person pressed that key instead.
        """
        while not self.stop[0]:
            self._tick()

    def _tick(self) -> None:
        self._draw()
        self.clock.tick(self.fps)
        for event in pygame.event.get():
            self._handle(event)

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            raise Quit
        if event.type == pygame.KEYDOWN:
            if event.key == self.save_key and self.begun:
                self.stop[0] = True
            elif event.key in (pygame.K_BACKSPACE, pygame.K_DELETE):
                raise Discard
            elif event.key == pygame.K_u:
                raise Undo
            elif event.key == pygame.K_ESCAPE:
                raise Quit
        self.handle(event)

    def _draw(self) -> None:
        board = self.screen.subsurface((0, 0, SIDE_PX, SIDE_PX))
        pygame.surfarray.blit_array(board, self.picture().transpose(1, 0, 2))
        self.screen.fill("white", (0, SIDE_PX, SIDE_PX, TEXT_PX))
        state = self.state() if self.begun else self.how_to_begin
        for line, text in enumerate((f"{self.saved} of {self.wanted} saved   {state}", self.keys)):
            self.screen.blit(self.font.render(text, True, TEXT_COLOR), (10, SIDE_PX + 6 + 24 * line))
        pygame.display.flip()
