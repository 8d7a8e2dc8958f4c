"""Tables of the Mapillary download: CSVs with one row a frame, found by its key."""

import contextlib
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class Table:
    """A CSV with one row a frame: `columns` (text, in the order of the rows) and `rows` (key -> row).

    Other columns, pandas' index without a name among them, may stand anywhere.  Raises FileNotFoundError, and
    ValueError with the line for a missing column, a row of another length, an empty key and one that came before.
    """

    def __init__(self, path: Path, needed: Sequence[str], *, optional: Sequence[str] = ()) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected the Mapillary download's table with a row a frame")
        self.path, self.rows, self.lines = path, {}, []
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                missing = [column for column in needed if column not in header]
                if missing:
                    found = ", ".join(filter(None, header)) or "none"
                    raise ValueError(f"no column {', '.join(missing)}; found {found}")
                places = [(column, header.index(column)) for column in (*needed, *optional) if column in header]
                self.columns: dict[str, list[str]] = {column: [] for column, _ in places}
                for row in reader:
                    if not row:
                        continue  # a blank line
                    if len(row) != len(header):
                        raise ValueError(f"{len(row)} fields under a header of {len(header)}")
                    for column, place in places:
                        self.columns[column].append(row[place].strip())
                    key = self.columns["key"][-1]
                    if not key:
                        raise ValueError("no key")
                    if key in self.rows:
                        raise ValueError(f"key {key!r} again, first in line {self.lines[self.rows[key]]}")
                    self.rows[key] = len(self.lines)
                    self.lines.append(reader.line_num)
            except (ValueError, csv.Error) as error:  # among them what is not UTF-8
                raise ValueError(
                    f"{path}, line {max(reader.line_num, 1)}: {error}; download the table again or fix it"
                ) from error

    def at(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]}"

    def numbers(self, column: str, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) float64, finite; what stands in other rows does not matter."""
        values = np.full(len(rows), np.nan)
        for place, row in enumerate(rows):
            with contextlib.suppress(ValueError):
                values[place] = float(self.columns[column][row])
            if not np.isfinite(values[place]):
                raise ValueError(f"{self.at(row)}: {column} {self.columns[column][row]!r}, expected a finite number")
        return values

    def flags(self, column: str) -> np.ndarray:
        """(n,) bool."""
        known = {"true": True, "false": False}
        for row, text in enumerate(self.columns[column]):
            if text.lower() not in known:
                raise ValueError(f"{self.at(row)}: {column} {text!r}, expected True or False")
        return np.array([known[text.lower()] for text in self.columns[column]], dtype=bool)

    def order_of(self, other: "Table") -> np.ndarray:
        """(n,) this table's row for each row of the other one.  Raises ValueError unless both hold the same keys."""
        for one, two in ((other, self), (self, other)):
            for key, row in one.rows.items():
                if key not in two.rows:
                    raise ValueError(f"{one.at(row)}: key {key!r} is not in {two.path}; "
                                     "expected the same frames in both")
        return np.array([self.rows[key] for key in other.rows], dtype=np.int64)
