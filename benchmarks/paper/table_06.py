"""Table VI and Figure 7: what an epoch on GSV-Cities takes."""

from .rows import Column, Costs, Row, Table, Training
from .trained import BASE, GSV, LARGE


def row(name: str, backbone: str, minutes: float, variant: str | None = None) -> Row:
    letter = {BASE: "B", LARGE: "L"}[backbone]
    # A single small validation set: only the training pass is measured.
    training = Training(backbone=backbone, dataset=GSV, places=40, variant=variant, epochs=1, validation=("pitts30k",))
    return Row(f"{name}, DINOv2-{letter}", (minutes, None, None), Costs(training))


TABLE = Table(
    number="VI", title="Training time of an epoch on GSV-Cities, batch size 40; Figure 7: parameters and memory",
    columns=(Column("Epoch", "minutes", 2), Column("Epoch", "trained parameters, million", 2),
             Column("Epoch", "peak memory, GiB", 2)),
    rows=(
        row("Freezing", BASE, 6.75, "freezing"),
        row("MemEfficient-MCA", BASE, 6.85),
        row("Partial-tuning", BASE, 6.95, "partial"),
        row("SelaVPR-global", BASE, 8.28, "selavpr-global"),
        row("Full-tuning", BASE, 8.87, "full"),
        row("Freezing", LARGE, 8.80, "freezing"),
        row("MemEfficient-MCA", LARGE, 11.97),
        row("MemEfficient-MCA(4)", LARGE, 9.60, "last-4"),
        row("Partial-tuning", LARGE, 11.47, "partial"),
        row("SelaVPR-global", LARGE, 23.12, "selavpr-global"),
        row("Full-tuning", LARGE, 24.73, "full"),
    ),
    notes=("The paper's minutes are those of an NVIDIA A800: compare their order and ratios, not the differences.",
           "Figure 7's bars have no figures in the text, which gives ratios: trained parameters, MCA / full 8.7 % (L), "
           "MCA / partial under one half (B, L), SelaVPR-global / full under one fifth; memory, MCA / partial under "
           "one half (B) and 50.3 % (L), MCA / SelaVPR-global 14.6 % (L), MCA / full 11.5 % (L), SelaVPR-global / full "
           "over three quarters."))
