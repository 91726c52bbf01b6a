"""How fast ACT trains here beside `lerobot-train`: the same policy, dataset, batch and machine.

    python benchmarks/act_speed.py                                            small, from keypoints
    python benchmarks/act_speed.py --config configs/act_pusht_image.yaml      full size, pictures, for a GPU

The configuration is one of train_act.py's, which translates it to LeRobot's terms; LeRobot has its own
number of loader workers. They take turns, a process each; a rate is the median over the turns, in wall time,
from the first update after the warm-up to the last. The third contestant is ours with what LeRobot does not
offer: compiled, and on a GPU in bfloat16.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import torch
from accelerate import Accelerator
from lerobot.scripts import lerobot_train

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

import train_act
from act.config import Config as TrainConfig
from act.config import make_pipeline_config
from act.dataset import open_dataset
from act.kinds import DEFAULT, with_kind
from common.config import parse, read_first
from common.device import choose_device, use_threads
from common.errors import report_user_errors
from common.provenance import provenance, write_report
from envs.tasks import task_class

LEROBOT, OURS, TUNED = "lerobot-train", "ours", "ours, compiled"


@dataclass(frozen=True)
class Config(TrainConfig):
    """train_act.py's settings, and what to measure."""

    updates: int = 50  # measured in each turn
    warm_up: int = 10  # updates before them; a compiled contestant compiles there
    turns: int = 3  # of each contestant
    workers: int = 4  # processes of LeRobot's loader, its default
    only: str = ""  # measure this contestant once, and print its updates per second
    json: Path = field(default=Path("logs/benchmarks/act_speed.json"))  # where to write the results

    def validate(self) -> None:
        super().validate()
        for name, least in {"updates": 1, "turns": 1, "warm_up": 0, "workers": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.only not in ("", LEROBOT, OURS, TUNED):
            raise ValueError(f"only must be one of {LEROBOT}, {OURS} and {TUNED}, got {self.only}")


class Stopwatch:
    """Counts updates; asked before each, it says when enough are measured."""

    def __init__(self, config: Config) -> None:
        self.first, self.last = config.warm_up, config.warm_up + config.updates
        self.updates, self.started, self.seconds = 0, 0.0, 0.0

    def __call__(self) -> bool:
        if self.updates in (self.first, self.last):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = perf_counter()
            self.seconds, self.started = now - self.started, now
        self.updates += 1
        return self.updates > self.last

    def rate(self) -> float:
        """Updates per second."""
        return (self.last - self.first) / self.seconds


class Enough(Exception):
    """Ends a training of LeRobot's."""


def measure_lerobot(config: Config, folder: Path) -> float:
    stopwatch, update = Stopwatch(config), lerobot_train.update_policy

    def timed(*args, **kwargs):
        if stopwatch():
            raise Enough
        return update(*args, **kwargs)

    lerobot_train.update_policy = timed
    device = choose_device(config.device)
    meta = open_dataset(config.dataset, task_class(config.task)())
    pipeline_config = make_pipeline_config(config, meta, device, folder / "lerobot")
    pipeline_config.num_workers, pipeline_config.save_checkpoint = config.workers, False
    with suppress(Enough):
        lerobot_train.train(pipeline_config)
    return stopwatch.rate()


def measure_ours(config: Config, folder: Path) -> float:
    trainer, _ = train_act.build_trainer(config, folder, None, Accelerator(cpu=config.device == "cpu"))
    stopwatch = Stopwatch(config)
    trainer.train(None, stopwatch)
    return stopwatch.rate()


def measure(config: Config) -> float:
    """One contestant's updates per second, in this process."""
    use_threads(config.threads)
    nothing_else = replace(config.training, eval_every=0, keep_every=0)
    config = replace(config, steps=config.warm_up + config.updates + 1, training=nothing_else)
    if config.only == TUNED:
        on_gpu = choose_device(config.device).type == "cuda"
        precision = "bf16" if on_gpu else config.optimizer.precision
        config = replace(config, optimizer=replace(config.optimizer, compile=True, precision=precision))
    else:
        config = replace(config, optimizer=replace(config.optimizer, compile=False, precision="tf32"))
    with tempfile.TemporaryDirectory() as folder:
        contestant = measure_lerobot if config.only == LEROBOT else measure_ours
        return contestant(config, Path(folder))


def compete(config: Config) -> dict[str, list[float]]:
    """Updates per second of each contestant in each turn, every one a process of its own."""
    rates: dict[str, list[float]] = {name: [] for name in (LEROBOT, OURS, TUNED)}
    for turn in range(config.turns):
        for name, each in rates.items():
            command = [sys.executable, *sys.argv, "--only", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ, check=True)
            each.append(float(done.stdout.split()[-1]))
            print(f"turn {turn + 1}: {name:<16}{each[-1]:9.2f} updates/s", flush=True)
    return rates


def report(config: Config, rates: dict[str, list[float]]) -> dict:
    medians = {name: statistics.median(each) for name, each in rates.items()}
    device = choose_device(config.device)
    return provenance("lerobot", "torch", "accelerate") | {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "batch_size": config.batch_size,
        "updates_per_s": medians,
        "ratios": {name: rate / medians[LEROBOT] for name, rate in medians.items()},
        "turns": rates,
    }


@report_user_errors()
def main() -> None:
    kind = read_first("policy.type", None, train_act.DEFAULT_CONFIG, DEFAULT)
    config = parse(with_kind(Config, kind), None, train_act.DEFAULT_CONFIG, description=__doc__)
    if config.only:
        print(measure(config))
        return
    numbers = report(config, compete(config))
    print(f"\n{'':<18}{'updates/s':>11}{'samples/s':>12}{'ratio':>8}")
    for name, rate in numbers["updates_per_s"].items():
        print(f"{name:<18}{rate:11.2f}{rate * config.batch_size:12,.0f}{numbers['ratios'][name]:7.2f}x")
    write_report(config.json, numbers)


if __name__ == "__main__":
    main()
