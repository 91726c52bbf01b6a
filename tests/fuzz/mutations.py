"""One small change to a valid input, as a stranger, a kill or a copy might have made it.

All changes draw from a `random.Random`, so an input is made again by its number, and tell what they did.
"""

import copy
import json
import math
import os
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from safetensors.numpy import load_file, save_file

# fmt: off
NUMBERS = [0, 1, 2, -1, 0.5, -0.5, 1e-308, 1e308, 10**6, 10**9, 10**12, 10**30, 10**400,
           2**31, 2**63 - 1, 2**63, -(2**63), math.nan, math.inf, -math.inf]
STRINGS = ["", " ", "x", "None", "true", "nan", "-1", "1e5", "1_000", "../../outside", "~", "*[a]?", "%s{0}",
           "é\u202e漢", "a\nb", "a\0b", "x" * 5_000, "/proc/none/x", "9" * 5_000]
COMMAND = {"class": "subprocess.call", "config": {"args": ["touch", "executed"]}}  # leaves a file
OTHERS = [None, True, False, [], {}, [[]], [1, "a"], {"a": {}}, ["x"] * 50_000, [0] * 50_000, *[COMMAND] * 4]
YAML = ["&a [*a]", "!!int ''", "!!float x", "!!timestamp x", "!!bool maybe", "2020-13-45", "1:30", "0o17",
        "!!python/object/apply:os.system ['touch executed']", "[" * 3_000, "'open", "|", "!!binary x", "yes",
        "1e-4", "\t1", "{<<: {a: 1}}", "!!set {a}", "? a", "010", "9" * 5_000, "*a", ".inf", "- 1", "~", ""]
BOMB = ["a: &a [x]", *(f"{b}: &{b} [{f'*{a}, ' * 9}]" for a, b in pairwise("abcdefghi"))]
# fmt: on
TWICE = "␟"  # ends a key that, without it, is there already
DEEP = "␞"  # in place of lists in lists


def value(rng: Random) -> Any:
    return rng.choice([*NUMBERS, *STRINGS, *OTHERS, DEEP])


def tree(content: Any, rng: Random) -> tuple[Any, str]:
    """Change one place of plain values."""
    content = copy.deepcopy(content)
    parent, key, path = {"": content}, "", ""
    while isinstance(parent[key], dict | list) and parent[key] and (not path or rng.random() < 0.75):
        parent = parent[key]
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(min(len(parent), 30)))
        path += f".{key}"
    how = rng.choice(["="] * 4 + ["dropped", "renamed", "twice", "swapped", "nested", "as text", "added"])
    if how == "=" or (isinstance(parent, list) and how in ("renamed", "twice", "added")):
        parent[key] = value(rng)
        how = f"= {parent[key]!r:.60}"
    elif how == "dropped":
        del parent[key]
    elif how == "renamed":
        parent[rng.choice((key.upper(), key + "s", "x", key.replace("_", "-")))] = parent.pop(key)
    elif how == "swapped":
        other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other], how = parent[other], parent[key], f"swapped with {other}"
    elif how in ("twice", "added"):
        parent[key + TWICE if how == "twice" else "added"] = value(rng)
    else:
        parent[key] = [parent[key]] if how == "nested" else str(parent[key])
    return content if path else parent.get("", {}), f"{path or 'all'} {how}"


