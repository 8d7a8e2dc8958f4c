"""Measuring one training step: bytes kept for the gradient, seconds."""

import contextlib
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], *, excluded: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps from a forward pass, without those of `excluded`.

    The same rule as for the published code's 32.7 and 56.2 MiB an image: parameters and buffers do not count.
    """
    counted = {id(tensor.untyped_storage()) for tensor in excluded}
    sizes, alive = {}, []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in counted:
            sizes[id(storage)] = storage.nbytes()
            alive.append(tensor)  # a storage counts once, so its id must not be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


def alternate(runs: dict[str, Callable[[], object]], *, repeats: int = 5,
              clock: Callable[[], float] = time.perf_counter,
              around: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
              ) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each, one after the other in turn, after one call of each that does not count.

    `around` gives, for a run's name, a context for its call whose own time does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            with around(name):
                started = clock()
                run()
                taken = clock() - started
            if turn:
                seconds[name].append(taken)
    return seconds
