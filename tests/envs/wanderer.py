"""A policy that can be steered, and whose chunks can be computed by hand."""

import numpy as np

SHAPE = (6, 2)


class Wanderer:
    """Chunks of six steps, which lead away from the agent by the sum of the noise up to there."""

    noise_shape, chunk_size, n_action_steps, image_size, sampled = SHAPE, 6, 4, 0, False
    history, sees = 1, ("agent_pos",)

    def chunk(self, observations, noise):
        return observations["agent_pos"][:, None] + 20.0 * noise.cumsum(axis=1)

    def inputs(self, observations):
        return observations["agent_pos"].astype(np.float32)

    def chunk_of(self, inputs, noise):
        return inputs[:, None] + 20.0 * noise.cumsum(dim=1)
