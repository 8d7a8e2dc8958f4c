"""What one epoch's batches cost and gave: losses, images, time, memory."""

import time
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from .. import distributed
from ..device import peak_memory_mib, synchronise

STEPS_BETWEEN_CHECKS = 50  # that the losses are finite: reading them waits for the GPU


class EpochMeter:
    """Counts from its making to `stop`; the losses stay on the device until they are asked for.

    epoch      its number, from 1
    last_good  the file to go back to, named where a loss is not finite any more; None: there is none yet
    """

    def __init__(self, device: torch.device, *, epoch: int, last_good: Path | None):
        self.device, self.epoch, self.last_good = device, epoch, last_good
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.steps = self.images = 0
        self.seconds = self.memory_mib = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.started = time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        """Of one step. Raises ValueError where a loss is not finite any more, though not at once."""
        self.steps += 1
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value.detach()
        if self.steps % STEPS_BETWEEN_CHECKS == 0:
            self.check_losses()

    def stop(self) -> None:
        """The images become those of all processes, the memory that of the process with the most."""
        synchronise(self.device)
        self.seconds = time.perf_counter() - self.started
        self.check_losses()
        self.images = distributed.total(self.images)
        self.memory_mib = distributed.largest(peak_memory_mib(self.device))

    def check_losses(self) -> None:
        for name, total in self.sums.items():
            if not torch.isfinite(total):
                state = "" if self.last_good is None else f" (the last good state is {self.last_good})"
                raise ValueError(f"epoch {self.epoch}: the {name} is no longer finite; lower --lr or use "
                                 f"--precision fp32{state}")

    def losses(self) -> dict[str, float]:
        """Means over the steps."""
        return {name: total.item() / self.steps for name, total in self.sums.items()}
