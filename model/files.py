"""Files that are whole or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def temporary_path(path: Path, *, synced: bool = False) -> Iterator[Path]:
    """What is written at the path given becomes `path` at the end, by renaming; nothing stays where that fails.

    synced  the disk holds the file before it takes its name, and the name at the end: also a loss of power leaves the
            file before it or this one, whole
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if synced:
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if synced:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot, and keep the order of renames anyway
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
