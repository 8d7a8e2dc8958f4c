"""Batches of images, read by worker processes."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from .run import interrupted_afterwards

ENDING = {signal.SIGINT, signal.SIGTERM}


class ImageLoader(DataLoader):
    """A DataLoader whose workers neither draw from torch's global generator, which would make what the losses draw
    depend on their number, nor get the signals of this process's group.

    device   to which its batches will go: memory is pinned for CUDA
    options  of torch's DataLoader
    """

    def __init__(self, dataset: Dataset, *, num_workers: int, device: torch.device | None = None, **options: Any):
        super().__init__(dataset, num_workers=num_workers, generator=torch.Generator(), worker_init_fn=_begin_worker,
                         pin_memory=device is not None and device.type == "cuda", **options)

    def __iter__(self) -> Iterator:
        with interrupted_afterwards():  # Python swallows what is raised while a process is made
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                batches = super().__iter__()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from batches
        with interrupted_afterwards():  # and while an object ends, as this one does with its workers
            del batches


def _begin_worker(_worker: int) -> None:
    # Schedulers and Ctrl-C signal the whole group: the training process then ends its step and its workers in order,
    # which it could not if they were gone already. What came since this process was made was for the group too.
    os.setpgid(0, 0)
    for number in signal.sigpending() & ENDING:
        signal.sigwait({number})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    # What a worker raises is raised again where its batch is asked for. Left to print are connections which the
    # training process, ending, gave up.
    sys.excepthook = lambda *_: None
