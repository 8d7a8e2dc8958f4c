"""SALAD head (Izquierdo and Civera, CVPR 2024): patches are shared out to clusters by optimal transport."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN, CLUSTERS, CLUSTER_DIM, TOKEN_DIM = 512, 64, 128, 256
ROUNDS, DROPOUT = 3, 0.3


def share_out(scores: Tensor, dustbin: Tensor) -> Tensor:
    """What share of each patch goes to each cluster: the plan of an entropic optimal transport.

    scores (B, K, N), one `dustbin` score for all patches, N > K -> (B, K, N) fp32, positive. Every patch has a mass of
    1 to give; a cluster takes 1 in all, the dustbin what is left, N - K. Three rounds of Sinkhorn's algorithm, in
    logarithms, scale the rows to what is taken, then the columns to what is given: with the dustbin, columns sum to 1,
    rows nearly to theirs.
    """
    batch, clusters, patches = scores.shape
    # The first scaling cancels what a row's scores have in common: the dustbin's value and the last bias of the scores
    # change nothing, and their gradient is 0. Published weights hold both; nor do they act there.
    plan = torch.cat([scores.float(), dustbin.float().expand(batch, 1, patches)], dim=1)
    taken = plan.new_zeros(clusters + 1, 1)
    # math.log would fix the count of patches in a graph that is exported for any.
    taken[-1] = torch.full((), patches - clusters, dtype=torch.float64, device=plan.device).log()
    for _ in range(ROUNDS):
        plan = plan - plan.logsumexp(dim=2, keepdim=True) + taken
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return plan[:, :-1].exp()


def _per_patch(dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, HIDDEN, 1), nn.Dropout(DROPOUT), nn.ReLU(), nn.Conv2d(HIDDEN, out_dim, 1))


class SaladHead(nn.Module):
    """Tokens of the adapted last level -> one descriptor of unit length.

    (B, 1 + registers + rows * columns, C), (rows, columns) -> (B, 8448), fp32: 256 from the class token, then 64
    clusters of 128, channel by channel. Registers are not used.

    Raises ValueError for an `out_dim` other than 8448, and for a grid of 64 patches or fewer.
    """

    fixed_dim = TOKEN_DIM + CLUSTERS * CLUSTER_DIM

    def __init__(self, dim: int, out_dim: int = fixed_dim):
        super().__init__()
        if out_dim != self.fixed_dim:
            raise ValueError(f"out_dim {out_dim}: the descriptor of SALAD has {self.fixed_dim}")
        self.token = nn.Sequential(nn.Linear(dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, TOKEN_DIM))
        self.features = _per_patch(dim, CLUSTER_DIM)
        self.scores = _per_patch(dim, CLUSTERS)
        self.dustbin = nn.Parameter(torch.tensor(1.0))
        self.out_dim = out_dim

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        count = grid[0] * grid[1]
        if count <= CLUSTERS:
            raise ValueError(f"SALAD needs more than {CLUSTERS} patches, got {count} ({grid[0]} x {grid[1]}); "
                             "use images larger than 112 x 112")
        maps = tokens[:, tokens.shape[1] - count:].transpose(1, 2).unflatten(2, grid)
        token = F.normalize(self.token(tokens[:, 0]).float(), dim=-1)
        scores, features = self.scores(maps).flatten(2), self.features(maps).flatten(2)
        with torch.autocast(tokens.device.type, enabled=False):  # the shares are to be met, and summed, exactly
            plan = share_out(scores, self.dustbin)
            clusters = F.normalize(features.float() @ plan.transpose(1, 2), dim=1)  # (B, 128, 64)
        return F.normalize(torch.cat([token, clusters.flatten(1)], dim=1), dim=-1)
