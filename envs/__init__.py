"""PushT, fast and equal to the original: importing this package registers `pusht_fast/PushT-v0`."""

import gymnasium

gymnasium.register("pusht_fast/PushT-v0", entry_point="envs.pusht.simulator:PushTEnv", max_episode_steps=300)
