"""Every test runs offline, without a screen, on one thread of torch and OpenCV, and hears Ctrl-C."""

import getpass
import os
import signal
import tempfile

# Before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SDL_VIDEODRIVER"] = "dummy"

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from common.device import usual_priority
from tests.runs import sentence

torch.set_num_threads(1)
cv2.setNumThreads(1)  # a fork, which many tests make, would wait forever for its threads
# Else torch.compile finds what it made for other instructions (ATEN_CPU_CAPABILITY), which does not compile.
CAPABILITY = torch.backends.cpu.get_cpu_capability().replace(" ", "_").lower()
COMPILED = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}_{CAPABILITY}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(COMPILED))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores


@pytest.fixture(autouse=True)
def shares_the_cpu() -> Iterator[None]:
    """Tests call LeRobot's encoder too; a real-time pytest would starve what runs beside it."""
    with usual_priority():
        yield


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Torch computes in float64, for comparing weights after Adam where sums are taken in another order.

    Adam divides each gradient by its own size plus 1e-8. In float32 a gradient that is zero but for rounding
    (1e-9 to 1e-7) becomes a step of random sign and full size; in float64 (1e-17) it becomes none.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def captured(monkeypatch) -> None:
    """`torch.compile` captures the whole graph and runs it; kernels, which take longest, are not made."""
    real = torch.compile

    def compile_graph(function: Callable, **_) -> Callable:
        return real(function, backend="aot_eager", fullgraph=True, dynamic=False)

    monkeypatch.setattr(torch, "compile", compile_graph)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """Records random numbers and, with `pictures` (their side), random pictures, by LeRobot's own API.

    The episodes have the sentences in turns.
    """

    def make_dataset(
        root: Path,
        lengths: tuple[int, ...] = (9, 5, 12),
        pictures: int = 0,
        kind: str = "image",
        fps: int = 10,
        action_size: int = 2,
        state_size: int = 2,
        keypoints: bool = True,
        sentences: tuple[str, ...] = ("push the T",),
    ) -> Path:
        import datasets
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        datasets.disable_progress_bars()

        def vector(size: int) -> dict:
            return {"dtype": "float32", "shape": (size,), "names": None}

        features = {"observation.state": vector(state_size), "action": vector(action_size)}
        if keypoints:
            features["observation.environment_state"] = vector(16)
        if pictures:
            shape = (pictures, pictures, 3)
            names = ["height", "width", "channel"]
            features["observation.image"] = {"dtype": kind, "shape": shape, "names": names}
        dataset = LeRobotDataset.create(
            f"local/{root.name}", fps, features, root=root, use_videos=kind == "video"
        )
        rng = np.random.default_rng(0)
        for episode, length in enumerate(lengths):
            sentence = sentences[episode % len(sentences)]
            for _ in range(length):
                frame = {
                    name: rng.uniform(0, 512, feature["shape"]).astype(np.float32)
                    if feature["dtype"] == "float32"
                    else rng.integers(0, 256, feature["shape"], np.uint8)
                    for name, feature in features.items()
                }
                dataset.add_frame(frame | {"task": sentence})
            dataset.save_episode()
        dataset.finalize()
        return root

    return make_dataset


@pytest.fixture
def refused_by(capfd) -> Callable[..., str]:
    """Calls a script, expects to be refused as a person should be, and returns the sentence."""

    def refused_by(main: Callable[..., object], *arguments: object) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(*arguments)
        assert stopped.value.code == 2
        return sentence(capfd.readouterr().err)

    return refused_by


@pytest.fixture
def refused(train, refused_by) -> Callable[..., str]:
    """`refused_by` a training with these flags."""
    return lambda *flags: refused_by(train, *flags)
