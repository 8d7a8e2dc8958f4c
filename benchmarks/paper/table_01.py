"""Table I: the images of the evaluation sets."""

from .rows import SETS, Column, Counted, Row, Table, printed

COUNTS = {
    "Pitts30k-test": "10000 6816",
    "MSLS-val": "18871 740",
    "MSLS-challenge": "38770 27092",
    "Tokyo24/7": "75984 315",
    "Nordland": "27592 27592",
}

TABLE = Table(
    number="I", title="Summary of the main evaluation datasets",
    columns=(Column("Number", "database", 0), Column("Number", "queries", 0)),
    rows=tuple(Row(name, printed(counts), Counted(name) if SETS[name].name else None)
               for name, counts in COUNTS.items()),
    notes=("A set prepared in another way has other counts, and then other recalls: MSLS-val has 740 queries here, and "
           "some 11,000 elsewhere.",
           f"MSLS-challenge is not counted: {SETS['MSLS-challenge'].why_not}."))
