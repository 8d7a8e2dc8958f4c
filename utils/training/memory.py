"""What a training step takes of the device's memory, measured before training starts."""

import copy
import logging
import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from model import SelaVPRpp
from model.layers.batch_norm import BatchNorm

from ..device import free_memory
from ..distributed import processes
from ..run import interrupted_afterwards

log = logging.getLogger("selavprpp")


class StepMemory(NamedTuple):
    """Bytes that one process's training step takes on its device.

    fixed  weights, gradients, Adam's two moments
    kept   saved for the backward pass of these images
    peak   most that is alive at once, the fixed included
    """

    images: int
    fixed: int
    kept: int
    peak: int

    def largest_batch(self, available: int) -> int:
        """About the most images whose step fits into so many bytes, if each takes as much as one of these; 0: none."""
        return max(0, (available - self.fixed) * self.images // (self.peak - self.fixed))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the context that are alive now, and their peak: what CUDA's
    max_memory_allocated counts, on any device, but for what an operator takes and gives back inside itself."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, inputs=(), options=None):
        given = {id(x.untyped_storage()) for x in tree_leaves((inputs, options)) if isinstance(x, Tensor)}
        result = function(*inputs, **(options or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and id(x.untyped_storage()) not in given | self._known.keys():
                self._count(x.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def learning_branches(model: SelaVPRpp, batch: Tensor) -> Iterable[Tensor | None]:
    """What a training step of SelaVPR++ asks the network for."""
    return model(batch, [name for name in model.config.branches
                         if any(p.requires_grad for p in model.branch(name).parameters())])


def step_memory(model: nn.Module, *, images: int, size: tuple[int, int], dtype: torch.dtype, device: torch.device,
                forward: Callable[..., Iterable[Tensor | None]] = learning_branches) -> StepMemory:
    """Of a step with so many images of `size` (H, W) pixels in `dtype` (the frozen backbone's weights too).

    The step runs on a copy of the model whose tensors have shapes, types and lifetimes, but no values: it takes a
    second, whatever the head, and no memory. `forward` is called with that copy and the batch; the sum of what it
    gives is the loss.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        empty = {id(b): torch.empty_like(b, device=device) for b in model.buffers()}
        empty |= {id(p): nn.Parameter(torch.empty_like(p, device=device), p.requires_grad) for p in model.parameters()}
        step = copy.deepcopy(model, empty).train()
        for part in step.modules():
            if isinstance(part, BatchNorm):
                part.total = torch.clone  # nothing is there to be sent; torch 2.6 refuses to
        exact = _bytes_of(step.backbone.parameters())
        with step.backbone.rounded(dtype if dtype == torch.bfloat16 else torch.float32):
            frozen, trained = (_bytes_of(p for p in step.parameters() if p.requires_grad == learns)
                               for learns in (False, True))
            if device.type == "cpu" and _bytes_of(step.backbone.parameters()) < exact:
                frozen += exact  # which wait there until the epoch's end
            with LiveBytes() as live:
                batch = torch.empty(images, 3, *size, device=device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    outputs = forward(step, batch)
                kept = live.now - _bytes_of([batch])
                with interrupted_afterwards():
                    sum(output.sum() for output in outputs if output is not None).backward()
    # The gradients are among what is alive in the end, and so are they in `fixed`.
    return StepMemory(images, frozen + 4 * trained, kept, frozen + 3 * trained + live.peak)


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def report_step_memory(model: nn.Module, *, device: torch.device, places_per_batch: int, images_per_place: int,
                       **step: Any) -> None:
    """Logs what a step takes, what is free and about the largest batch that would fit; changes nothing, for the batch
    is part of the recipe. Of several processes each takes its share of the places. step: of `step_memory`."""
    images = images_per_place * math.ceil(places_per_batch / processes())
    memory, free = step_memory(model, images=images, device=device, **step), free_memory(device)
    log.info("memory: a step of %d images takes about %s, %s of them kept for the gradient", images,
             tqdm.format_sizeof(memory.peak, "B"), tqdm.format_sizeof(memory.kept, "B"))
    if free is None:
        return
    if device.type == "cpu":
        free //= processes()
    largest = memory.largest_batch(free) // images_per_place * processes()
    if memory.peak > free:
        log.warning("memory: only %s are free; the largest batch that would fit is about --train_batch_size %d",
                    tqdm.format_sizeof(free, "B"), largest)
    else:
        log.info("memory: %s are free, enough for about --train_batch_size %d", tqdm.format_sizeof(free, "B"), largest)
