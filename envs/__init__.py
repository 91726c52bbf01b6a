"""PushT, fast and equal to the original: importing this package registers `pusht_fast/PushT-v0`."""

import warnings

import gymnasium

# At every start, since pygame asks setuptools for a package that is to go; the locked versions fit together.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
gymnasium.register("pusht_fast/PushT-v0", entry_point="envs.pusht:PushTEnv", max_episode_steps=300)
