"""The denominator of the figures here: the published order of operations, on the weights of our modules, in fp32.

Attention is written out, every adapter runs five separate convolution-BatchNorm-ReLU units over maps with channels
first, and autograd keeps whatever it wants to. The equations are the paper's; sections III-A and III-B.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import Descriptors, SelaVPRpp
from model.network import straight_through_sign


def plain_forward(model: SelaVPRpp, images: Tensor, branch: str) -> tuple[Tensor, Tensor | None]:
    """A training step's pass: images (B, 3, H, W) -> the branch's unit-length output (B, D) and, for the binary
    branch, its signs. BatchNorm measures the batch."""
    output = _branch(model, _levels(model.backbone, images), images, branch, training=True)
    return output, straight_through_sign(output) if branch == "binary" else None


@torch.no_grad()
def plain_extract(model: SelaVPRpp, images: Tensor, branches: Sequence[str]) -> Descriptors:
    """An evaluation's pass: images (B, 3, H, W) -> descriptors of `branches`, all from one list of the backbone's
    levels. BatchNorm takes its running statistics, whatever mode the model is in."""
    levels = _levels(model.backbone, images)
    outputs = {branch: _branch(model, levels, images, branch, training=False) for branch in branches}
    relaxed = outputs.get("binary")
    return Descriptors(relaxed=relaxed, binary=None if relaxed is None else straight_through_sign(relaxed),
                       floating=outputs.get("float"))


def _branch(model: SelaVPRpp, levels: list[Tensor], images: Tensor, branch: str, *, training: bool) -> Tensor:
    grid = model.backbone.grid(images)
    side, head = model.branch(branch).side, model.branch(branch).head
    state = levels[side.first_level]
    for adapter, tokens in zip(side.adapters, levels[side.first_level + 1:], strict=True):
        state = _adapter(adapter, state + tokens, grid, training) + state
    return _head(head, model.backbone.norm(state)[:, 1:])


@torch.no_grad()
def _levels(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    patches = backbone.patch_embed(images)
    x = torch.cat([backbone.cls_token.expand(len(images), -1, -1), patches], dim=1)
    x = x + backbone.position_embedding(*backbone.grid(images))
    levels = [x]
    for block in backbone.blocks:
        x = x + _attention(block.attn, block.norm1(x)) * block.ls1.gamma
        x = x + block.mlp(block.norm2(x)) * block.ls2.gamma
        levels.append(x)
    return levels


def _attention(attention: nn.Module, x: Tensor) -> Tensor:
    batch, tokens, dim = x.shape
    qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0] * (dim // attention.heads) ** -0.5, qkv[1], qkv[2]
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1)
    return attention.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, dim))


def _adapter(adapter: nn.Module, tokens: Tensor, grid: tuple[int, int], training: bool) -> Tensor:
    x = F.relu(F.linear(tokens, adapter.down.weight, adapter.down.bias))
    maps = x[:, 1:].reshape(len(x), *grid, -1).permute(0, 3, 1, 2)
    scales = [_unit(adapter.conv1x1, maps, training),
              _unit(adapter.conv3x3, _unit(adapter.reduce3x3, maps, training), training),
              _unit(adapter.conv5x5, _unit(adapter.reduce5x5, maps, training), training)]
    patches = torch.cat(scales, dim=1).permute(0, 2, 3, 1).reshape(len(x), grid[0] * grid[1], -1)
    return F.linear(torch.cat([x[:, :1], patches], dim=1) + x, adapter.up.weight, adapter.up.bias)


def _unit(unit: nn.Module, maps: Tensor, training: bool) -> Tensor:
    maps = F.conv2d(maps, unit.conv.weight, unit.conv.bias, padding=unit.conv.padding)
    norm = unit.bn
    return F.relu(F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias, training,
                               norm.momentum, norm.eps))


def _head(head: nn.Module, patches: Tensor) -> Tensor:
    x = F.normalize(F.linear(patches, head.project.weight, head.project.bias), dim=-1)
    pooled = x.clamp(min=1e-6).pow(head.pool.p).mean(dim=1).pow(1 / head.pool.p)
    return F.normalize(F.linear(pooled, head.expand.weight, head.expand.bias), dim=-1)
