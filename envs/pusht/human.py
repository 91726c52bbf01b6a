"""A person at the mouse: the agent follows the pointer, ten times a second."""

import numpy as np
import pygame

from envs.pusht.observations import BOARD_PX, FPS
from envs.pusht.renderer import Renderer
from envs.pusht.vector import PushTVectorEnv
from envs.window import SIDE_PX, Window

START_DISTANCE_PX = 30.0  # on the board, between pointer and agent, at which an episode begins


class PointerWindow(Window):
    """An episode begins when the pointer comes near the agent.

    Args:
        env: of one slot.
        stop, wanted: see `Window`.
    """

    how_to_begin = "bring the pointer to the blue disc to begin"

    def __init__(self, env: PushTVectorEnv, stop: np.ndarray, wanted: int) -> None:
        super().__init__("PushT", FPS, stop, wanted)
        self.env = env
        self.renderer = Renderer(SIDE_PX, SIDE_PX)
        self.pointer = np.full(2, np.inf)  # in pixels of the board

    def picture(self) -> np.ndarray:
        shown = self.env.observations()
        target = tuple(self.pointer) if self.begun else None
        return self.renderer.draw(shown["agent_pos"][0], shown["block_pose"][0], (), target)

    def state(self) -> str:
        left = (self.env.max_episode_steps - self.env.steps[0]) / FPS
        time = f"{left:.0f} s left" if left else "time is up: save it or discard it"
        return f"coverage {self.env.infos()['progress'][0]:.2f}   {time}"

    def begins(self) -> bool:
        distance = np.linalg.norm(self.pointer - self.env.observations()["agent_pos"][0])
        return bool(distance < START_DISTANCE_PX)

    def control(self) -> np.ndarray:
        return np.clip(self.pointer, 0.0, BOARD_PX)

    def handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.MOUSEMOTION:
            self.pointer = np.array(event.pos) * BOARD_PX / SIDE_PX
