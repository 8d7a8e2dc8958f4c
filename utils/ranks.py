"""Which of the processes that torchrun started this one is, as the environment says; in one process: the first."""

import os
import sys
import threading
from collections.abc import Iterable
from functools import cache

from tqdm import tqdm


def launched() -> bool:
    """Whether torchrun started this process beside others."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys() and int(os.environ["WORLD_SIZE"]) > 1


def rank() -> int:
    """This process's number, from 0, over all nodes."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """This process's number, from 0, on its node: that of its GPU among the visible ones."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def local_processes() -> int:
    """How many processes of this training run on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if launched() else 1


def is_first() -> bool:
    """Whether this is the process that logs and writes the files."""
    return rank() == 0


def share(count: int, part: int, parts: int) -> range:
    """Which of `count` things in a row the part-th of `parts` takes; shares differ by one at most."""
    return range(-(-count * part // parts), -(-count * (part + 1) // parts))


def progress(items: Iterable, description: str, **options) -> tqdm:
    """A progress bar with an estimate on stderr, quiet when that is not a terminal."""
    tqdm.set_lock(_lock())
    return tqdm(items, desc=description, disable=not (is_first() and sys.stderr.isatty()), leave=False, **options)


@cache
def _lock():
    """Of this process's bars. tqdm's own is shared with forked processes: one killed with it would stop all others."""
    return threading.RLock()
