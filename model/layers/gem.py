"""GeM head: linear, generalised-mean pooling (Radenovic et al., TPAMI 2018), linear."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GeMPool(nn.Module):
    """mean(max(x, 1e-6)^p)^(1/p) over places of a map with unit-length channels; p is learnt, from 3."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, C), computed in fp32: the cube of 1e-6 is below the half-precision formats' reach."""
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(x.float(), dim=-1)
            return x.clamp(min=1e-6).pow(self.p).mean(dim=1).pow(1 / self.p)


class GeMHead(nn.Module):
    """Tokens of the adapted last level -> one descriptor of unit length.

    (B, prefix + rows * columns, C), (rows, columns) -> (B, out_dim), fp32. Tokens before the patches are not used.
    """

    fixed_dim = None

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.pool = GeMPool()
        self.expand = nn.Linear(dim, out_dim)
        self.out_dim = out_dim

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = tokens[:, tokens.shape[1] - grid[0] * grid[1]:]
        return F.normalize(self.expand(self.pool(self.project(patches))).float(), dim=-1)
