"""Codes, descriptors, names and coordinates that are made up, and what an index's folder holds of them."""

import contextlib
import os
import sqlite3
from pathlib import Path

import numpy as np

from utils.search import ModelIdentity

MODEL = ModelIdentity("3f" * 32, "base gem")
OTHER = ModelIdentity("9c" * 32, "large boq")
BITS, DIM = 16, 6


def images(n: int, seed: int = 0) -> dict:
    """Few code bits and repeated descriptors, so that distances tie; whole numbers up to 127, which every store holds
    exactly."""
    rng = np.random.default_rng(seed)
    floats = rng.integers(-127, 128, (n, DIM)).astype(np.float32)
    floats[:, 0] = 127
    floats[rng.integers(0, n, n // 3)] = floats[rng.integers(0, n, n // 3)]
    coordinates = rng.uniform(-1e6, 1e6, (n, 2))
    coordinates[::7] = np.nan
    return {"codes": rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8), "floats": floats,
            "names": [f"{seed}/p{row}.jpg" for row in range(n)], "coordinates": coordinates}


def tied_codes(n: int, rng: np.random.Generator) -> np.ndarray:
    """Codes of 64 bits, of which 10 vary, so that every rank is tied."""
    codes = np.zeros((n, 8), np.uint8)
    codes[:, 0] = rng.integers(0, 256, n)
    codes[:, 1] = rng.integers(0, 4, n)
    return codes


def joined(*parts: dict) -> dict:
    return {key: [*parts[0][key], *parts[1][key]] if key == "names" else np.concatenate([part[key] for part in parts])
            for key in parts[0]}


def flat_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in ("codes", "floats", "scales")}


def dump(folder: Path) -> list[str]:
    """All that the database says, in SQL. Nobody in this process may hold its lock: closing a file gives that up."""
    with contextlib.closing(sqlite3.connect(folder / "index.sqlite")) as db:
        return list(db.iterdump())


def in_another_process(work) -> int:
    """Runs `work` in a child; returns its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
