"""Files that are whole or not there."""

import json
import os
from pathlib import Path

from model.files import temporary_path

from .errors import named

__all__ = ["checked_file", "temporary_path", "write_json"]


def checked_file(path: Path, option: str) -> Path:
    """ValueError, before anything is computed, for a name under which no file can be written."""
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{option} {path}: expected the name of a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{option} {path}: nothing can be written there; change its permissions, or choose another")
    return path


def write_json(content: object, path: Path) -> None:
    """Under a temporary name, then renamed."""
    with named(path), temporary_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
