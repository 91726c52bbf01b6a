"""Arrays from `.npz` files and zarr folders that somebody else may have made.

Headers are checked first: sizes have limits, types are numbers, and codecs come from a short list, because
numcodecs has one that unpickles.
"""

import bz2
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, show
from common.untrusted import load_json, open_regular

MAX_BYTES = 3_000_000_000  # of pictures: Diffusion Policy's are 2.8 GB of float32
MAX_OTHER_BYTES = 300_000_000
MAX_CHUNKS = 1_000_000
STANDARD = {"zlib": zlib.decompressobj, "gzip": lambda: zlib.decompressobj(31)}
STANDARD |= {"bz2": bz2.BZ2Decompressor, "lzma": lzma.LZMADecompressor}
NUMCODECS = "blosc", "zstd", "lz4"
DAMAGE = (  # what reading them raises; NumPy's types are read as Python (SyntaxError)
    *(OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, MemoryError, OverflowError),
    *(SyntaxError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that are in an `.npz` file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file; or another exception of `DAMAGE`.
    """
    arrays = {}
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is neither an .npz file nor a zarr folder")
        with zipfile.ZipFile(file) as archive:
            inside = archive.namelist()
            if any(Path(name).name in (".zgroup", ".zarray", "zarr.json") for name in inside):
                raise ValueError("it is a zipped zarr: unzip it, and give the folder")
            for name in names:
                if f"{name}.npy" in inside:
                    with archive.open(f"{name}.npy") as member:
                        _check_header(member)
                    with archive.open(f"{name}.npy") as member:
                        arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _check_header(member: Any) -> None:
    """Raise ValueError where an array is not of numbers, or larger than can be."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):  # others are of headers longer than any that is needed
        raise ValueError("it holds an array of neither numbers nor pictures")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    _check_size(shape, dtype)


def _check_size(shape: Sequence[int], dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds an array of {dtype}, not of numbers")
    if math.prod(shape) * dtype.itemsize > (MAX_BYTES if len(shape) == 4 else MAX_OTHER_BYTES):
        raise ValueError(f"its header says {math.prod(shape):,} numbers, too many")


def zarr_arrays(path: Path) -> dict[str, Path]:
    """The folder of each array in a zarr folder of format 2, at most two levels below, by its name.

    Raises:
        ValueError: it is none, of another format, or has two arrays of a name.
    """
    found = sorted([*path.glob("*/.zarray"), *path.glob("*/*/.zarray")])
    if not found and any(next(path.glob(f"{level}zarr.json"), None) for level in ("", "*/", "*/*/")):
        raise ValueError("it is a zarr of format 3: save it again in format 2, or as an .npz file")
    if not found:
        raise ValueError("it is neither an .npz file nor a zarr folder")
    arrays = {info.parent.name: info.parent for info in found}
    if len(arrays) < len(found):
        raise ValueError("it has two arrays of one name")
    return arrays


def read_zarr_array(folder: Path) -> np.ndarray:
    """An array of zarr's format 2.

    To zarr a chunk without a file is all zeros. Nothing that is read here has such a chunk: its file is lost.

    Raises:
        UserError: a file is missing, or numcodecs is not installed.
        ValueError: something is damaged or not understood; or another exception of `DAMAGE`.
    """
    info = load_json(folder / ".zarray")
    if info.get("zarr_format") != 2:
        raise ValueError(f"{folder.name} is of zarr's format {show(info.get('zarr_format'))}, not 2")
    shape, chunks, separator = info["shape"], info["chunks"], info.get("dimension_separator", ".")
    is_plain = isinstance(info["dtype"], str) and len(info["dtype"]) < 10
    dtype = np.dtype(info["dtype"] if is_plain else object)
    sizes_are_right = len(shape) == len(chunks) and all(type(size) is int for size in (*shape, *chunks))
    if not sizes_are_right or min((*chunks, 1)) < 1 or min((*shape, 0)) < 0:
        raise ValueError(f"{folder.name} is of shape {shape} in chunks of {chunks}")
    _check_size(shape, dtype)
    _check_size(chunks, dtype)
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    _check_size([count * chunk for count, chunk in zip(counts, chunks, strict=True)], dtype)
    if info.get("filters") or separator not in (".", "/") or info["order"] not in ("C", "F"):
        raise ValueError(f"{folder.name} has filters, or another setting that is not understood")
    if math.prod(counts) > MAX_CHUNKS:
        raise ValueError(f"{folder.name} has {math.prod(counts):,} chunks, too many")
    values, size = np.zeros(shape, dtype), math.prod(chunks) * dtype.itemsize
    for index in product(*map(range, counts)):
        file = folder / separator.join(map(str, index))
        block = np.frombuffer(_read_chunk(file, info["compressor"], size), dtype)
        block = block.reshape(chunks, order=info["order"])
        window = tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape, strict=True)
        )
        values[window] = block[tuple(slice(0, w.stop - w.start) for w in window)]
    return values


def _read_chunk(file: Path, compressor: Any, size: int) -> bytes:
    """The `size` bytes of a chunk, whatever it says of itself."""
    try:
        with open_regular(file) as opened:
            data = opened.read(size + 2**20)  # what cannot be compressed grows a little
    except FileNotFoundError:
        raise UserError(f"{file}: missing, so this zarr folder is not whole") from None
    codec = compressor["id"] if compressor else None
    if codec is None:
        block = data
    elif codec in STANDARD:
        block = STANDARD[codec]().decompress(data, size + 1)
    elif codec in NUMCODECS:
        block = _decode(codec, data, size)
    else:
        known = ", ".join([*NUMCODECS, *STANDARD])
        raise ValueError(f"it is compressed with {show(codec)}, which is not one of {known}")
    if len(block) != size:
        raise ValueError(f"{file.name} is cut, or not as long as its header says")
    return block


def _decode(codec: str, data: bytes, size: int) -> bytes:
    sizes = size, len(data)
    if codec == "blosc" and struct.unpack_from("<I4xI", data, 4) != sizes:  # C-Blosc believes its header
        raise ValueError("a chunk is cut, or not as long as its header says")
    try:
        import numcodecs  # pyright: ignore[reportMissingImports]  only compressed zarr folders require it, so it is not in requirements.txt
    except ImportError:
        raise UserError(
            f"this zarr folder is compressed with {codec}: `pip install numcodecs` to read it"
        ) from None
    decode = numcodecs.get_codec({"id": codec}).decode  # the settings are not needed
    if codec != "blosc":
        decode(data, out=bytearray(size))  # refuses to write more
    return decode(data)
