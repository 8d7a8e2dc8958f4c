"""Several processes that work as one, as torchrun starts them: what they share, and what becomes of an error.

In one process every function here is an identity without cost, and nothing is started.
"""

import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

from model.layers.batch_norm import processes, sum_over_processes

from .heartbeat import Heartbeat
from .ranks import is_first, launched, local_rank, rank, share

T = TypeVar("T")

# The others wait while the first process searches and writes: that may take long, and is no hang.  One that is frozen
# shows by its heartbeat.
TIMEOUT = datetime.timedelta(hours=3)
GRACE_S = 5.0
ROWS_SENT = 1024  # at a time
_beating: list[Heartbeat] = []


def start(device: torch.device) -> None:
    """Meets the other processes that torchrun started; to be undone by `stop`."""
    if not launched():
        return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # gloo also beside nccl: what lies in memory (scores, descriptors to search) need not pass through the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    heartbeat = Heartbeat()
    distributed.init_process_group(backend, timeout=TIMEOUT)
    heartbeat.start()
    _beating.append(heartbeat)


def _end_with(torchrun: int) -> None:
    """Ends this process as SIGTERM does when torchrun is gone: killed itself, it cannot end those that it started."""
    while os.getppid() == torchrun:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def stop() -> None:
    while _beating:
        _beating.pop().end()
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def wrap(model: nn.Module) -> nn.Module:
    """The model as a training step calls it: of several processes each gets the mean of all their gradients.

    Frozen parameters take no part. The weights become those of the first process; BatchNorm statistics need no exchange
    of their own, each process computes those of all.
    """
    if processes() == 1:
        return model
    network = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    network.broadcast_buffers = False  # as an argument it has another name in newer versions of torch
    return network


def gather(*shares: Tensor | None) -> tuple[Tensor | None, ...]:
    """For each tensor (n_r, ...) the rows of all processes (sum of n_r, ...), the first process's first; None for None.

    The tensors have equal lengths n_r, which may differ between processes. With a loss of the gathered rows, the same
    in every process, the gradients that `wrap` averages are those of one process with the whole batch: the sum in the
    backward pass gives each process the gradient of its own rows times the number of processes, by which the averaging
    divides.
    """
    if processes() == 1:
        return shares
    lengths = torch.zeros(processes(), dtype=torch.int64)  # on the CPU: nobody waits for a GPU
    lengths[rank()] = len(next(rows for rows in shares if rows is not None))
    distributed.all_reduce(lengths)
    before, after = int(lengths[:rank()].sum()), int(lengths[rank() + 1:].sum())

    def whole(rows: Tensor) -> Tensor:
        # A sum of rows between zeros, because gloo gathers equal shares only.
        above, below = (rows.new_zeros(count, *rows.shape[1:]) for count in (before, after))
        return sum_over_processes(torch.cat([above, rows, below]))

    return tuple(None if rows is None else whole(rows) for rows in shares)


def broadcast(value: T) -> T:
    """The first process's value, which can be pickled; the others' is ignored."""
    if processes() == 1:
        return value
    box = [value if is_first() else None]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def first_decides(function: Callable[[], T]) -> T:
    """The value that the function has in the first process, where alone it is called; its ValueError is everybody's."""
    value = error = None
    if is_first():
        try:
            value = function()
        except ValueError as raised:
            error = raised
    value, error = broadcast((value, error))
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def broadcast_weights(model: nn.Module) -> None:
    """Parameters and buffers of the first process's model, into those of the others, which have equal shapes."""
    if processes() > 1:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, src=0)


def total(value: float) -> float:
    """The sum of all processes' values."""
    return sum_over_processes(torch.tensor(value, dtype=torch.float64)).item()


def largest(value: float) -> float:
    """The largest of all processes' values."""
    box = torch.tensor(value, dtype=torch.float64)
    if processes() > 1:
        distributed.all_reduce(box, distributed.ReduceOp.MAX)
    return box.item()


def own_share(count: int) -> range:
    """Those of `count` things that this process does."""
    return share(count, rank(), processes())


def collect(count: int, read: Callable[[int, int], Sequence[np.ndarray]],
            write: Callable[[int, Sequence[np.ndarray]], None]) -> None:
    """Each process's `own_share` of `count` rows, in blocks: its `read(start, stop)` becomes the first process's
    `write(start, arrays)`. What the first reads of these rows tells shapes and types."""
    for sender in range(1, processes()):
        part = share(count, sender, processes())
        for start in range(part.start, part.stop, ROWS_SENT):
            if rank() not in (0, sender):
                continue
            arrays = read(start, min(start + ROWS_SENT, part.stop))
            for array in arrays:
                values = torch.from_numpy(array.view(np.uint8).reshape(-1))
                distributed.recv(values, src=sender) if is_first() else distributed.send(values, dst=0)
            if is_first():
                write(start, arrays)


def first_on_each_node(function: Callable[[], T]) -> T:
    """The function's value; the first process of a node calls it before its others: they find what it fetched."""
    if local_rank() > 0:
        total(0)  # waits for all
    value = function()
    if local_rank() == 0:
        total(0)
    return value


# How an error of several processes becomes one line: torchrun ends all processes of a node as soon as one has ended, so
# that whoever waits long enough is either silenced or alone with it.

def let_the_first_speak() -> None:
    """To be called before an error is said that may be everybody's: returns at once in the first process of a node."""
    if local_rank() > 0:
        time.sleep(GRACE_S)


def let_the_others_speak() -> None:
    """To be called where contact was lost: the process that caused it knows better, and may be waiting itself."""
    time.sleep(2 * GRACE_S)


def lost_contact(error: RuntimeError) -> bool:
    """Whether an error only means that another process has ended."""
    return launched() and (isinstance(error, distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error))
