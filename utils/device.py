"""The device, its precision, its clock and its memory."""

import logging
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from model.layers.processor import features

from .ranks import launched, local_processes, local_rank

log = logging.getLogger("selavprpp")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or cuda where there is one; of several processes each has a GPU of its own.

    fp32 is fp32 there: convolutions, unlike products, would else be rounded to TF32 by torch's default.
    ValueError where cuda is asked for in vain, or there are fewer GPUs than processes on this node.
    """
    torch.backends.cudnn.allow_tf32 = False
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if name == "cpu" or not available:
        return torch.device("cpu")
    if not launched():
        return torch.device("cuda")
    if local_processes() > torch.cuda.device_count():
        raise ValueError(f"{local_processes()} processes on this node, but torch finds {torch.cuda.device_count()} "
                         "GPUs; lower torchrun's --nproc_per_node or use --device cpu")
    return torch.device("cuda", local_rank())


def best_precision(device: torch.device) -> str:
    """bf16 where the device multiplies it natively, else fp16 on a GPU and fp32 on a CPU."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "bf16" if features() & {"amx_bf16", "avx512_bf16"} else "fp32"


def make_deterministic() -> None:
    """From now on a GPU gives equal results in every run, at some cost; an operator that cannot is an error.

    To be called before anything runs on it.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS asks for
    torch.use_deterministic_algorithms(True)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states(device: torch.device) -> dict:
    """torch's generators, as tensors; the data have none, they depend on (seed, epoch, place) alone."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict, device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def synchronise(device: torch.device) -> None:
    """Waits for queued GPU work, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_up_compiled(run: Callable[[], object], device: torch.device) -> None:
    """Calls what torch.compile will translate at its first use, and logs how long that took.

    Raises ValueError where it cannot be translated.
    """
    started = time.perf_counter()
    try:
        run()
    except RuntimeError as error:  # no C++ compiler, for one
        reason = " ".join(str(error).partition("\n\n")[0].split())
        raise ValueError(f"--compile: {reason}; leave it out") from error
    synchronise(device)
    log.info("compiling the backbone took %.1f s", time.perf_counter() - started)


def peak_memory_mib(device: torch.device) -> float:
    """Highest use so far: of the GPU by tensors since the last reset, or of the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


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
