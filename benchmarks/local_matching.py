"""SelaVPR's matching of local features beside the published order of operations: `python -m benchmarks.local_matching`.

Two sets of unit features, seeded: random ones, and maps that are enlarged from 16 x 16 as the model's are, whose
candidates are shifted noisy copies of the query's, so that many pairs are mutual and neighbours are alike. Each way
takes its turn after the others, on one thread and on all: medians. Peaks of memory are of processes of their own.
Prints the rows and writes them, with every sample, into local_matching.json and local_matching.md.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from utils.device import peak_memory_mib
from utils.run import exit_with
from utils.search.local import PRECISIONS, mutual_counts, rerank_local
from utils.search.local_store import LocalFeatures, write_local

from .report import Report, command_parser, unit_rows

SIDE, DIM = 61, 128  # of SelaVPR's map of local features, from an image of 224 x 224
COARSE = 16  # features a side that the model has before it enlarges them
TOGETHER = 10  # candidates at once by the published order, which takes all: 550 MB of similarities, of 100 5.5 GB
CANDIDATES = 10  # in the timings
COMPARED = 40  # whose counts and order are compared with the exact ones
DEPTH = 100
TIMES = 5.0  # the published speed
QUERY_MIB = 500
CPU = torch.device("cpu")

Counts = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__spec__.name, __doc__)
    parser.add_argument("--side", type=int, default=SIDE, help=f"of a map; default: {SIDE}")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    args = parser.parse_args(argv)
    if min(args.side, args.repeats) < 1:
        parser.error("expected a side and repeats of at least 1")
    report = Report()
    sets = {"random": random_features, "shifted": shifted_features}
    threads = torch.get_num_threads()
    for name in WAYS:  # first: a process begins with the peak of the one that starts it
        report.add(f"peak of memory, {name}", f"{in_own_process(peak, name, args.side):.0f} MiB",
                   f"beyond the features, {CANDIDATES} candidates at once")
    seconds, mib, size = in_own_process(from_disk, args.side)
    report.add(f"one query, {DEPTH} candidates from the disk, {threads} threads", f"{seconds:.2f} s",
               f"{size:,} bytes an image")
    report.add("its peak of memory", f"{mib:.0f} MiB", "beyond the libraries", goal=f"<= {QUERY_MIB} MiB",
               met=mib <= QUERY_MIB)
    for used in dict.fromkeys((1, threads)):
        torch.set_num_threads(used)
        for name, made in sets.items():
            speed(report, f"{name}, {used} thread{'s' * (used > 1)}", *made(args.side, CANDIDATES), args.repeats)
    for name, made in sets.items():
        rounding(report, name, *made(args.side, COMPARED))
    report.write(args.out / "local_matching.md", CPU)


def published_counts(query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """In the published order, as many candidates at once as fit: their similarities (TOGETHER, P', P), the largest and
    their places over both, then the mutual ones."""
    counts = []
    for some in torch.from_numpy(candidates).split(TOGETHER):
        similarities = torch.matmul(some, torch.from_numpy(query).T)
        of_query, of_candidates = similarities.max(dim=1).indices, similarities.max(dim=2).indices
        counts.append((of_candidates.gather(1, of_query) == torch.arange(len(query))).sum(dim=1))
    return torch.cat(counts).numpy()


WAYS: dict[str, Counts] = {"published order": published_counts} | {
    precision: partial(mutual_counts, precision=precision) for precision in PRECISIONS}


def random_features(side: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A query (P, D) and n candidates (n, P, D)."""
    made = unit_rows(np.random.default_rng(0), (n + 1) * side**2, DIM).reshape(n + 1, side**2, DIM)
    return made[0], made[1:]


def shifted_features(side: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Likewise; each candidate shifted farther and with more noise than the one before it."""
    made = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, DIM, COARSE, COARSE, generator=made)
    query = F.interpolate(coarse, (side, side), mode="bicubic").movedim(1, -1)
    maps = [query[0], *(query[0].roll((i % 7, i % 5), (0, 1)) for i in range(1, n + 1))]
    noise = [0.05, *torch.linspace(0.1, 1.5, n).tolist()]
    noisy = [F.normalize(one + much * torch.randn(one.shape, generator=made), dim=-1).flatten(0, 1).numpy()
             for one, much in zip(maps, noise, strict=True)]
    return noisy[0], np.stack(noisy[1:])


def speed(report: Report, name: str, query: np.ndarray, candidates: np.ndarray, repeats: int) -> None:
    ways = {way: partial(counts, query, candidates) for way, counts in WAYS.items()}
    ms = report.medians(name, ways, scale=1000 / len(candidates), repeats=repeats)
    plain = ms.pop("published order")
    for way, taken in ms.items():
        goal = {"goal": f">= {TIMES:g}x", "met": plain / taken >= TIMES} if way == "fp32" else {}
        report.add(f"{name}: a candidate, {way}", f"{plain / taken:.1f}x",
                   f"{taken:.1f} ms; published order {plain:.1f} ms", **goal)


def rounding(report: Report, name: str, query: np.ndarray, candidates: np.ndarray) -> None:
    """What each way changes in the counts and in the candidates' order."""
    exact = published_counts(query, candidates)
    half = query.astype(np.float16), candidates.astype(np.float16)
    for way, counts in {"fp32": mutual_counts(query, candidates),
                        "bf16": mutual_counts(query, candidates, precision="bf16"),
                        "fp32 of stored float16": mutual_counts(*half)}.items():
        off = np.abs(counts - exact)
        moved = (np.argsort(-counts, kind="stable") != np.argsort(-exact, kind="stable")).sum()
        # Products in blocks of another shape may round otherwise, and so decide between nearly equal ones.
        goal = {"goal": "<= 1 each", "met": bool(off.max() <= 1)} if way == "fp32" else {}
        report.add(f"{name}: counts that {way} changes", f"{(off > 0).sum()} of {len(off)}",
                   f"by {off.max()} at most, of {exact.min()} to {exact.max()}; {moved} ranks change", **goal)


def in_own_process(work: Callable, *given: object) -> object:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(work, *given).result()


def peak(way: str, side: int) -> float:
    """MiB by which the process's peak grows."""
    # Made in place, for a peak before would hide this one; their length does not matter here.
    made = np.random.default_rng(0).standard_normal((CANDIDATES + 1, side**2, DIM), np.float32)
    query, candidates = made[0], made[1:]
    WAYS[way](query[:9], candidates[:1, :9])  # the libraries' own memory
    before = peak_memory_mib(CPU)
    WAYS[way](query, candidates)
    return peak_memory_mib(CPU) - before


def from_disk(side: int) -> tuple[float, float, int]:
    """Seconds and MiB of re-ranking one query's candidates, and an image's bytes in the store."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "database", (side, side, DIM)
        with write_local(path, images=DEPTH, shape=shape) as write:
            for image in range(DEPTH):
                write(image, unit_rows(np.random.default_rng(image), side**2, DIM).reshape(1, *shape))
        store, query = LocalFeatures(path), unit_rows(np.random.default_rng(DEPTH), side**2, DIM)[None]
        mutual_counts(query[0, :9], query[:, :9])
        before = peak_memory_mib(CPU)
        seconds = report.medians("", {"": lambda: rerank_local(query, np.arange(DEPTH)[None], store.read, depth=DEPTH)},
                                 repeats=1)[""]
        return seconds, peak_memory_mib(CPU) - before, store.bytes_per_image


if __name__ == "__main__":
    exit_with(main)
