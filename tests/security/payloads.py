"""Steps of a processor that would run something, were they believed: they would make the file MARK."""

import json
import pickle
from typing import Any

MARK = "@MARK@"
TOUCH = ["touch", MARK]
WRITE = f"open({MARK!r}, 'w')"


def step(name: Any, /, **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config}


def called(path: str, /, **config: Any) -> dict[str, Any]:
    return {"class": path, "config": config}


class Bomb:
    """A pickle that makes a file when it is opened."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return open, (self.mark, "w")


def pickled(mark: str) -> bytes:
    return pickle.dumps(Bomb(mark))


CALLS = {
    "Popen": called("subprocess.Popen", args=TOUCH),
    "run": called("subprocess.run", args=TOUCH),
    "check_output": called("subprocess.check_output", args=TOUCH),
    "call": called("subprocess.call", args=TOUCH),
    "getoutput": called("subprocess.getoutput", cmd=f"touch {MARK}"),
    "os.system": called("os.system", command=f"touch {MARK}"),
    "os.popen": called("os.popen", cmd=f"touch {MARK}"),
    "os.mkdir": called("os.mkdir", path=MARK),
    "os.mkfifo": called("os.mkfifo", path=MARK),
    "open": called("builtins.open", file=MARK, mode="w"),
    "io.open": called("io.open", file=MARK, mode="w"),
    "exec": called("builtins.exec", source=WRITE),
    "eval": called("builtins.eval", source=WRITE),
    "timeit": called("timeit.timeit", stmt=WRITE, number=1),
    "profile": called("cProfile.run", statement=WRITE),
    "runpy": called("runpy.run_path", path_name="evil.py"),
    "logging": called("logging.FileHandler", filename=MARK),
    "logging config": called("logging.config.fileConfig", fname="evil.ini"),
    "sqlite": called("sqlite3.connect", database=MARK),
    "tarfile": called("tarfile.open", name=MARK, mode="w"),
    "zipfile": called("zipfile.ZipFile", file=MARK, mode="w"),
    "gzip": called("gzip.open", filename=MARK, mode="w"),
    "memmap": called("numpy.memmap", filename=MARK, mode="w+", shape=[1]),
    "numpy.load": called("numpy.load", file="evil.pkl", allow_pickle=True),
    "torch.load": called("torch.load", f="evil.pkl", weights_only=False),
    "torch.hub": called("torch.hub.load", repo_or_dir=".", model="evil", source="local"),
    "pandas": called("pandas.read_pickle", filepath_or_buffer="evil.pkl"),
    "copyfile": called("shutil.copyfile", src="config.json", dst=MARK),
    "copytree": called("shutil.copytree", src=".", dst=MARK),
    "an own module": called("evil.Step"),
    "a name without a module": called("Step"),
    "an empty name": called(""),
    "LeRobot's by its path": called("lerobot.processor.device_processor.DeviceProcessorStep", device="cpu"),
    "class beside a name": called("subprocess.Popen", args=TOUCH) | {"registry_name": "device_processor"},
    "class beside null": called("subprocess.Popen", args=TOUCH) | {"registry_name": None},
    "class and a wrong name": called("subprocess.Popen", args=TOUCH) | {"registry_name": "none"},
}
NAMES = {
    "downloads a model": step("reward_classifier_processor", pretrained_path="a/b"),
    "not for policies": step("image_crop_resize_processor"),
    "other tokenizer step": step("action_tokenizer_processor", action_tokenizer_name="a/b"),
    "unknown": step("evil"),
    "other case": step("Device_Processor"),
    "a space": step("device_processor "),
    "full width": step("\uff44evice_processor"),
    "Cyrillic": step("d\u0435vice_processor"),
    "a NUL": step("device_processor\0"),
    "empty": step(""),
    "null": step(None),
    "a number": step(1),
    "a list": step(["device_processor"]),
    "a dict": step({"class": "subprocess.Popen"}),
    "no dict": "device_processor",
    "a list of lists": [["device_processor"]],
    "nothing": {},
}
SETTINGS = {
    "nested steps": step("device_processor", steps=[CALLS["Popen"]]),
    "nested class": step("device_processor", **{"class": "subprocess.Popen", "args": TOUCH}),
    "hydra's target": step("device_processor", _target_="subprocess.Popen", args=TOUCH),
    "trusted code": step("tokenizer_processor", tokenizer_name="a/b", trust_remote_code=True),
    "any tokenizer": step("tokenizer_processor", tokenizer_name="evil/tokenizer"),
    "a tokenizer's folder": step("tokenizer_processor", tokenizer_name="./tokenizer"),
    "no tokenizer's name": step("tokenizer_processor", tokenizer_name=["a", "b"]),
    "a tokenizer's object": step("tokenizer_processor", tokenizer={"class": "subprocess.Popen"}),
    "overrides": step("device_processor", overrides={"device_processor": CALLS["Popen"]}),
    "statistics": step("normalizer_processor", features={}, norm_map={}, stats={"action": {"mean": 1}}),
    "settings are a list": step("device_processor") | {"config": TOUCH},
    "settings are a word": step("device_processor") | {"config": "cpu"},
}
STATES = {
    name: step("normalizer_processor", features={}, norm_map={}) | {"state_file": file}
    for name, file in {
        "above": "../evil.safetensors",
        "absolute": "/etc/hostname.safetensors",
        "below": "sub/evil.safetensors",
        "a pickle": "evil.pkl",
        "a pickle that says otherwise": "evil.safetensors",
        "missing": "missing.safetensors",
        "a number": 5,
        "a list": ["evil.safetensors"],
        "a NUL": "evil\0.safetensors",
        "a pipe": "pipe.safetensors",
    }.items()
}
STEPS = {
    f"{group}: {name}": payload
    for group, payloads in (("call", CALLS), ("name", NAMES), ("setting", SETTINGS), ("state", STATES))
    for name, payload in payloads.items()
}
POPEN = json.dumps(CALLS["Popen"])
TEXTS = {  # the whole file
    "steps twice": f'{{"name": "x", "steps": [], "steps": [{POPEN}]}}',
    "name twice": f'{{"steps": [{{"registry_name": "device_processor", {POPEN[1:]}]}}',
    "class twice": f'{{"steps": [{{"class": "a.B", {POPEN[1:]}]}}',
    "steps are a dict": f'{{"steps": {{"0": {POPEN}}}}}',
    "steps are a word": '{"steps": "subprocess.Popen"}',
    "no steps": f'{{"step": [{POPEN}]}}',
    "a list": f"[{POPEN}]",
    "a word": '"subprocess.Popen"',
    "escaped": json.dumps({"steps": [CALLS["Popen"]]}).replace("class", "\\u0063lass"),
    "with a mark of its order": "\ufeff" + json.dumps({"steps": [CALLS["Popen"]]}),
    "deep": '{"steps": ' + "[" * 50_000,
    "YAML": "steps: !!python/object/apply:os.system ['touch @MARK@']",
    "Python": f"__import__('os').system('touch {MARK}')",
    "empty": "",
}
