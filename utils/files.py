"""Files that are whole or not there."""

import json
import os
from pathlib import Path


class temporary_path:
    """`with temporary_path(path) as temporary:` renames what was written at `temporary` to `path` on success."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{os.getpid()}.{self.path.name}")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.temporary.replace(self.path)
        self.temporary.unlink(missing_ok=True)


def write_json(content: object, path: Path) -> None:
    """Under a temporary name, then renamed."""
    with temporary_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
