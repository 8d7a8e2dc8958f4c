"""What one epoch's batches cost and gave: losses, images, time, memory."""

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .. import distributed
from ..device import peak_memory_mib, synchronise

STEPS_BETWEEN_CHECKS = 50  # that the losses are finite: reading them waits for the GPU


class EpochMeter:
    """Counts from its making to `stop`; the losses stay on the device until they are asked for.

    epoch      its number, from 1
    last_good  the file to go back to, named where a loss is not finite any more; None: there is none yet
    earlier    the `state` of a meter of the same epoch, which was broken off; empty: the epoch begins
    """

    def __init__(self, device: torch.device, *, epoch: int, last_good: Path | None,
                 earlier: Mapping[str, Any] = MappingProxyType({})):
        self.device, self.epoch, self.last_good = device, epoch, last_good
        self.sums: dict[str, Tensor | float] = defaultdict(
            float, {name: value.to(device) for name, value in earlier.get("sums", {}).items()})
        self.steps, self.images, earlier_s = (earlier.get(name, 0) for name in ("steps", "images", "seconds"))
        self.earlier_mib = earlier.get("memory_mib", 0.0)
        self.seconds = self.memory_mib = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.started = time.perf_counter() - earlier_s

    def state(self) -> dict[str, Any]:
        """What a meter that goes on needs: of this process, losses apart, which are the same in all."""
        return {"steps": self.steps, "images": self.images, "seconds": time.perf_counter() - self.started,
                "memory_mib": max(self.earlier_mib, peak_memory_mib(self.device)),
                "sums": {name: total.cpu() for name, total in self.sums.items()}}

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
        self.memory_mib = distributed.largest(max(self.earlier_mib, peak_memory_mib(self.device)))

    def check_losses(self) -> None:
        for name, total in self.sums.items():
            if not torch.isfinite(total):
                state = "" if self.last_good is None else f" (the last good state is {self.last_good})"
                raise ValueError(f"epoch {self.epoch}: the {name} is no longer finite; lower --lr or use "
                                 f"--precision fp32{state}")

    def losses(self) -> dict[str, float]:
        """Means over the steps."""
        return {name: total.item() / self.steps for name, total in self.sums.items()}
