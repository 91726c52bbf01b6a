"""A person at the mouse: a window in which the agent follows the pointer, ten times a second.

An episode begins when the pointer comes near the agent. It ends when the T is on its place, or when the
person saves or discards it. When time is up, the window waits for one of the two.
"""

from collections.abc import Sequence

import numpy as np
import pygame

from common.errors import UserError, reason
from envs.interfaces import RawObservation
from envs.pusht.observations import BOARD_PX, FPS
from envs.pusht.renderer import Renderer
from envs.pusht.vector import PushTVectorEnv
from envs.recording import Discard, Quit, Undo

BOARD_SCREEN_PX, TEXT_SCREEN_PX = 640, 56  # height of the board on the screen, and of the text below it
INVISIBLE_DRIVERS = "dummy", "offscreen"  # of SDL, which it uses where there is no screen
START_DISTANCE_PX = 30.0  # on the board, between pointer and agent, at which an episode begins
TEXT_COLOR = "#22262b"
KEYS = "space: save   backspace: discard   u: undo the last   escape: quit"


class Window:
    """A window as an `envs.recording.HumanPolicy`.

    Args:
        env: of one slot.
        stop: (1,) bool; True ends the episode with its next step, as it is.
        wanted: episodes that there will be.

    Raises:
        UserError: there is no screen.
    """

    n_action_steps = 1
    image_size = 0

    def __init__(self, env: PushTVectorEnv, stop: np.ndarray, wanted: int) -> None:
        try:
            pygame.display.init()
            if pygame.display.get_driver() in INVISIBLE_DRIVERS:
                raise pygame.error(f"SDL would draw to {pygame.display.get_driver()}, which nobody sees")
            self.screen = pygame.display.set_mode((BOARD_SCREEN_PX, BOARD_SCREEN_PX + TEXT_SCREEN_PX))
        except pygame.error as error:
            raise UserError(
                f"--policy human needs a screen to open a window on, and there is none ({reason(error)}); "
                "start it from a desktop"
            ) from None
        pygame.display.set_caption("PushT")
        pygame.font.init()
        self.font = pygame.font.Font(None, 26)
        self.env, self.stop, self.wanted, self.saved = env, stop, wanted, 0
        self.renderer, self.clock = Renderer(BOARD_SCREEN_PX, BOARD_SCREEN_PX), pygame.time.Clock()
        self.pointer = np.full(2, np.inf)  # in pixels of the board
        self.begun = False

    def close(self) -> None:
        pygame.display.quit()

    def seed_slots(self, seeds: Sequence[int]) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        self.begun = False

    def act(self, observations: RawObservation) -> np.ndarray:
        """Draw, wait for the next tick, and read the pointer: target (1, 2), pixels.

        Raises:
            Discard, Undo, Quit: the person pressed that key.
        """
        while True:
            self._draw(observations)
            self.clock.tick(FPS)
            for event in pygame.event.get():
                self._handle(event)
            distance = np.linalg.norm(self.pointer - observations["agent_pos"][0])
            self.begun = self.begun or bool(distance < START_DISTANCE_PX)
            if self.begun:
                return np.clip(self.pointer, 0.0, BOARD_PX)[None]

    def decide(self) -> None:
        """Time is up: wait until the person saves the episode.

        Raises:
            Discard, Undo, Quit: the person pressed that key instead.
        """
        while not self.stop[0]:
            self._draw(self.env.observations())
            self.clock.tick(FPS)
            for event in pygame.event.get():
                self._handle(event)

    def _handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            raise Quit
        if event.type == pygame.MOUSEMOTION:
            self.pointer = np.array(event.pos) * BOARD_PX / BOARD_SCREEN_PX
        if event.type == pygame.KEYDOWN:
            if event.key == pygame.K_SPACE and self.begun:
                self.stop[0] = True
            elif event.key in (pygame.K_BACKSPACE, pygame.K_DELETE):
                raise Discard
            elif event.key == pygame.K_u:
                raise Undo
            elif event.key == pygame.K_ESCAPE:
                raise Quit

    def _draw(self, observations: RawObservation) -> None:
        target = tuple(self.pointer) if self.begun else None
        frame = self.renderer.draw(observations["agent_pos"][0], observations["block_pose"][0], (), target)
        pygame.surfarray.blit_array(
            self.screen.subsurface((0, 0, BOARD_SCREEN_PX, BOARD_SCREEN_PX)), frame.transpose(1, 0, 2)
        )
        self.screen.fill("white", (0, BOARD_SCREEN_PX, BOARD_SCREEN_PX, TEXT_SCREEN_PX))
        coverage = self.env.infos()["progress"][0]
        left = (self.env.max_episode_steps - self.env.steps[0]) / FPS
        time = f"{left:.0f} s left" if left else "time is up: save it or discard it"
        begin = "bring the pointer to the blue disc to begin"
        state = f"coverage {coverage:.2f}   {time}" if self.begun else begin
        for line, text in enumerate((f"{self.saved} of {self.wanted} saved   {state}", KEYS)):
            self.screen.blit(self.font.render(text, True, TEXT_COLOR), (10, BOARD_SCREEN_PX + 6 + 24 * line))
        pygame.display.flip()
