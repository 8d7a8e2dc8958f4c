"""The published code's models as recorded: names, shapes and what is trained; and models filled by those names."""

import gzip
import json

import torch
from fill import fill
from paths import DATA
from torch import Tensor

from model import ModelConfig, SelaVPRpp, published_state_dict
from model.checkpoint import infer_config
from model.published_names import to_own_names


def read_json(name: str) -> dict:
    return json.loads(gzip.decompress((DATA / name).read_bytes()))


# "base/rerank/gem" and the like: {entries: [[name, shape, trained]], fingerprint, trainable, params}
PUBLISHED = read_json("published_models.json.gz")


def published_shapes(key: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape, _ in PUBLISHED[key]["entries"]}


def model_of(weights: dict[str, Tensor]) -> SelaVPRpp:
    """An eval-mode model with these published-format weights; they go in by plain load_state_dict."""
    config = infer_config({to_own_names(name): value for name, value in weights.items()}, "test weights")
    with torch.device("meta"):
        model = SelaVPRpp(config)
    model = model.to_empty(device="cpu")
    model.load_state_dict({f"module.{name}": value for name, value in weights.items()})
    return model.eval()


def filled_weights(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Published-format weights that depend on names and shapes only (no layer is the identity, no bias is 0)."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in published_state_dict(SelaVPRpp(config)).items()}
    return fill(shapes, seed)


