"""SelaVPR++ and SelaVPR models; needs torch alone."""

__version__ = "0.1.0"

from .aggregators import AGGREGATORS
from .checkpoint import (
    Checkpoint,
    CheckpointError,
    DamagedCheckpointError,
    checkpoint_of,
    cut_floats,
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
from .selavpr.checkpoint import (
    find_released_selavpr,
    load_selavpr,
    published_selavpr_state_dict,
    read_selavpr,
    save_selavpr,
    selavpr_fingerprint,
)
from .selavpr.config import SelaVPRConfig
from .selavpr.network import SelaVPR, SelaVPRDescriptors, build_selavpr
from .selavpr.published_interface import PublishedSelaVPR

__all__ = [
    "AGGREGATORS", "BRANCHES", "BACKBONES", "Checkpoint", "CheckpointError", "DamagedCheckpointError", "Descriptors",
    "ModelConfig", "PublishedInterface", "PublishedSelaVPR", "SelaVPR", "SelaVPRConfig", "SelaVPRDescriptors",
    "SelaVPRpp", "build_model", "build_selavpr", "checkpoint_of", "cut_floats", "fast_inference", "fetch_foundation",
    "fetch_released", "find_released_selavpr", "fingerprint", "load_foundation", "load_model", "load_selavpr",
    "load_weights", "published_selavpr_state_dict", "published_state_dict", "read_checkpoint", "read_selavpr",
    "released_address", "save_checkpoint", "save_selavpr", "selavpr_fingerprint",
]
