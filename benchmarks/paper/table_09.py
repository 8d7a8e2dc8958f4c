"""Table IX: retrieval latency."""

from .rows import Column, Row, Table, Timed

COLUMNS = tuple(Column(how, stage, 3) for how in ("One query at a time", "All queries at once")
                for stage in ("initial, ms", "re-ranking, ms", "total, ms"))


def row(name: str, initial: float, rerank: float | None, total: float, *, ours: bool = True) -> Row:
    return Row(name, (initial, rerank, total, None, None, None), Timed(name) if ours else None)


TABLE = Table(
    number="IX", title="The retrieval latency of a query on Pitts30k (10,000 database images)",
    columns=COLUMNS,
    rows=(
        row("TransVPR", 1.94, 3096.66, 3098.60, ours=False),
        row("SelaVPR", 8.02, 67.51, 75.53, ours=False),
        row("Float (4096D)", 32.22, None, 32.22),
        row("Float (2048D)", 16.00, None, 16.00),
        row("Float (512D)", 3.89, None, 3.89),
        row("Binary (512D)", 0.26, None, 0.26),
        row("SelaVPR++ (resource)", 0.26, 0.14, 0.40),
        row("SelaVPR++ (performance)", 0.26, 0.25, 0.51),
    ),
    notes=("Random descriptors stand for those of images: the time of an exhaustive search does not depend on them.",
           "The paper's machine is not named: compare ratios, not the differences."))
