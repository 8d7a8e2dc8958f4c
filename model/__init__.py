"""SelaVPR++ models; needs torch alone."""

__version__ = "0.1.0"

from .aggregators import AGGREGATORS
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    fingerprint,
    load_foundation,
    load_model,
    load_weights,
    published_state_dict,
    read_checkpoint,
    save_checkpoint,
)
from .config import BACKBONES, BRANCHES, ModelConfig
from .inference import fast_inference
from .network import Descriptors, SelaVPRpp, build_model
from .published_interface import PublishedInterface
from .released import fetch_foundation, fetch_released, released_address

__all__ = [
    "AGGREGATORS", "BRANCHES", "BACKBONES", "Checkpoint", "CheckpointError", "Descriptors", "ModelConfig",
    "PublishedInterface", "SelaVPRpp", "build_model", "fast_inference", "fetch_foundation", "fetch_released",
    "fingerprint", "load_foundation", "load_model", "load_weights", "published_state_dict", "read_checkpoint",
    "released_address", "save_checkpoint",
]
