"""Fitted reducers as safetensors files: arrays, and the parameters as JSON in the header. Never pickle.

The header holds the CRC-32 of every array and, beside it, its own. A file takes the place of an older one when it is
complete.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from simtile._extras import missing_extra
from simtile.hubness._bank import BankRows
from simtile.hubness._methods import Bank, Settings
from simtile.hubness._model import Model
from simtile.hubness._summary import How, Summary
from simtile.kernels.reference import Stats, TopK

FORMAT = "simtile.hubness/1"
BANKS: tuple[Bank, ...] = ("query", "gallery")
OF_THIS_MACHINE = ("num_threads", "executor", "bank_folder")
"""Parameters that stay behind."""


def save(model: Model, params: dict[str, Any], path: Path) -> None:
    """Gallery, banks and statistics in one file."""
    try:
        from safetensors.numpy import save_file
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    header = {
        "format": FORMAT,
        "params": {name: value for name, value in params.items() if name not in OF_THIS_MACHINE},
        "settings": asdict(model.settings),
        "betas": model.betas,
        "depth": model.depth,
    }
    arrays: dict[str, NDArray[Any]] = {"gallery": model.gallery}
    for bank, summary in model.summaries.items():
        stats = summary.stats
        header[bank] = {"betas": stats.betas, "ks": stats.ks, "count": stats.count}
        arrays[f"{bank}.rows"] = model.banks[bank].joined()
        arrays |= {f"{bank}.{name}": getattr(stats, name) for name in ("lse", "mean", "var", "top")}
        for name in ("activation", "neighbours"):
            lists = getattr(summary, name)
            if lists is not None:
                arrays |= {f"{bank}.{name}.scores": lists.scores, f"{bank}.{name}.ids": lists.ids}
    # safetensors writes the memory of an array, whatever its strides.
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    header["crc32"] = {name: _crc32(a) for name, a in arrays.items()}
    text = json.dumps(header)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        save_file(arrays, unfinished, {"simtile": text, "crc32": str(zlib.crc32(text.encode()))})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _crc32(array: NDArray[Any]) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def load(path: Path) -> tuple[dict[str, Any], Model]:
    """Parameters and model; ValueError where the file is none of ours."""
    try:
        from safetensors import SafetensorError, safe_open
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"path: a file that save() wrote, {path} is no safetensors file ({error})") from None
    text = metadata.get("simtile", "")
    if metadata.get("crc32") != str(zlib.crc32(text.encode())):
        raise ValueError(f"path: a file that save() wrote ({FORMAT}), {path} is another or damaged")
    header = json.loads(text)
    if header.get("format") != FORMAT:
        raise ValueError(f"path: a file that save() wrote ({FORMAT}), got {header.get('format')!r} in {path}")
    if header["crc32"] != {name: _crc32(array) for name, array in arrays.items()}:
        raise ValueError(f"path: a file that save() wrote, {path} is damaged")
    params = header["params"]
    model = Model(
        Settings(**header["settings"]),
        How(params["metric"], params["precision"]),
        arrays["gallery"],
        betas=tuple(header["betas"]),
        bank_folder=None,
    )
    model.depth = header["depth"]
    for bank in BANKS:
        if bank in header:
            model.banks[bank] = BankRows(None, bank)
            model.banks[bank].append(arrays[f"{bank}.rows"])
            model.summaries[bank] = _summary(header[bank], bank, arrays)
    return params, model


def _summary(facts: dict[str, Any], bank: Bank, arrays: dict[str, NDArray[Any]]) -> Summary:
    def lists(name: str) -> TopK | None:
        found = [arrays.get(f"{bank}.{name}.{part}") for part in ("scores", "ids")]
        return None if found[0] is None else TopK(*cast("list[NDArray[Any]]", found))

    stats = Stats(
        tuple(facts["betas"]), tuple(facts["ks"]), facts["count"],
        *(arrays[f"{bank}.{name}"] for name in ("lse", "mean", "var", "top")),
    )  # fmt: skip
    return Summary(stats, lists("activation"), lists("neighbours"))
