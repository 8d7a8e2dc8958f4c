"""What would be run, as a shell takes it."""

from collections.abc import Iterator, Sequence

from .measure import NOT_CHECKED
from .plan import Settings, row_cells
from .rows import Row, Table
from .runner import finished
from .steps import Step


def commands(table: Table, *, seeds: Sequence[int], settings: Settings, checking: bool = False,
             printed: set[Step] | None = None) -> Iterator[str]:
    """Lines: a comment with the row's name and the folder, then the command; what rows share comes with the first.

    printed  steps that stand above already; those that follow are added
    """
    printed = set() if printed is None else printed
    for row in table.rows:
        name = f"# Table {table.number}, {row.name}"
        steps, reasons = row_steps(row, table, seeds, settings, checking=checking)
        for step in steps:
            if step not in printed:
                printed.add(step)
                yield f"{name}; in {step.folder}" + (" (done)" if finished(step) else "")
                yield step.shell()
            else:
                yield f"{name}; shares {step.folder}"
        for reason in reasons:
            yield f"{name}; not measured: {reason}"


def row_steps(row: Row, table: Table, seeds: Sequence[int], settings: Settings, *,
              checking: bool) -> tuple[list[Step], list[str]]:
    """The steps of a row, each once, one that another begins with before that one; and why figures have none."""
    how = row.checkable if checking else row.how
    if how is None and row.how is not None:
        return [], [NOT_CHECKED]
    steps, reasons = {}, {}
    for seed in seeds:
        for column, cell in row_cells(how, table, seed, settings).items():
            if isinstance(cell, str):
                reasons[cell if how is None else f"{column.of}: {cell}"] = None
                continue
            chain = [cell.step]
            while chain[0].after:
                chain.insert(0, chain[0].after)
            steps |= dict.fromkeys(chain)
    return list(steps), list(reasons)
