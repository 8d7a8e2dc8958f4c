"""Rows of CSV files with a header, as the data sets' tables are."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def read_rows(
    table: Path, columns: Sequence[str], parse: Callable[..., T], *, expected: str
) -> Iterator[tuple[int, T]]:
    """The number of each line, and what `parse` makes of that row's `columns`, which may stand in any order.

    expected   what the columns should hold, in words, for errors
    Blank lines are passed over, other columns not read.  Raises ValueError with the file and line for a missing column,
    a row of another length, and what `parse` raises as ValueError.
    """
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}")
            places = [header.index(column) for column in columns]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} fields under a header of {len(header)}")
                yield reader.line_num, parse(*(row[place] for place in places))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{table}, line {max(reader.line_num, 1)}: {error}; expected columns {','.join(columns)}: "
                             f"{expected}") from error
