"""Table IV: fine-tuning methods with DINOv2-base."""

import dataclasses

from .rows import Evaluated, Row, Table, printed, recall_columns
from .trained import FLOAT_BASE_GSV


def tuned(variant: str) -> Evaluated:
    return Evaluated(dataclasses.replace(FLOAT_BASE_GSV, variant=variant))


TABLE = Table(
    number="IV", title="Fine-tuning methods with the DINOv2-base backbone, GSV-Cities, batch size 120",
    columns=recall_columns(("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland"), (1, 5)),
    rows=(
        Row("Freezing", printed("91.0 96.1 87.2 94.1 94.0 96.8 53.2 68.6"), tuned("freezing")),
        Row("Full-tuning", printed("91.5 95.4 89.6 95.3 90.2 95.2 73.7 86.0"), tuned("full")),
        Row("Partial-tuning", printed("92.0 96.3 90.0 96.1 94.9 97.1 77.4 88.5"), tuned("partial")),
        Row("SelaVPR-global", printed("92.0 96.1 90.4 95.3 93.0 96.5 73.3 85.2"), tuned("selavpr-global")),
        Row("MemEfficient-vanilla", printed("91.9 96.1 91.6 96.1 95.9 97.1 75.0 86.8"), tuned("side-vanilla")),
        Row("MemEfficient-MCA", printed("92.6 96.5 92.6 96.2 96.2 97.8 81.3 91.3"), Evaluated(FLOAT_BASE_GSV)),
    ),
    toy_seeds=(0,))
