"""BatchNorm whose batch is that of all processes: what one process would compute on the images of them all."""

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


def processes() -> int:
    """Processes that train together; 1 outside torchrun."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class _SumOverProcesses(torch.autograd.Function):
    # A sum that all processes share passes the sum of their gradients back to each.
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's `values`, of one shape; differentiable; any backend, gloo included."""
    return values if processes() == 1 else _SumOverProcesses.apply(values)


class BatchNorm(nn.BatchNorm1d):
    """torch's BatchNorm, over all dimensions but the last; of several processes over the tokens of them all.

    torch's own SyncBatchNorm needs a GPU. Here a channel's count, sum and sum of squares travel in one all-reduce,
    in float64, so that the variance can be told from them whatever the mean. Processes may hold unequal shares.
    """

    moves = True  # whether training moves the running statistics
    total = staticmethod(sum_over_processes)
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> the same."""
        rows = x.reshape(-1, x.shape[-1])
        if self.training and self.moves:
            self.num_batches_tracked += 1
        if self.training and processes() > 1:
            return self._normalise_over_processes(rows).view(x.shape)
        rows = F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                            self.momentum if self.moves else 0.0, self.eps)
        return rows.view(x.shape)

    def _normalise_over_processes(self, rows: Tensor) -> Tensor:
        exact = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
        variance, mean = torch.var_mean(exact, dim=0, correction=0)
        mean64, variance64 = mean.double(), variance.double()
        count = torch.full_like(mean64[:1], len(rows))
        total = self.total(torch.cat([count, count * mean64, count * (variance64 + mean64.square())]))
        count, (sums, squares) = total[0], total[1:].view(2, -1)
        mean64 = sums / count
        variance64 = squares / count - mean64.square()
        if self.moves:
            self._move(mean64, variance64, count)
        scale = self.weight * (variance64.to(exact.dtype) + self.eps).rsqrt()
        return ((exact - mean64.to(exact.dtype)) * scale + self.bias).to(rows.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        variance = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)

