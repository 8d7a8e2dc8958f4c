"""BatchNorm whose batch is that of all processes: what one process would compute on the images of them all."""

import torch
from torch import Tensor, distributed, nn


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


class BatchNorm(nn.BatchNorm2d):
    """torch's BatchNorm2d on one process; on several, the statistics are those of all their images.

    torch's own SyncBatchNorm needs a GPU. Here a channel's count, sum and sum of squares travel in one all-reduce,
    in float64, so that the variance can be told from them whatever the mean. Processes may hold unequal shares.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, rows, columns) -> the same."""
        if not self.training or processes() == 1:
            return super().forward(x)
        mean, variance = self._statistics_of_all(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _statistics_of_all(self, x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        mean, variance, count = merge_statistics(mean, variance, x.numel() // x.shape[1])
        self.update_statistics(mean, variance, count)
        return mean, variance

    @torch.no_grad()
    def update_statistics(self, mean: Tensor, variance: Tensor, count: Tensor | float) -> None:
        """Moves the running statistics towards a batch's (its biased variance, over `count` values a channel)."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), self.momentum)


def merge_statistics(mean: Tensor, variance: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor | int]:
    """Mean, biased variance (C,) and count of all processes' values from those of this process; differentiable."""
    if processes() == 1:
        return mean, variance, count
    mean64, variance64 = mean.double(), variance.double()
    counts = torch.full_like(mean64[:1], count)
    total = sum_over_processes(torch.cat([counts, count * mean64, count * (variance64 + mean64.square())]))
    count_of_all, (sums, squares) = total[0], total[1:].view(2, -1)
    mean_of_all = sums / count_of_all
    variance_of_all = squares / count_of_all - mean_of_all.square()
    return mean_of_all.to(mean.dtype), variance_of_all.to(mean.dtype), count_of_all
