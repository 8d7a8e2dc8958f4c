"""The adapter without convolutions: a bottleneck (Houlsby et al., ICML 2019; Fig. 3b of the paper)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VanillaAdapter(nn.Module):
    """A(u) = up(relu(down(u))), down to half the width; every token for itself. Callers add the skips they want."""

    def __init__(self, dim: int):
        super().__init__()
        self.down = nn.Linear(dim, dim // 2)
        self.up = nn.Linear(dim // 2, dim)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """(..., C) -> the same shape. `grid`, which MultiConvAdapter needs, is not used."""
        return self.up(F.relu(self.down(tokens)))

    @torch.no_grad()
    def initialise(self) -> None:
        """The start of training: A(u) = 0 (zero `up`)."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
