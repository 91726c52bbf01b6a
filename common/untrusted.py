"""Reads and writes files in folders that somebody else may have made: checkpoints, runs, datasets, settings.

Reading executes nothing, never waits, and has limits: regular files of a bounded size, JSON and YAML of plain
values, safetensors. Writing follows no link: a file is made under a new name beside the old one and replaces
it, so that the file which a link leads to stays as it is.
"""

import hashlib
import json
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import errorcode
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from safetensors import SafetensorError, safe_open

from common.errors import UserError, reason, show

MAX_TEXT_BYTES = 8 * 2**20  # of JSON; LeRobot's statistics of 1,000 features take less than one
MAX_HASHED_BYTES = 10 * 10**9  # take ten seconds
MAX_YAML_BYTES = 2**20  # PyYAML reads 0.1 MB/s
MAX_DEPTH = 50  # levels of nesting in JSON and YAML
MAX_DIGITS = 40  # of an integer; a random generator's state has 39


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """A UTF-8 text.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is no regular file, has more than `limit` bytes, or is not UTF-8.
    """
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise ValueError(f"it has {size:,} bytes, more than {limit:,}")
        return file.read(limit).decode("utf-8")


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read; a pipe or a device, on which reading may never end, is refused.

    Raises:
        OSError: there is none, or it cannot be read.
        ValueError: it is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of names and values.

    Raises:
        UserError: the file is missing or not an object in JSON of bounded size, depth and numbers.
    """
    with reading(path):
        if isinstance(content := parse_json(read_text(path)), dict):
            return content
        raise ValueError(f"it holds {show(content)} in place of names and values")


def parse_json(text: str) -> Any:
    """Plain values from JSON.

    Raises:
        ValueError: it is not JSON, nested too deeply, has a key twice or an integer of too many digits.
    """
    try:
        content = json.loads(text, parse_int=_bounded_int, object_pairs_hook=_mapping)
        _check_depth(content)
    except RecursionError:
        raise ValueError(f"it is nested in more than {MAX_DEPTH} levels") from None
    return content


def load_yaml(path: Path) -> Any:
    """Read a YAML file of plain values: no aliases, no key twice, no tags but YAML's own plain ones.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: it is not such a file; says in which line, if in one.
    """
    try:
        return yaml.load(read_text(path, MAX_YAML_BYTES), Loader=_PlainLoader)  # a SafeLoader
    except RecursionError:
        raise ValueError(f"it is nested in more than {MAX_DEPTH} levels") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(reason(error)) from None


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: the file is missing or not whole.
    """
    with reading(path, (ValueError, SafetensorError, RuntimeError, MemoryError)):
        with open_regular(path):
            pass
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}


def digest(files: Iterable[tuple[str, Path]], most: int = MAX_HASHED_BYTES) -> str:
    """The SHA-256 of files, each after the name that it goes by.

    Raises:
        UserError: one cannot be read, or together they have more than `most` bytes.
    """
    total, sha256 = 0, hashlib.sha256()
    for _, path in (named := list(files)):
        with reading(path):
            total += path.stat().st_size
            if total > most:
                raise ValueError(f"with the files before it {total:,} bytes, more than {most:,}")
    for name, path in named:
        sha256.update(name.encode())
        with reading(path), open_regular(path) as file:
            while piece := file.read(2**20):
                sha256.update(piece)
    return sha256.hexdigest()


@contextmanager
def new_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that takes the place of `path`, link or not, at the end of the block; after an error none does.

    Args:
        path: its folder exists.
        mode: "w" for UTF-8 text or "wb".

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # of a killed process, or a link
    encoding = None if "b" in mode else "utf-8"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, mode, encoding=encoding) as file:
            yield file
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text in the place of what is at `path`.

    Raises:
        OSError: it cannot be written.
    """
    with new_file(path) as file:
        file.write(text)


def append_text(path: Path, text: str) -> None:
    """Add to a file, which may not be there yet.

    Raises:
        OSError: it cannot be written, or is a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise OSError(None, "it is a link, or no regular file", str(path))
        file.write(text)


def remove(path: Path) -> None:
    """Delete a folder, a file or a link, which leaves alone what it leads to; nothing where nothing is.

    Raises:
        OSError: a file or link cannot be deleted; a folder is left, or half of it.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_inside(path: Path, folder: Path) -> None:
    """Raise UserError where a link leads out of the folder, so that nothing elsewhere is changed."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{path}: leads out of {folder}, to {real}: links in it have to stay in it")


@contextmanager
def reading(
    path: Path | str, damage: tuple[type[Exception], ...] = (ValueError, SafetensorError), advice: str = ""
) -> Iterator[None]:
    """Raise a UserError that says why `path` could not be read in this block, as far as that is known.

    Args:
        path: named in the error, unless the missing file is known.
        damage: what a reader raises for a damaged file.
        advice: ends the sentence about a missing or damaged one.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: missing{advice}") from None
    except (OSError, *damage) as error:
        if isinstance(error, OSError) and error.errno in errorcode:  # and no number of a library's own
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        if isinstance(error, MemoryError):  # damaged, or as large as it says
            raise UserError(f"{path}: does not fit into the memory ({reason(error)})") from None
        raise UserError(f"{path}: damaged ({reason(error)}){advice}") from None


@contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Raise a UserError that names the file, or else `path`, where this block cannot write.

    Args:
        path: named where the system names no file.
        advice: ends the sentence.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or reason(error)
        raise UserError(f"{error.filename or path}: cannot be written: {why}{advice}") from None


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has an integer of {len(digits)} digits")
    return int(digits)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"{show(max(counts, key=counts.__getitem__))} is given twice")
    return content


def _check_depth(content: Any, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            _check_depth(value, depth + 1)


NUMBERS = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _PlainLoader(yaml.SafeLoader):
    """YAML without what settings do not need and what goes wrong without a word."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _at(event, "aliases are not understood")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        number = node.value if node.tag in NUMBERS and isinstance(node, yaml.ScalarNode) else ""
        if len(number) > MAX_DIGITS:
            raise _at(node, f"an integer of {len(number)} digits")
        if re.fullmatch(r"[-+]?(0[0-7_]+|[^xb]*:[^xb]*)", number):  # 010 is 8 and 1:30 is 90 to YAML 1.1
            raise _at(node, f"{number} is no number in decimal")
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            raise _at(node, f"this is no {node.tag.rpartition(':')[2]}") from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[str, int] = {}
        if not isinstance(node, yaml.MappingNode):
            raise _at(node, "this is no mapping")
        for key_node, _ in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise _at(key_node, "the merge key << is not understood")
            if key_node.tag != "tag:yaml.org,2002:str" or not isinstance(key, str):
                what = show(key) if isinstance(key, str) else "a list or mapping"
                raise _at(key_node, f"a key must be a word, got {what}")
            if key in lines:
                raise _at(key_node, f"{show(key)[1:-1]} is given twice, in line {lines[key]} too")
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _at(place: Any, problem: str) -> yaml.MarkedYAMLError:
    """An error that knows the line of a node or an event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
