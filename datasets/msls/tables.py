"""Tables of the Mapillary download: CSVs with one row a frame, found by its key."""

import math
from collections.abc import Sequence
from pathlib import Path

from ..readers.image_names import number
from ..readers.tables import read_rows


class Table(dict[str, dict[str, str]]):
    """A CSV with one row a frame: key -> its row, column -> text.

    Raises what `read_rows` does, and ValueError with the line for a key that is empty or came before.
    """

    def __init__(self, path: Path, needed: Sequence[str]) -> None:
        super().__init__()
        self.path, self.lines = path, {}
        expected = f"columns {','.join(needed)} of the Mapillary download's table with a row a frame"
        for line, row in read_rows(path, needed, dict, expected=expected):
            row = {column: text.strip() for column, text in row.items()}
            key = row["key"]
            if not key or key in self:
                problem = f"key {key!r} again, first in line {self.lines[key]}" if key else "no key"
                raise ValueError(f"{path}, line {line}: {problem}; expected a key of its own for each frame")
            self[key], self.lines[key] = row, line

    def at(self, key: str) -> str:
        return f"{self.path}, line {self.lines[key]}"

    def number(self, key: str, column: str) -> float:
        value = number(self[key][column])
        if math.isnan(value):
            raise ValueError(f"{self.at(key)}: {column} {self[key][column]!r}, expected a finite number")
        return value

    def flag(self, key: str, column: str) -> bool:
        text = self[key][column].lower()
        if text not in ("true", "false"):
            raise ValueError(f"{self.at(key)}: {column} {self[key][column]!r}, expected True or False")
        return text == "true"

    def check_keys(self, other: "Table") -> None:
        """Raises ValueError unless both tables hold the same keys."""
        for one, two in ((self, other), (other, self)):
            for key in one:
                if key not in two:
                    raise ValueError(f"{one.at(key)}: key {key!r} is not in {two.path}; expected the same frames in "
                                     "both")
