"""Arrays of strangers: refused in a sentence before they cost anything."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import sys
import types
import zipfile
import zlib

import numpy as np
import pytest

from common.errors import UserError
from envs.pusht.demonstrations import fingerprint, load

ARRAYS = {
    "state": np.arange(40.0).reshape(8, 5),
    "action": np.arange(16.0).reshape(8, 2),
    "episode_ends": np.array([3, 8]),
}
PACK = {"zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}
HUGE = {"shape": [900_000_000_000, 5], "chunks": [900_000_000_000, 5]}


def write_zarr(root, pack=bytes, **changes):
    """Two chunks an array; `changes` to the header of `state`."""
    for name, values in ARRAYS.items():
        folder = root / "data" / name
        folder.mkdir(parents=True)
        rows = len(values) // 2
        info = {"zarr_format": 2, "shape": values.shape, "chunks": [rows, *values.shape[1:]]}
        info |= {
            "dtype": values.dtype.str,
            "compressor": None,
            "order": "C",
            "filters": None,
            "fill_value": 0,
        }
        packed = changes if name == "state" else {k: v for k, v in changes.items() if k == "compressor"}
        (folder / ".zarray").write_text(json.dumps(info | packed))
        for number in range(2):
            chunk = pack(values[number * rows : (number + 1) * rows].tobytes())
            (folder / ".".join([str(number), *["0"] * (values.ndim - 1)])).write_bytes(chunk)
    return root


@pytest.mark.parametrize("codec", [None, *PACK])
def test_what_is_whole_is_read(codec, tmp_path):
    root = write_zarr(tmp_path / "x.zarr", PACK.get(codec, bytes), compressor=codec and {"id": codec})
    np.savez_compressed(tmp_path / "x.npz", **ARRAYS)
    for path in (root, tmp_path / "x.npz"):
        arrays = load(path)
        np.testing.assert_array_equal(arrays.states, ARRAYS["state"])
        np.testing.assert_array_equal(arrays.actions, ARRAYS["action"])
        np.testing.assert_array_equal(arrays.ends, ARRAYS["episode_ends"])


@pytest.mark.parametrize(
    "compressor",
    [
        {"id": "pickle"},
        {"id": ["pickle"]},
        {"id": "blosc", "cname": {"id": "pickle"}},
        {"id": "json2"},
        "pickle",
        {"name": "pickle"},
        [{"id": "pickle"}],
    ],
)
def test_no_codec_of_a_stranger_runs(compressor, tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    def get_codec(config):  # as numcodecs did before 0.16
        return types.SimpleNamespace(decode=lambda data, out=None: pickle.loads(data))

    monkeypatch.setitem(sys.modules, "numcodecs", types.SimpleNamespace(get_codec=get_codec))
    root = write_zarr(tmp_path / "x.zarr", lambda _: pickle.dumps(Payload()), compressor=compressor)
    with pytest.raises(UserError, match="cannot be read as demonstrations"):
        load(root)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (HUGE, "its header says 4,500,000,000,000 numbers, too many"),
        ({"chunks": [10**12, 5]}, "too many"),
        ({"shape": [10**8, 5], "chunks": [10**6, 5]}, "too many"),
        ({"shape": [10**8], "chunks": [1], "dtype": "|u1"}, "has 100,000,000 chunks, too many"),
        ({"shape": [200, 5], "chunks": [1, 75_000_000], "dtype": "<f4"}, "15,000,000,000 numbers, too many"),
        ({"zarr_format": 99}, "of zarr's format 99, not 2"),
        ({"dtype": "f8," * 500_000}, "not of numbers"),
        ({"chunks": [0, 5]}, "is of shape"),
        ({"chunks": [4]}, "is of shape"),
        ({"chunks": [4.0, 5]}, "is of shape"),
        ({"shape": [-8, 5]}, "is of shape"),
        ({"shape": None}, "cannot be read"),
        ({"dtype": "<U5"}, "not of numbers"),
        ({"dtype": [["x", "<f8"]]}, "not of numbers"),
        ({"dtype": "|O"}, "not of numbers"),
        ({"dtype": "nonsense"}, "cannot be read"),
        ({"dtype": "9" * 5000}, "not of numbers"),
        ({"dtype": "<f4"}, "is cut, or not as long as its header says"),
        ({"filters": [{"id": "delta"}]}, "has filters"),
        ({"order": "K"}, "another setting that is not understood"),
        ({"dimension_separator": "/../"}, "another setting that is not understood"),
        ({"compressor": {"id": "blosc"}}, "cannot be read"),
        ({"compressor": {"id": "zlib"}}, "cannot be read"),
    ],
)
def test_headers_that_cannot_be_true(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(write_zarr(tmp_path / "x.zarr", **changes))


def test_a_compressed_chunk_that_would_fill_the_memory(tmp_path):
    root = write_zarr(tmp_path / "x.zarr", lambda _: zlib.compress(bytes(10**7)), compressor={"id": "zlib"})
    with pytest.raises(UserError, match="not as long as its header says"):
        load(root)


def test_a_blosc_header_that_says_more_than_is_there(tmp_path):
    root = write_zarr(tmp_path / "x.zarr", compressor={"id": "blosc"})
    for header in (struct.pack("<4B3I", 2, 1, 1, 8, 160, 160, 1000), b"123"):
        (root / "data/state/0.0").write_bytes(header)
        with pytest.raises(UserError, match="cannot be read as demonstrations"):
            load(root)


@pytest.mark.parametrize("chunk", ["state/0.0", "action/1.0", "episode_ends/1"])
def test_a_missing_chunk_is_named(chunk, tmp_path):
    (write_zarr(tmp_path / "x.zarr") / "data" / chunk).unlink()
    with pytest.raises(UserError, match=f"{chunk}: missing, so this zarr folder is not whole"):
        load(tmp_path / "x.zarr")


def test_what_it_is_instead_is_told(tmp_path):
    write_zarr(tmp_path / "x.zarr")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.zarr/data/state/.zarray", "data/state/.zarray")
    (tmp_path / "v3/data/state").mkdir(parents=True)
    (tmp_path / "v3/data/state/zarr.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    np.save(tmp_path / "x.npy", np.zeros(3))
    for name, message in (
        ("x.zip", "it is a zipped zarr"),
        ("v3", "it is a zarr of format 3"),
        ("folder", "neither an .npz file nor a zarr folder"),
        ("x.pkl", "neither an .npz file nor a zarr folder"),
        ("x.npy", "neither an .npz file nor a zarr folder"),
    ):
        with pytest.raises(UserError, match=message):
            load(tmp_path / name)
    with pytest.raises(UserError, match="neither an .npz file nor a zarr folder"):
        fingerprint(tmp_path / "folder")  # before it is hashed, which may take hours


def npy(header):
    """An array's bytes with a header of our own and nothing behind it."""
    text = repr(header).encode() + b" " * 10 + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "content, message",
    [
        (npy({"descr": "<f8", "fortran_order": False, "shape": (9 * 10**11, 5)}), "too many"),
        (npy({"descr": "<f8", "fortran_order": False, "shape": (10, 5)}), "cannot be read"),
        (npy({"descr": "|O", "fortran_order": False, "shape": (1,)}), "not of numbers"),
        (npy({"descr": "<U9", "fortran_order": False, "shape": (1,)}), "not of numbers"),
        (npy({"descr": [("x", "<f8")], "fortran_order": False, "shape": (1,)}), "not of numbers"),
        (b"\x93NUMPY\x07\x00", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_an_npz_with_an_array_that_is_none(content, message, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, values in ARRAYS.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            archive.writestr(f"{name}.npy", content if name == "state" else buffer.getvalue())
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.npz")
