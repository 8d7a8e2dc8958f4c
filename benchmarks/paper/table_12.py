"""Table XII: GSV-Cities against the unified data set."""

from .rows import Evaluated, Row, Table, printed, recall_columns
from .trained import BASE, FLOAT_BASE, FLOAT_BASE_GSV, FLOAT_LARGE, FLOAT_LARGE_GSV, LARGE, released_float

TABLE = Table(
    number="XII", title="Using the GSV-Cities and unified dataset for training",
    columns=recall_columns(("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland"), (1, 5, 10)),
    rows=(
        Row("GSV-Cities, DINOv2-B", printed("92.6 96.5 97.4 92.6 96.2 97.0 96.2 97.8 98.4 81.3 91.3 94.0"),
            Evaluated(FLOAT_BASE_GSV)),
        Row("Unified dataset, DINOv2-B", printed("93.3 96.6 97.4 94.3 96.9 97.6 96.8 98.4 98.7 94.7 98.3 99.0"),
            Evaluated(FLOAT_BASE), released_float(BASE)),
        Row("GSV-Cities, DINOv2-L", printed("93.5 97.0 97.8 93.2 96.6 96.8 97.5 99.0 99.7 85.2 93.4 95.7"),
            Evaluated(FLOAT_LARGE_GSV)),
        Row("Unified dataset, DINOv2-L", printed("94.4 97.5 98.1 94.3 98.0 98.2 98.1 99.0 99.7 97.0 99.1 99.5"),
            Evaluated(FLOAT_LARGE), released_float(LARGE)),
    ),
    toy_seeds=(0,))
