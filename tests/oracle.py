"""The network once more, from its description alone: plain functions in double precision on a published state dict.

Nothing of the package is used: attention is a written-out softmax, the position table is resized by hand, BatchNorm
is its formula, levels are kept in a list.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def bicubic_matrix(size: int, table: int = 37, offset: float = 0.1) -> np.ndarray:
    """(size, table): each output row's weights on the table, Keys' kernel with a = -0.75, edge values repeated.

    Output i samples at (i + 0.5) * table / (size + offset) - 0.5.
    """
    def kernel(distance: float) -> float:
        a, x = -0.75, abs(distance)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    matrix = np.zeros((size, table))
    for i in range(size):
        position = (i + 0.5) * table / (size + offset) - 0.5
        nearest = int(np.floor(position))
        for tap in range(nearest - 1, nearest + 3):
            matrix[i, min(max(tap, 0), table - 1)] += kernel(position - tap)
    return matrix


def positions(pos_embed: Tensor, rows: int, columns: int) -> Tensor:
    """(1, 1370, C) -> (1, 1 + rows * columns, C)."""
    if rows == columns == 37:
        return pos_embed
    table = pos_embed[0, 1:].double().view(37, 37, -1)
    vertical, horizontal = (torch.from_numpy(bicubic_matrix(size)) for size in (rows, columns))
    resized = torch.einsum("ra,cb,abd->rcd", vertical, horizontal, table).flatten(0, 1)
    return torch.cat([pos_embed[:, :1].double(), resized[None]], dim=1)


def _linear(state: dict, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _layer_norm(state: dict, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return unit * state[f"{name}.weight"] + state[f"{name}.bias"]


def _block(state: dict, name: str, x: Tensor, heads: int) -> Tensor:
    u = _layer_norm(state, f"{name}.norm1", x)
    q, k, v = _linear(state, f"{name}.attn.qkv", u).chunk(3, dim=-1)
    width = q.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) * width**-0.5, dim=-1)
        outputs.append(weights @ v[..., part])
    x = x + state[f"{name}.ls1.gamma"] * _linear(state, f"{name}.attn.proj", torch.cat(outputs, dim=-1))
    u = _linear(state, f"{name}.mlp.fc1", _layer_norm(state, f"{name}.norm2", x))
    u = 0.5 * u * (1 + torch.erf(u / 2**0.5))
    return x + state[f"{name}.ls2.gamma"] * _linear(state, f"{name}.mlp.fc2", u)


def _conv_unit(state: dict, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.conv.weight"]
    x = F.conv2d(x, weight, state[f"{name}.conv.bias"], padding=weight.shape[-1] // 2)
    mean, variance, scale, shift = (
        state[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias"))
    return (scale * (x - mean) / (variance + 1e-3).sqrt() + shift).clamp(min=0)


def adapter(state: dict, name: str, tokens: Tensor, rows: int, columns: int) -> Tensor:
    """A(u) in eval mode; tokens (B, 1 + rows * columns, C) double."""
    r = _linear(state, f"{name}.D_fc1", tokens).clamp(min=0)
    grid = r[:, 1:].reshape(len(r), rows, columns, -1).permute(0, 3, 1, 2)
    f = torch.cat([
        _conv_unit(state, f"{name}.branch1", grid),
        _conv_unit(state, f"{name}.branch2.1", _conv_unit(state, f"{name}.branch2.0", grid)),
        _conv_unit(state, f"{name}.branch3.1", _conv_unit(state, f"{name}.branch3.0", grid)),
    ], dim=1)
    f = f.permute(0, 2, 3, 1).reshape(len(r), rows * columns, -1)
    return _linear(state, f"{name}.D_fc2", torch.cat([r[:, :1], f], dim=1) + r)


def _unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)


def _gem_head(state: dict, linears: tuple[str, str], pool: str, patches: Tensor) -> Tensor:
    q = _unit(_linear(state, linears[0], patches)).clamp(min=1e-6)
    p = state[f"{pool}.1.p"]
    return _unit(_linear(state, linears[1], q.pow(p).mean(dim=1).pow(1 / p)))


@torch.no_grad()
def extract_rows(state: dict, images: Tensor, *, heads: int, first_level: int) -> dict[str, Tensor]:
    """{"floating": (B, D), "relaxed": (B, bits)}, as far as the state dict has the branch; double precision."""
    state = {name: value.double() for name, value in state.items()}
    rows, columns = images.shape[2] // 14, images.shape[3] // 14
    pieces = images.double().unfold(2, 14, 14).unfold(3, 14, 14)  # (B, 3, rows, columns, 14, 14)
    pieces = pieces.permute(0, 2, 3, 1, 4, 5).reshape(len(images), rows * columns, -1)
    kernel = state["backbone.patch_embed.proj.weight"].flatten(1)
    x = pieces @ kernel.T + state["backbone.patch_embed.proj.bias"]
    x = torch.cat([state["backbone.cls_token"].expand(len(images), 1, -1), x], dim=1)
    levels = [x + positions(state["backbone.pos_embed"], rows, columns)]
    depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("backbone.blocks."))
    for i in range(depth):
        levels.append(_block(state, f"backbone.blocks.{i}", levels[-1], heads))
    extracted = {}
    for field, adapters, linears, pool in (
        ("floating", "adapters", ("linear1", "linear2"), "aggregation"),
        ("relaxed", "adapters_hashing", ("linear3", "linear4"), "aggregation_hashing"),
    ):
        if f"backbone.{adapters}.0.D_fc1.weight" in state:
            y = levels[first_level]
            for k, level in enumerate(levels[first_level + 1:]):
                y = y + adapter(state, f"backbone.{adapters}.{k}", y + level, rows, columns)
            patches = _layer_norm(state, "backbone.norm", y)[:, 1:]
            extracted[field] = _gem_head(state, linears, pool, patches)
    return extracted
