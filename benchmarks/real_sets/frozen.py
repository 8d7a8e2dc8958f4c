"""Descriptors that a frozen backbone gives without any training."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets import BenchmarkDataset
from datasets.transforms import read_image
from model import ModelConfig, build_model, load_foundation
from model.backbone import VisionTransformer
from model.layers.gem import GeMPool
from utils.evaluation.baselines import search_baseline
from utils.evaluation.evaluator import Evaluation

from .plan import BACKBONE

SIZE = 224  # pixels: the pre-training's
BLOCKS = (6, 12)
IMAGES_AT_ONCE = 64
POOLED: dict[str, Callable[[Tensor], Tensor]] = {  # of normalised tokens (B, 1 + N, C)
    "GeM": lambda tokens: GeMPool()(tokens[:, 1:]),
    "class token": lambda tokens: tokens[:, 0],
    "all patches in a row": lambda tokens: tokens[:, 1:].flatten(1),
}


def backbone_of(file: Path) -> VisionTransformer:
    """In eval mode."""
    model = build_model(ModelConfig(backbone=BACKBONE, branches=("float",)), seed=0)
    load_foundation(model, file)
    return model.eval().backbone


def search_frozen(backbone: VisionTransformer, dataset: BenchmarkDataset, *, recall_values: Sequence[int]
                  ) -> Iterator[tuple[str, Evaluation]]:
    """By name. Descriptors are centred by the database's mean, of unit length, and searched by flat L2."""
    for block in BLOCKS:
        for name, pool in POOLED.items():
            describe = partial(described, backbone, dataset, block=block, pool=pool)
            searched = search_baseline(describe, dataset, recall_values=recall_values, centred=True)
            yield f"frozen block {block}, {name}", searched


@torch.no_grad()
def described(backbone: VisionTransformer, dataset: BenchmarkDataset, paths: Sequence[Path], *, block: int,
              pool: Callable[[Tensor], Tensor]) -> np.ndarray:
    """(n, d) float32."""
    rows = []
    for first in range(0, len(paths), IMAGES_AT_ONCE):
        images = torch.stack([dataset.transform(read_image(path)) for path in paths[first:first + IMAGES_AT_ONCE]])
        tokens = next(tokens for level, tokens in enumerate(backbone.stream_tokens(images)) if level == block)
        rows.append(pool(backbone.norm(tokens)))
    return torch.cat(rows).numpy()
