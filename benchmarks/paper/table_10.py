"""Table X: the number of candidates that are re-ranked, all from one extraction."""

from .rows import Evaluated, Released, Row, Table, printed, recall_columns
from .trained import LARGE

DEPTHS = (20, 50, 100, 200)


def reranked(depth: int) -> Evaluated:
    return Evaluated(Released(LARGE, "rerank"), depth=depth, depths=DEPTHS)


TABLE = Table(
    number="X", title="Different numbers of re-ranking candidates, DINOv2-large",
    columns=recall_columns(("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland"), (1, 5)),
    rows=(
        Row("Top-20", printed("94.2 97.1 93.6 97.2 97.5 98.4 96.5 98.1"), reranked(20)),
        Row("Top-50", printed("94.4 97.3 94.3 97.7 98.4 99.0 97.1 98.8"), reranked(50)),
        Row("Top-100", printed("94.4 97.5 94.5 98.0 98.1 98.7 97.2 99.0"), reranked(100)),
        Row("Top-200", printed("94.4 97.6 94.3 98.0 98.1 99.0 97.2 99.1"), reranked(200)),
    ),
    notes=("The caption does not name the backbone; Top-100 has Table VIII's figures of DINOv2-L.",),
    toy_seeds=(0,))
