"""Where a model looks: a map of the image for its backbone and for each branch (Figures 1 and 6 of the paper).

The paper draws "the attention map of the output feature map (before aggregation)" and gives no formula. Here, of the
tokens x_j of the patches as a head gets them, behind the last LayerNorm,

    a_i = |x_i - mean_j x_j|        (L2)

how far the token of patch i is from the image's mean token: what stands out from the rest. The backbone's tokens are
those of its last block, a branch's those of its side network. That is the activation-based attention of Zagoruyko and
Komodakis (ICLR 2017: the squared activations of a place, summed over channels) of the map without its mean. It asks no
head, so that it is the same for GeM, BoQ and SALAD and is there for a backbone that has none.

Not the norm of x_i itself: LayerNorm has made that nearly the same everywhere. Not the class token's attention: side
networks do not attend. Not a principal component: its sign is free; a_i^2 sums the squares of all of them.
How well it agrees with covering the patches one by one: docs/benchmarks/figures.md.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model import SelaVPRpp

BACKBONE = "backbone"
# Viridis (Smith and van der Walt, 2015, CC0) at equal steps: its lightness grows evenly, on paper and to colour-blind
# eyes too.
VIRIDIS = ((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
           (110, 206, 88), (181, 222, 43), (253, 231, 37))
OPACITY = 0.55  # of a map over its image, which is darkened by half: colours stay themselves on white too


@torch.inference_mode()
def attention_maps(model: SelaVPRpp, images: Tensor) -> dict[str, np.ndarray]:
    """Of images (B, 3, H, W), ImageNet-normalised, on the model's device, H and W multiples of the patch: by the
    names "backbone", "float" and "binary", as far as the model has them, maps (B, H / patch, W / patch) float32.

    A map holds a_i of each patch (see above), stretched over its own range: 0 and 1 are the image's least and largest;
    a map without a difference is 0. Values of two maps do not compare. Without adapters a branch's tokens are the
    backbone's, and so is its map.
    Raises ValueError for a model in training mode, whose BatchNorm would mix the images, and for other images.
    """
    if model.training:
        raise ValueError("maps of a model in training mode; call model.eval() first")
    grid = model.backbone.grid(images)
    states: dict[str, Tensor | None] = dict.fromkeys(model.config.branches)
    for level, tokens in enumerate(model.backbone.stream_tokens(images)):
        for name in model.config.branches:
            states[name] = model.branch(name).side.step(states[name], tokens, level, grid)
    return {name: _stretched(_from_mean(model.backbone.norm(state), grid))
            for name, state in {BACKBONE: tokens, **states}.items()}


def _from_mean(tokens: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """(B, prefix + rows * columns, C) -> (B, rows, columns): a_i."""
    patches = tokens[:, tokens.shape[1] - grid[0] * grid[1]:].float()
    return (patches - patches.mean(dim=1, keepdim=True)).norm(dim=2).unflatten(1, grid).cpu().numpy()


def _stretched(maps: np.ndarray) -> np.ndarray:
    low, high = (extreme(maps, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    return (maps - low) / np.where(high > low, high - low, 1)


def coloured(values: np.ndarray) -> Image.Image:
    """Values (rows, columns) in [0, 1] as an RGB image of as many pixels: dark blue is 0, yellow is 1."""
    steps = np.linspace(0, 1, len(VIRIDIS))
    channels = [np.interp(values, steps, channel) for channel in zip(*VIRIDIS, strict=True)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A map (rows, columns) in [0, 1], enlarged bilinearly and coloured, over its darkened grey image; RGB, in the
    image's size."""
    enlarged = Image.fromarray(values.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    darkened = image.convert("L").point(lambda level: level // 2)
    return Image.blend(darkened.convert("RGB"), coloured(np.asarray(enlarged)), OPACITY)
