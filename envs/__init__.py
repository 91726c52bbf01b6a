"""Tasks and what plays them. Importing this package registers `pusht_fast/PushT-v0` at Gymnasium."""

import gymnasium

import common.start  # noqa: F401  before Numba is imported

gymnasium.register("pusht_fast/PushT-v0", entry_point="envs.pusht.simulator:PushTEnv", max_episode_steps=300)
