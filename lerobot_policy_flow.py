"""The flow policy of `act/flow.py` as a plugin of LeRobot.

LeRobot's commands import each installed package whose name begins with `lerobot_policy_`. With the repository
on PYTHONPATH this module is one, because of the folder `lerobot_policy_flow-1.0.dist-info`:

    PYTHONPATH=. lerobot-eval --policy.path=logs/RUN/checkpoints/best/pretrained_model ...
"""

from act import flow  # noqa: F401  registers it
