"""The models that several tables share, with the paper's settings (section IV-B)."""

from .rows import Evaluated, Released, Training

BASE, LARGE = "dinov2-base", "dinov2-large"
GSV, UNIFIED = "gsv_cities", "unified_dataset"

# The final method needs no variant: MultiConv adapters after every block (base), after the last 16 (large).
FLOAT_BASE_GSV = Training(backbone=BASE, dataset=GSV, places=120)
FLOAT_LARGE_GSV = Training(backbone=LARGE, dataset=GSV, places=120)
FLOAT_BASE = Training(backbone=BASE, dataset=UNIFIED, places=120)
FLOAT_LARGE = Training(backbone=LARGE, dataset=UNIFIED, places=120)


def released_float(backbone: str) -> Evaluated:
    return Evaluated(Released(backbone, "float"))


def released_rerank(backbone: str, stage: str = "final") -> Evaluated:
    """Our two-stage retrieval; its statistics are kept as loaded, also where training let them drift."""
    return Evaluated(Released(backbone, "rerank"), stage)
