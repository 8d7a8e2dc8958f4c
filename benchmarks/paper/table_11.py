"""Table XI: deep hashing methods, DINOv2-base, 512 bits, GSV-Cities."""

from .rows import AVERAGE, Evaluated, Row, Table, Training, printed, recall_columns
from .trained import BASE, GSV


def hashed(variant: str) -> Evaluated:
    return Evaluated(Training(script="train_hashing.py", backbone=BASE, dataset=GSV, places=120, variant=variant))


TABLE = Table(
    number="XI", title="Different deep hashing methods, DINOv2-base, 512 bits, GSV-Cities",
    columns=recall_columns(("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland", AVERAGE), (1, 5)),
    rows=(
        Row("Direct hashing", printed("87.9 94.9 86.4 94.3 85.7 95.6 53.2 72.4 78.3 89.3"), hashed("direct")),
        Row("LC hashing", printed("88.4 94.8 87.8 94.5 87.0 94.9 55.2 74.7 79.6 89.7"), hashed("lc")),
        Row("SC hashing", printed("89.1 94.7 88.0 93.8 89.2 95.9 57.1 75.6 80.9 90.0"), hashed("sc")),
        Row("STE", printed("88.9 95.0 88.5 94.2 88.9 96.5 58.6 76.8 81.2 90.6"), hashed("ste")),
        Row("SC hashing + STE", printed("89.0 95.3 89.9 94.9 90.2 97.5 58.8 76.7 82.0 91.1"), hashed("sc-ste")),
    ),
    notes=("The loss of LC hashing is our reading of its source: the paper has no equation for it.",),
    toy_seeds=(0, 1, 2))
