"""Times exhaustive search and re-ranking among random descriptors (Table IX): `python -m benchmarks.paper.latency`.

One query at a time on one thread (several wait for each other longer than they work), and all at once on all threads;
top 100. The index is built beforehand; extraction does not count. Each method takes its turn after the others,
`--repeats` times: medians, and beside them the time of copying the 4096-dimensional database on one thread, which tells
machines, and hours of one machine, apart.
"""

import argparse
import contextlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import torch

from utils.files import write_json
from utils.run import exit_with, hardware, versions
from utils.search import rerank_l2

from ..report import alternate, unit_rows

CANDIDATES = 100
BITS = 512
METHODS = {  # -> what is searched, and what re-ranks, if anything
    "Float (4096D)": ("L2 4096", None),
    "Float (2048D)": ("L2 2048", None),
    "Float (512D)": ("L2 512", None),
    "Binary (512D)": ("Hamming", None),
    "SelaVPR++ (resource)": ("Hamming", "re-rank 2048"),
    "SelaVPR++ (performance)": ("Hamming", "re-rank 4096"),
}


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.paper.latency", description=__doc__.splitlines()[0])
    options.add_argument("--database", type=int, default=10_000, help="images; default: Pitts30k's 10,000")
    options.add_argument("--queries", type=int, default=100, help="default: 100")
    options.add_argument("--repeats", type=int, default=5, help="default: 5")
    return options


def main(argv: list[str] | None = None) -> None:
    """Writes results.json into the working directory; its path is the last line on stdout."""
    options = parser()
    args = options.parse_args(argv)
    if min(args.queries, args.repeats) < 1 or args.database < CANDIDATES:
        options.error(f"expected at least {CANDIDATES} database images, one query and one repeat")
    results, machine = Path("results.json"), hardware(torch.device("cpu"))
    found = measure(args.database, args.queries, args.repeats)
    remark = (f"{machine['cpu']}: one thread for one query at a time, {faiss.omp_get_max_threads()} for all "
              f"{args.queries} at once; medians of {args.repeats} turns. Calibration: copying the 4096-dimensional "
              f"database takes {found['calibration_ms']:.1f} ms on one thread.")
    write_json({**found, "descriptors": "random", "remarks": [remark], "options": vars(args), "versions": versions(),
                "hardware": machine}, results)
    print(results)


def measure(n_database: int, n_queries: int, repeats: int) -> dict:
    """Milliseconds a query, and of the copy.

    -> {"methods": {name: {"one" and "batched": {"initial", "rerank" (None: one stage), "total"}}}, "calibration_ms"}
    """
    rng = np.random.default_rng(0)
    floats = {dim: (unit_rows(rng, n_database, dim), unit_rows(rng, n_queries, dim)) for dim in (4096, 2048, 512)}
    codes, query_codes = (rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8) for n in (n_database, n_queries))
    hamming = faiss.IndexBinaryFlat(BITS)
    hamming.add(codes)
    candidates = hamming.search(query_codes, CANDIDATES)[1]
    calls: dict[str, Callable[[slice], object]] = {"Hamming": lambda of: hamming.search(query_codes[of], CANDIDATES)}
    for dim, (database, queries) in floats.items():
        index = faiss.IndexFlatL2(dim)
        index.add(database)
        calls[f"L2 {dim}"] = lambda of, index=index, queries=queries: index.search(queries[of], CANDIDATES)
        calls[f"re-rank {dim}"] = lambda of, database=database, queries=queries: rerank_l2(
            database, queries[of], candidates[of], CANDIDATES)
    ways = {"one": [slice(i, i + 1) for i in range(n_queries)], "batched": [slice(0, n_queries)]}
    runs = {f"{way} {name}": lambda call=call, parts=parts: [call(part) for part in parts]
            for way, parts in ways.items() for name, call in calls.items()}
    copy = np.empty_like(floats[4096][0])
    runs["calibration"] = lambda: np.copyto(copy, floats[4096][0])
    ms = {name: 1000 * statistics.median(seconds)
          for name, seconds in alternate(runs, repeats=repeats, around=_threads).items()}

    def times(way: str, searched: str, reranking: str | None) -> dict[str, float | None]:
        initial = ms[f"{way} {searched}"] / n_queries
        second = ms[f"{way} {reranking}"] / n_queries if reranking else None
        return {"initial": initial, "rerank": second, "total": initial + (second or 0.0)}

    return {"methods": {name: {way: times(way, *method) for way in ways} for name, method in METHODS.items()},
            "calibration_ms": ms["calibration"]}


@contextlib.contextmanager
def _threads(run: str) -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if run.startswith("one") else threads)
    yield
    faiss.omp_set_num_threads(threads)


if __name__ == "__main__":
    exit_with(main)
