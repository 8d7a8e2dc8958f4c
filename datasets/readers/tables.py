"""Rows of CSV files with a header, as the data sets' tables are."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ..files import is_regular

T = TypeVar("T")


def read_rows(table: Path, columns: Sequence[str], parse: Callable[[dict[str, str]], T], *,
              expected: str) -> Iterator[tuple[int, T]]:
    """The number of each line, and what `parse` makes of that row: name of a column -> its text.

    columns    must be there, in any order and among others; names count without outer spaces, in lower case
    expected   what the table should hold, in words, for errors
    Blank lines are passed over.  Raises FileNotFoundError, and ValueError for what is no regular file, and with the
    line for a column that is missing or comes twice, a row of another length, what is no CSV in UTF-8, and what `parse`
    raises as ValueError.
    """
    if not is_regular(table):
        raise FileNotFoundError(f"{table}: no such file; expected {expected}")
    with table.open(newline="", encoding="utf-8-sig") as file:  # perhaps with a byte-order mark, as of spreadsheets
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [column for column in columns if column not in header]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}; found {', '.join(filter(None, header)) or 'none'}")
            twice = [column for column, times in Counter(filter(None, header)).items() if times > 1]
            if twice:
                raise ValueError(f"column {twice[0]} twice")
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(f"{len(row)} fields under a header of {len(header)}")
                yield reader.line_num, parse(dict(zip(header, row, strict=True)))
        except (ValueError, csv.Error) as error:
            said = str(error) if len(str(error)) < 400 else f"{str(error)[:400]}..."
            raise ValueError(f"{table}, line {max(reader.line_num, 1)}: {said}; expected {expected}") from error
