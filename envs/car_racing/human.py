"""A person at the keyboard: the arrow keys, as in Gymnasium's game; space brakes as the down arrow does."""

import numpy as np
import pygame

from envs.car_racing.car import FPS, MAX_EPISODE_STEPS
from envs.car_racing.vector import CarRacingVectorEnv
from envs.window import COMMON_KEYS, SIDE_PX, Window

BRAKE = 0.8  # of 1, at which the wheels lock
STEERING = {pygame.K_LEFT: -1.0, pygame.K_RIGHT: 1.0}
GAS_KEYS, BRAKE_KEYS = {pygame.K_UP}, {pygame.K_SPACE, pygame.K_DOWN}


class KeyboardWindow(Window):
    """An episode begins with the first key that drives.

    Args:
        env: of one slot.
        stop, wanted: see `Window`.
    """

    save_key = pygame.K_RETURN
    keys = f"arrows, space: drive   enter: save   {COMMON_KEYS}"
    how_to_begin = "press an arrow key to begin"

    def __init__(self, env: CarRacingVectorEnv, stop: np.ndarray, wanted: int) -> None:
        super().__init__("CarRacing", FPS, stop, wanted)
        self.env = env
        self.held: set[int] = set()  # keys
        self.steps = 0  # of this episode

    def reset(self, slots: np.ndarray) -> None:
        super().reset(slots)
        self.held.clear()  # until it is pressed again, also the one that ended the last episode
        self.steps = 0

    def picture(self) -> np.ndarray:
        return self.env.frames(SIDE_PX, np.zeros(1, int))[0]

    def state(self) -> str:
        left = (MAX_EPISODE_STEPS - self.steps) / FPS
        over = not self.env.active[0]
        time = "it is over: save it or discard it" if over else f"{left:.0f} s left"
        return f"visited {100 * self.env.progress()[0]:.0f} %   {time}"

    def begins(self) -> bool:
        return bool(self.held & (STEERING.keys() | GAS_KEYS | BRAKE_KEYS))

    def control(self) -> np.ndarray:
        """Steering, gas and brake."""
        self.steps += 1
        steering = sum(STEERING.get(key, 0.0) for key in self.held)
        return np.array([steering, bool(self.held & GAS_KEYS), BRAKE * bool(self.held & BRAKE_KEYS)])

    def handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.KEYDOWN:
            self.held.add(event.key)
        elif event.type == pygame.KEYUP:
            self.held.discard(event.key)
        elif event.type == pygame.WINDOWFOCUSLOST:  # another window hears them rise
            self.held.clear()
