"""Files that are whole or not there."""

import json
from pathlib import Path

from model.files import temporary_path

from .errors import named

__all__ = ["temporary_path", "write_json"]


def write_json(content: object, path: Path) -> None:
    """Under a temporary name, then renamed."""
    with named(path), temporary_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
