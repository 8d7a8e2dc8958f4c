"""Table III: comparison on supplementary data sets."""

from .rows import Row, Table, printed, recall_columns
from .trained import LARGE, released_rerank

TABLE = Table(
    number="III", title="Comparison (R@1) to state-of-the-art methods on supplementary datasets",
    columns=recall_columns(("SPED", "Eynsham", "SVOX-Night", "SVOX-Rain", "SVOX-Overcast"), (1,)),
    rows=(
        Row("CosPlace", printed("75.5 88.3 44.8 85.2 88.5")),
        Row("MixVPR", printed("85.2 89.4 64.4 91.5 96.2")),
        Row("EigenPlaces", printed("70.2 90.7 58.9 90.0 93.1")),
        Row("SelaVPR", printed("89.5 90.6 89.4 94.7 97.0")),
        Row("SALAD", printed("92.1 91.6 95.4 98.5 98.3")),
        Row("SALAD-CM", printed("89.3 91.9 95.5 98.4 98.5")),
        Row("BoQ", printed("92.5 92.2 97.7 98.8 98.5")),
        Row("SelaVPR++", printed("92.9 92.5 98.4 99.0 98.7"), released_rerank(LARGE)),
    ),
    notes=("SelaVPR++ is the performance-focused one.",))
