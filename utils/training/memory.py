"""What a training step needs of the device's memory, told before training starts."""

import dataclasses
import logging
import math
from pathlib import Path

import torch

from model import SelaVPRpp
from model.backbone import IMAGES_AT_ONCE, PATCH

from ..distributed import processes

log = logging.getLogger("selavprpp")

# Tensors of the size of a batch's tokens that are alive at the peak, beside those kept: counted on the code in
# model/economical.py and model/backbone.py, and compared with every allocation of a step in tests/test_memory.py.
ADAPTER = 5.1  # an adapter, forward or backward
LEVELS = 1.1  # the stream of tokens while a block or a head runs over a part of the batch
BLOCK = 9  # of that part
# Heads: what they keep, and what they take while they run over a part of the batch, GeM always in fp32. GeM and BoQ
# keep their input alone; SALAD is not computed twice, for its dropout draws anew each time.
HEADS = {"gem": (1, 10), "boq": (1, 17), "salad": (5.5, 2)}
# Kept in a block that learns, or that the gradient passes, in fp32 and under autocast, counted in fp32's size; and how
# much more where the MLP is a SwiGLU.
BLOCK_KEPT = {"full": (18.1, 12.3), "partial": (18.1, 12.3), "selavpr": (12.8, 9.3)}
SWIGLU_KEPT = {"full": (2.6, 1.5), "partial": (2.6, 1.5), "selavpr": (4.1, 2.4)}


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes that one process's training step takes on its device.

    fixed        weights, gradients, Adam's two moments
    per_image  what is kept for the gradient, and the image itself
    working      (a, b): at the peak a * images + b * min(images, IMAGES_AT_ONCE) more; the largest pair counts
    """

    fixed: int
    kept_per_image: int
    image: int
    working: tuple[tuple[float, float], ...]

    def kept(self, images: int) -> int:
        """Saved for the backward pass."""
        return images * self.kept_per_image

    def total(self, images: int) -> int:
        part = min(images, IMAGES_AT_ONCE)
        peak = max(all_of_them * images + some * part for all_of_them, some in self.working)
        return int(self.fixed + images * (self.kept_per_image + self.image) + peak)

    def largest_batch(self, available: int) -> int:
        """The most images whose step fits into so many bytes; 0 where none does."""
        low, high = 0, 1
        while self.total(high) <= available:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.total(middle) <= available else (low, middle)
        return low


def step_memory(model: SelaVPRpp, *, size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> StepMemory:
    """Of images of `size` (H, W) pixels, in `dtype` (the frozen backbone's weights too), for what is not frozen."""
    vit = model.config.vit
    tuned = model.config.tuned_blocks
    tokens = 1 + vit.registers + (size[0] // PATCH) * (size[1] // PATCH)
    exact = tokens * vit.dim * torch.float32.itemsize
    unit = tokens * vit.dim * dtype.itemsize
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    if dtype == torch.bfloat16 and not tuned:  # rounded weights (training.py); the exact ones wait beside the processor
        backbone = sum(p.numel() for p in model.backbone.parameters())
        frozen += backbone * (dtype.itemsize - (0 if device.type == "cpu" else torch.float32.itemsize))
    learning = {name: model.branch(name) for name in model.config.branches
                if any(p.requires_grad for p in model.branch(name).parameters())}
    # A head of one's own is taken to be like GeM.
    heads = {name: HEADS.get(model.config.aggregation if name == "float" else "gem", HEADS["gem"]) for name in learning}
    kept = unit * sum(len(branch.side.adapters) + heads[name][0] for name, branch in learning.items())
    if tuned:
        kind, column = model.config.tuning.partition(":")[0], int(dtype != torch.float32)
        kept += len(tuned) * exact * (BLOCK_KEPT[kind][column] + (SWIGLU_KEPT[kind][column] if vit.swiglu else 0))
    in_head = max(heads[name][1] * (exact if heads[name] is HEADS["gem"] else unit) for name in learning)
    not_yet = (max(head[0] for head in heads.values()) - 1) * unit  # the head's, while blocks and adapters run
    working = [(ADAPTER * unit - not_yet, 0.0), (LEVELS * unit - not_yet, BLOCK * unit), (LEVELS * unit, in_head)]
    if device.type == "cpu" and dtype != torch.float32:  # attention by products holds its scores twice
        working.append((LEVELS * unit - not_yet, 7 * unit + 2 * vit.heads * tokens**2 * dtype.itemsize))
    return StepMemory(fixed=frozen + 4 * trained, kept_per_image=int(kept),
                      image=3 * size[0] * size[1] * torch.float32.itemsize, working=tuple(working))


def report_step_memory(model: SelaVPRpp, *, size: tuple[int, int], dtype: torch.dtype, device: torch.device,
                       places_per_batch: int, images_per_place: int) -> None:
    """Logs what a step takes, what is free and the largest batch that would fit; changes nothing, for the batch is part
    of the recipe. Of several processes each takes its share of the places."""
    memory, free = step_memory(model, size=size, dtype=dtype, device=device), free_memory(device)
    images = images_per_place * math.ceil(places_per_batch / processes())
    needed = memory.total(images)
    log.info("memory: a step of %d images takes about %s, %s of them kept for the gradient", images, shown(needed),
             shown(memory.kept(images)))
    if free is None:
        return
    if device.type == "cpu":
        free //= processes()
    largest = memory.largest_batch(free) // images_per_place * processes()
    if needed > free:
        log.warning("memory: only %s are free; the largest batch that would fit is --train_batch_size %d", shown(free),
                    largest)
    else:
        log.info("memory: %s are free, enough for --train_batch_size %d", shown(free), largest)


def shown(size: int) -> str:
    """Bytes for people: 1.50 GB, 23 MB."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.0f} MB"


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on the device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return None
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no control group, or one without a limit
        return free
    return min(free, limit - used)
