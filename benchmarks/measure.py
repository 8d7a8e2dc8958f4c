"""Measuring one training step: bytes kept for the gradient, most bytes alive at once, seconds."""

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


class PeakBytes(TorchDispatchMode):
    """Most bytes of tensors made inside the context that were alive at once: what CUDA's max_memory_allocated counts,
    on any device, but for what an operator takes and gives back inside itself."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage(), known)
        return result

    def _count(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        key, size = id(storage), storage.nbytes()
        if key in known or key in self._known:
            return

        def gone(_) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def alternate(runs: dict[str, Callable[[], object]], *, repeats: int = 5,
              around: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
              ) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each, one after the other in turn, after one call of each that does not count.

    `around` gives, for a run's name, a context for its call whose own time does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            with around(name):
                started = time.perf_counter()
                run()
                taken = time.perf_counter() - started
            if turn:
                seconds[name].append(taken)
    return seconds
