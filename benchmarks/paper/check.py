"""Whether measured figures are the paper's: `--check`."""

from collections.abc import Sequence
from typing import NamedTuple

from .measure import Measured
from .rows import Column, Table

POINT = 0.1  # what the paper's rounding hides, and the least that counts


class Checked(NamedTuple):
    """How many figures were compared, and those that differ, one line each."""

    figures: int
    differing: list[str]


def check(table: Table, rows: Sequence[Measured]) -> Checked:
    """Recalls may differ by 0.1 point or one query, whichever is more; counts not at all.

    Averages follow from the others, and times and memory are those of a machine: neither is compared.
    """
    figures, differing = 0, []
    for row in rows:
        for column in table.columns:
            allowed, difference = tolerance(row, column), row.difference(column)
            if allowed is None or difference is None:
                continue
            figures += 1
            if abs(difference) > allowed + 1e-9:
                places = column.decimals
                differing.append(f"{row.name}, {column.of} {column.measure}: {row.mean(column):.{places + 2}f}, "
                                 f"paper {row.paper[column]:.{places}f} (allowed: {allowed:.3g})")
    return Checked(figures, differing)


def tolerance(row: Measured, column: Column) -> float | None:
    """In the column's unit; None where it is not compared."""
    if column.decimals == 0:
        return 0.0
    if not column.measure.startswith("R@") or column.of not in row.queries:  # an average has no queries of its own
        return None
    return max(POINT, 100 / row.queries[column.of])