def raw(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Change the bytes of any file."""
    at = rng.randrange(len(data) + 1)
    end = min(at + rng.choice((1, 8, 100)), len(data))
    changes = {
        "empty": b"", "cut": data[:at], "lost": data[:at] + data[end:], "twice": data[:end] + data[at:],
        "bit flipped": data[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[at:end]) + data[end:],
        "zeros": data[:at] + bytes(end - at) + data[end:], "all twice": data + data, "all often": data * 300,
        "BOM": b"\xef\xbb\xbf" + data, "UTF-16": data.decode("latin-1").encode("utf-16"),
        "Latin-1": data[:at] + b"\xe9\xff" + data[at:], "CRLF": data.replace(b"\n", b"\r\n"),
        "a zip": b"PK\3\4" + data, "long": data + b" " * 2**26,
    }  # fmt: skip
    how = rng.choice(list(changes))
    return changes[how], f"{how} at bytes {at} to {end} of {len(data)}"


def arrays(content: dict[str, np.ndarray], rng: Random) -> tuple[dict[str, np.ndarray], str]:
    """Change one of the named arrays."""
    content = dict(content)
    name, other = rng.choice(list(content)), rng.choice(list(content))
    array = np.array(content[name])
    hows = "number number number dropped renamed swapped shape transposed dtype cut text scaled"
    how = rng.choice(hows.split())
    if how == "dropped":
        del content[name]
    elif how == "renamed":
        content[name + "x"] = content.pop(name)
    elif how == "swapped":
        content[name], content[other], how = content[other], content[name], f"swapped with {other}"
    elif how == "number" and array.size:
        number, at = float(min(rng.choice(NUMBERS), 1e308)), rng.randrange(array.size)
        array.flat[at] = np.asarray(number).astype(array.dtype)
        content[name], how = array, f"[{at}] = {number!r}"
    else:
        kinds = [np.float16, np.float64, np.int8, np.int64, bool]
        content[name] = {
            "shape": lambda: array.reshape(1, -1), "transposed": lambda: array.T, "number": lambda: array,
            "dtype": lambda: array.astype(rng.choice(kinds)), "cut": lambda: array.flat[: array.size // 2],
            "text": lambda: array.astype(rng.choice(["U3", object])),
            "scaled": lambda: (array * rng.choice((0, 2, 100))).astype(array.dtype),
        }[how]()  # fmt: skip
    return content, f"{name} {how}"


def cell(old: Any, rng: Random) -> Any:
    """Another value of about the same type; of a picture another picture, or a damaged one."""
    if isinstance(old, dict) and old.get("bytes"):
        buffer, size = BytesIO(), rng.choice([(32, 32), (33, 32), (1, 1), (4_000, 4_000)])
        Image.new(rng.choice(["RGB", "L", "RGBA"]), size).save(buffer, rng.choice(["PNG", "GIF"]))
        return old | {"bytes": rng.choice([raw(old["bytes"], rng)[0], buffer.getvalue(), None])}
    if isinstance(old, list) and old:
        at = rng.randrange(len(old))
        changed = [*old[:at], cell(old[at], rng), *old[at + 1 :]]
        return rng.choice([changed, old[:-1], old + old[-1:], [], None])
    if isinstance(old, bool | str):
        return not old if isinstance(old, bool) else rng.choice(STRINGS)
    if isinstance(old, float):
        return rng.choice([*(float(min(number, 1e308)) for number in NUMBERS), None])
    return rng.choice([*(n for n in NUMBERS if isinstance(n, int) and abs(n) < 2**63), None])


def table(content: pa.Table, rng: Random) -> tuple[pa.Table, str]:
    """Change a cell, a column or the rows of a Parquet table."""
    names, order = content.column_names, list(range(len(content)))
    name, other, row, second = rng.choice(names), rng.choice(names), rng.choice(order), rng.choice(order)
    values = content[name].to_pylist()
    hows = "cell cell cell cell dropped renamed text nulls column swapped reversed longer cut"
    how = rng.choice(hows.split())
    if how == "dropped":
        return content.drop_columns([name]), f"{name} {how}"
    if how == "renamed":
        return content.rename_columns([f"{n}x" if n == name else n for n in names]), f"{name} {how}"
    if how in ("reversed", "longer", "cut"):
        orders = {"reversed": order[::-1], "longer": [*order, order[-1]], "cut": order[: rng.choice((0, -1))]}
        return content.take(pa.array(orders[how], pa.int64())), f"rows {how}"
    if how == "cell":
        values[row] = cell(values[row], rng)
        how = f"[{row}] = {values[row]!r:.60}"
    elif how == "swapped":
        values[row], values[second], how = values[second], values[row], f"[{row}] swapped with [{second}]"
    elif how == "column":
        values, how = content[other].to_pylist(), f"is {other}"
    else:
        values = [None if how == "nulls" else str(v) for v in values]
    try:
        column = pa.array(values, content.schema.field(name).type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
        column = pa.array([str(v) for v in values])
    return content.set_column(names.index(name), name, column), f"{name} {how}"


def yaml_line(text: str, rng: Random) -> tuple[str, str]:
    """Another value in a line."""
    lines = text.splitlines()
    row, word = rng.randrange(len(lines)), rng.choice([*YAML, "*i"])
    lines[row] = f"{lines[row].partition(':')[0]}: {word}"
    return "\n".join((BOMB if word == "*i" else []) + lines), f"line {row + 1}: {lines[row]!r:.60}"


def csv(text: str, rng: Random) -> tuple[str, str]:
    """Another cell, or a row more or less."""
    lines = text.splitlines()
    row = rng.randrange(len(lines))
    cells = lines[row].split(",")
    at = rng.randrange(len(cells))
    cells[at] = rng.choice([*STRINGS, *map(str, NUMBERS[:-8]), '"'])
    new = rng.choice([[",".join(cells)]] * 3 + [[], [lines[row]] * 2, [lines[row] + ",1"]])
    return "\n".join([*lines[:row], *new, *lines[row + 1 :], ""]), f"line {row + 1}: {new!r:.60}"


def split_header(path: Path) -> tuple[Any, bytes]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def header(content: tuple[Any, bytes], rng: Random) -> tuple[bytes, str]:
    """Change the header of a safetensors file."""
    changed, how = tree(content[0], rng)
    text = as_json(changed).encode(errors="replace")
    return len(text).to_bytes(8, "little") + text + content[1], how


def as_json(content: Any) -> str:
    return _spelled_out(json.dumps(content, ensure_ascii=False))


def as_yaml(content: Any) -> str:
    class NoAliases(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return _spelled_out(yaml.dump(content, Dumper=NoAliases, sort_keys=False, allow_unicode=True))


def _spelled_out(text: str) -> str:
    deep = "[" * 20_000 + "]" * 20_000
    return text.replace(TWICE, "").replace(f'"{DEEP}"', deep).replace(DEEP, deep)


def as_tensors(path: Path, content: dict[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(a) for name, a in content.items() if a.dtype.kind in "fiub"}, path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: Path, content: Any) -> None:
    write_text(path, as_json(content))


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def write_yaml(path: Path, content: Any) -> None:
    write_text(path, as_yaml(content))


def write_text(path: Path, text: str) -> None:
    path.write_text(text, errors="replace")


KINDS: dict[str, list[tuple]] = {
    # what is read, changed, written
    ".json": [(read_json, tree, write_json)],
    ".zarray": [(read_json, tree, write_json)],
    ".yaml": [(read_yaml, tree, write_yaml), (Path.read_text, yaml_line, write_text)],
    ".csv": [(Path.read_text, csv, write_text)],
    ".safetensors": [(load_file, arrays, as_tensors), (split_header, header, Path.write_bytes)],
    ".npz": [(np.load, arrays, lambda path, content: np.savez(path, **content))],
    ".parquet": [(pq.read_table, table, lambda path, content: pq.write_table(content, path))],
}  # fmt: skip


def file(path: Path, rng: Random, outside: Path) -> str:
    """Change a file in place: what it holds by its kind, its bytes, or what it is.

    Args:
        outside: a folder that no right program writes to; a link may lead there.
    """
    chance, kinds = rng.random(), KINDS.get(path.suffix or path.name, [])
    if chance < 0.1:
        how = rng.choice(["missing", "a folder", "a pipe", "a link to itself", "a link"])
        original = path.read_bytes()
        path.unlink()
        if how == "a folder":
            path.mkdir()
        elif how == "a pipe":
            os.mkfifo(path)
        elif how != "missing":
            path.symlink_to(path if how == "a link to itself" else outside / path.name)
            (outside / path.name).write_bytes(original)
    elif chance < 0.3 or not kinds:
        data, how = raw(path.read_bytes(), rng)
        path.write_bytes(data)
    else:
        read, change, write = rng.choice(kinds)
        with np.errstate(all="ignore"):
            content, how = change(read(path), rng)
        write(path, content)
    return f"{path.name}: {how}"
