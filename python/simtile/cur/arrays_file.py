"""Arrays in one file, readable by the safetensors library: 8 bytes of header length, a JSON header, raw little-endian
bytes.

https://github.com/huggingface/safetensors#format. The header's ``__metadata__`` holds a CRC-32 of the bytes, checked on
reading.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_arrays", "write_arrays"]

_NAMES = {"f8": "F64", "f4": "F32", "u2": "U16", "i8": "I64", "i1": "I8", "b1": "BOOL"}
_DTYPES = {name: np.dtype(f"<{code}") for code, name in _NAMES.items()}


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays in one step: a reader finds the old file or the whole new one."""
    header: dict[str, Any] = {}
    blobs, end = [], 0
    for name, array in arrays.items():
        blob = np.ascontiguousarray(array).tobytes()
        kind = _NAMES[array.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + len(blob)]}
        blobs.append(blob)
        end += len(blob)
    checksum = 0
    for blob in blobs:
        checksum = zlib.crc32(blob, checksum)
    header["__metadata__"] = {"crc32": str(checksum)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".unfinished")
    with open(unfinished, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for blob in blobs:
            file.write(blob)
    unfinished.replace(path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote. Raises ValueError if the file is damaged."""
    raw = path.read_bytes()
    try:
        start = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:start])
        metadata = header.pop("__metadata__")
        if zlib.crc32(raw[start:]) != int(metadata["crc32"]):
            raise ValueError("wrong checksum")
        return {
            name: np.frombuffer(raw[start:], _DTYPES[entry["dtype"]], offset=entry["data_offsets"][0],
                                count=int(np.prod(entry["shape"]))).reshape(entry["shape"])
            for name, entry in header.items()
        }  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error
