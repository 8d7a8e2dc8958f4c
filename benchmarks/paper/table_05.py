"""Table V: fine-tuning methods with DINOv2-large."""

from .rows import Evaluated, Row, Table, Training, printed, recall_columns
from .trained import GSV, LARGE


def tuned(variant: str | None = None) -> Evaluated:
    """The smaller batch is what full fine-tuning needs; the paper takes it for all methods."""
    return Evaluated(Training(backbone=LARGE, dataset=GSV, places=60, variant=variant))


TABLE = Table(
    number="V", title="Fine-tuning methods with the DINOv2-large backbone, GSV-Cities, batch size 60",
    columns=recall_columns(("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland"), (1, 5)),
    rows=(
        Row("Freezing", printed("92.2 96.6 90.3 95.7 95.2 98.4 57.8 72.6"), tuned("freezing")),
        Row("Full-tuning", printed("91.3 95.8 89.3 94.7 88.9 94.6 75.8 87.1"), tuned("full")),
        Row("Partial-tuning", printed("92.6 96.4 90.4 96.2 93.7 97.1 78.8 89.0"), tuned("partial")),
        Row("SelaVPR-global", printed("92.5 96.7 90.4 95.8 94.6 96.8 75.7 86.4"), tuned("selavpr-global")),
        Row("MemEfficient-vanilla", printed("92.5 96.8 92.7 96.5 96.5 97.8 79.9 90.2"), tuned("side-vanilla")),
        Row("MemEfficient-MCA", printed("93.3 97.2 93.4 96.8 96.2 98.4 81.4 91.1"), tuned()),
    ))
