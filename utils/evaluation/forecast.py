"""What a long extraction will take, told in the log when its first batches have shown its pace; and what it took."""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.transforms import check_size

from ..device import free_memory, peak_memory_mib

log = logging.getLogger("selavprpp")
SECONDS = 10  # of watching, or until
SHARE = 0.1  # of the images are done; and at least
BATCHES = 3


def check_disk(folder: Path, needed: int, *, what: str = "the descriptors",
               advice: str = "choose another folder with --index, or smaller descriptors with --store") -> None:
    """Raises ValueError where `folder`, which need not exist yet, has no room for the bytes that `what` needs."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(f"{folder}: {what} need {tqdm.format_sizeof(needed, 'B')}, its disk has "
                         f"{tqdm.format_sizeof(free, 'B')} free; {advice}")


def check_memory(option: str, size: Sequence[int], device: torch.device, *, batch: tuple[str, int]) -> None:
    """Raises ValueError for a size (H, W) in pixels that no image may have, or where a batch of such images, float32,
    would alone take more memory than the device has free.  The model takes more, which is not known yet.

    option  that `size` is of; batch: an option and how many images that makes
    """
    height, width = size
    said = f"{option} {height} {width}"
    try:
        check_size((width, height))
    except ValueError as error:
        raise ValueError(f"{said}: {error}") from None
    needed, free = 12 * height * width * batch[1], free_memory(device)
    if free is not None and needed > free:
        raise ValueError(f"{said}: a batch of {batch[1]} such images takes {tqdm.format_sizeof(needed, 'B')} of "
                         f"memory, and {tqdm.format_sizeof(free, 'B')} are free; lower {option} or {batch[0]}")


class Forecast:
    """Watches an extraction batch by batch and predicts its end once.

    images      that this process extracts descriptors of
    disk_bytes  that all processes will have written
    device      where the model runs; its memory is told beside the process's
    """

    def __init__(self, images: int, disk_bytes: int, device: torch.device):
        self.images, self.disk_bytes, self.device = images, disk_bytes, device
        self.predicted: dict[str, float | None] | None = None
        self.done = self.batches = 0
        self.waited = 0.0  # for images
        self.started = time.perf_counter()

    def add(self, images: int, *, waited: float) -> None:
        """A batch is done, whose images had been waited for so many seconds."""
        now = time.perf_counter()
        self.done += images
        self.batches += 1
        self.waited += waited
        if self.batches == 1:  # libraries start, and so do the loader's workers: no measure of what comes
            self.first_done, self.first_end = self.done, now
        elif self.predicted is None and self.batches > BATCHES and (
                now - self.first_end >= SECONDS or self.done >= SHARE * self.images):
            pace = (now - self.first_end) / (self.done - self.first_done)
            self.predicted = self._costs(now - self.started + pace * (self.images - self.done))
            if self.predicted["seconds"] >= 2 * SECONDS:
                memory = ", ".join(f"{self.predicted[name]:.0f} MiB of {what}" for name, what in
                                   (("memory_mib", "memory"), ("gpu_memory_mib", "GPU memory"))
                                   if self.predicted.get(name))
                log.info("this will take %s in all (%.1f images/s), %s, and %s of disk",
                         tqdm.format_interval(self.predicted["seconds"]), self.images / self.predicted["seconds"],
                         memory, tqdm.format_sizeof(self.disk_bytes, "B"))

    def _costs(self, seconds: float) -> dict[str, float | None]:
        gpu = {"gpu_memory_mib": peak_memory_mib(self.device)} if self.device.type == "cuda" else {}
        return {"seconds": seconds, "memory_mib": peak_memory_mib(torch.device("cpu")), **gpu,
                "disk_bytes": self.disk_bytes}

    def end(self) -> dict:
        """The share of the time that was spent waiting for images; seconds, memory and disk, as predicted (None: too
        few batches) and as measured."""
        seconds = time.perf_counter() - self.started
        return {"waiting_share": self.waited / seconds, "measured": self._costs(seconds), "predicted": self.predicted}
