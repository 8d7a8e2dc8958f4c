"""All tables, by their Roman number; a table is a file table_NN.py."""

import importlib

from .rows import Table

TABLES: dict[str, Table] = {
    table.number: table
    for table in (importlib.import_module(f".table_{number:02}", __package__).TABLE for number in range(1, 13))
}


def find(number: str) -> Table:
    """The table of a Roman or Arabic number. ValueError names those that exist."""
    names = {str(position): name for position, name in enumerate(TABLES, start=1)} | {name: name for name in TABLES}
    if number.upper() not in names:
        raise ValueError(f"table {number!r}: expected one of {', '.join(TABLES)}, or 1 to {len(TABLES)}")
    return TABLES[names[number.upper()]]
