"""Files that are read safely, and files that are there whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# What is found under .jpg and .png.  Pillow knows more: for EPS it would start another program.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "TGA", "ICO")


def is_regular(path: Path | str) -> bool:
    """Whether there is such a file.  Raises ValueError for a FIFO, socket or device, whose reading may never end."""
    path = Path(path)
    if path.is_file():
        return True
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: a FIFO, socket or device; expected a regular file: take it out")
    return False


@contextlib.contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A hidden name beside `path`, of a file or a folder: renamed to `path` behind the block, removed if that fails."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
