"""Deterministic weights and images that depend on names, shapes and seeds only.

The golden values in tests/data were recorded from the published code with the reference's filler, which is not ours:
the rules of `values` and `image` are that filler's (reference/fill.py), and must not change.
"""

import zlib

import numpy as np
import torch


def _generator(text: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(text.encode()))


def values(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """One entry of a published state dict (name without "module."), float32; int64 for num_batches_tracked."""
    parts = name.split(".")
    leaf = parts[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "p":
        return np.full(shape, 3.0, np.float32)
    count = int(np.prod(shape))
    if leaf == "gamma":
        uniform = _generator(f"{seed}:{name}").random(count, dtype=np.float32).reshape(shape)
        return np.asarray(0.1 + 0.5 * uniform, np.float32)
    normal = _generator(f"{seed}:{name}").standard_normal(count, dtype=np.float32).reshape(shape)
    if leaf == "running_mean":
        return np.asarray(0.05 * normal, np.float32)
    if leaf == "running_var":
        return np.asarray(1.0 + 0.2 * np.abs(normal), np.float32)
    if leaf in ("pos_embed", "cls_token", "mask_token", "register_tokens"):
        return np.asarray(0.1 * normal, np.float32)
    if leaf == "bias":
        return np.asarray(0.02 * normal, np.float32)
    if len(shape) == 1:  # scale of a normalisation
        return np.asarray(1.0 + 0.1 * normal, np.float32)
    # D_fc2 is kept small, so that 12 to 16 residual adapter steps do not explode.
    gain = 0.25 if "D_fc2" in parts else 1.0
    scale = gain / np.sqrt(int(np.prod(shape[1:])))
    if parts[0] in ("linear2", "linear4"):  # the pooled inputs are all positive: drop their common part
        weight = normal.astype(np.float64) * scale
        return np.asarray(weight - weight.mean(axis=1, keepdims=True), np.float32)
    # In double precision too, but by blocks in place: copies of a large model's weights take longer than to draw them.
    return np.multiply(normal, scale, out=normal, dtype=np.float64, casting="same_kind")


def fill(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """A published-format state dict with these names and shapes."""
    return {name: torch.from_numpy(values(name, tuple(shape), seed)) for name, shape in shapes.items()}


def _upsample(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, corners aligned, of a (3, a, b) float64 grid."""
    _, rows, columns = grid.shape
    y = np.arange(height, dtype=np.float64) * (rows - 1) / max(height - 1, 1)
    x = np.arange(width, dtype=np.float64) * (columns - 1) / max(width - 1, 1)
    y0 = np.minimum(y.astype(np.int64), rows - 2)
    x0 = np.minimum(x.astype(np.int64), columns - 2)
    fy, fx = (y - y0)[None, :, None], (x - x0)[None, None, :]
    top = grid[:, y0][:, :, x0] * (1 - fx) + grid[:, y0][:, :, x0 + 1] * fx
    bottom = grid[:, y0 + 1][:, :, x0] * (1 - fx) + grid[:, y0 + 1][:, :, x0 + 1] * fx
    return top * (1 - fy) + bottom * fy


def image(seed: int, height: int, width: int) -> torch.Tensor:
    """(3, H, W) float32, about the range of a normalised photograph: a tint, waves, blocks and a texture."""
    random = _generator(f"image:{seed}")
    values = 0.8 * random.standard_normal((3, 1, 1)) * np.ones((3, height, width))
    values = values + 1.0 * _upsample(random.standard_normal((3, 4, 4)), height, width)
    values = values + 0.35 * _upsample(random.standard_normal((3, 24, 24)), height, width)
    for _ in range(12):
        cy, cx, sy, sx = random.random(4)
        top, left = int(cy * 0.9 * height), int(cx * 0.9 * width)
        bottom = min(height, top + 2 + int((0.05 + 0.3 * sy) * height))
        right = min(width, left + 2 + int((0.05 + 0.3 * sx) * width))
        block = values[:, top:bottom, left:right] * 0.3
        values[:, top:bottom, left:right] = block + random.standard_normal((3, 1, 1))
    ty, tx = int(3 + 8 * random.random()), int(3 + 8 * random.random())
    rows, columns = np.arange(height)[:, None] // ty % 2, np.arange(width)[None, :] // tx % 2
    values = values + 0.4 * random.standard_normal((3, 1, 1)) * (rows ^ columns)[None]
    return torch.from_numpy(np.clip(values, -2.2, 2.7).astype(np.float32))


def batch(seeds, height: int, width: int) -> torch.Tensor:
    """(n, 3, H, W), one image a seed."""
    return torch.stack([image(seed, height, width) for seed in seeds])
