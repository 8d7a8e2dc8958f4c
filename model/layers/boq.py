"""Bag-of-Queries head (Ali-bey, Chaib-draa and Giguere, CVPR 2024): learnt queries ask the patches what is there."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS, QUERIES, LAYERS, ROWS = 384, 6, 64, 2, 32


class QueryLayer(nn.Module):
    """Refines the patches by self-attention, then lets this layer's own queries gather from them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.0, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, WIDTH))
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm_q = nn.LayerNorm(WIDTH)
        self.cross_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm_out = nn.LayerNorm(WIDTH)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 384) -> the refined patches (B, N, 384), the queries' answers (B, 64, 384)."""
        patches = self.encoder(patches)
        # What the queries say to one another depends on no image: it is computed once for the whole batch.
        queries = self.queries
        queries = self.norm_q(queries + self.self_attn(queries, queries, queries, need_weights=False)[0])
        queries = queries.expand(patches.shape[0], -1, -1)
        return patches, self.norm_out(self.cross_attn(queries, patches, patches, need_weights=False)[0])


class BoQHead(nn.Module):
    """Tokens of the adapted last level -> one descriptor of unit length.

    (B, prefix + rows * columns, C), (rows, columns) -> (B, 12288), fp32. Tokens before the patches are not used.

    Raises ValueError for an `out_dim` other than 12288 = 384 channels x 32 mixtures of the 2 x 64 answers.
    """

    fixed_dim = WIDTH * ROWS

    def __init__(self, dim: int, out_dim: int = fixed_dim):
        super().__init__()
        if out_dim != self.fixed_dim:
            raise ValueError(f"out_dim {out_dim}: the descriptor of BoQ has {self.fixed_dim}")
        self.reduce = nn.Conv2d(dim, WIDTH, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(WIDTH)
        self.layers = nn.ModuleList(QueryLayer() for _ in range(LAYERS))
        self.mix = nn.Linear(LAYERS * QUERIES, ROWS)
        self.out_dim = out_dim

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        patches = tokens[:, tokens.shape[1] - grid[0] * grid[1]:]
        patches = self.reduce(patches.transpose(1, 2).unflatten(2, grid))
        patches = self.norm(patches.flatten(2).transpose(1, 2))
        answers = []
        for layer in self.layers:
            patches, answer = layer(patches)
            answers.append(answer)
        # The linear layer runs along the queries, channel by channel: (B, 384, 128) -> (B, 384, 32).
        mixed = self.mix(torch.cat(answers, dim=1).transpose(1, 2))
        return F.normalize(mixed.flatten(1).float(), dim=-1)
