"""Times exhaustive search and re-ranking among random descriptors (Table IX): `python -m benchmarks.paper.latency`.

One query at a time on one thread (several wait for each other longer than they work), and all at once on all threads;
top 100. The index is built beforehand; extraction does not count. Each method takes its turn after the others,
`--repeats` times: medians, and beside them the time of copying the 4096-dimensional database on one thread, which tells
machines, and hours of one machine, apart.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from utils.files import write_json
from utils.run import exit_with, hardware, versions
from utils.search import rerank_l2

from ..report import Report, unit_rows

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
    report, threads, copy = Report(), faiss.omp_get_max_threads(), np.empty_like(floats[4096][0])
    faiss.omp_set_num_threads(1)
    ms = {"one": report.per_query("one", calls, [slice(i, i + 1) for i in range(n_queries)], repeats=repeats)}
    faiss.omp_set_num_threads(threads)
    ms["batched"] = report.per_query("batched", calls, [slice(0, n_queries)], repeats=repeats)
    copying = report.medians("ms", {"copying": lambda: np.copyto(copy, floats[4096][0])}, scale=1000, repeats=repeats)
    methods = {name: {way: {"initial": times[searched], "rerank": times.get(reranking),
                            "total": times[searched] + times.get(reranking, 0.0)} for way, times in ms.items()}
               for name, (searched, reranking) in METHODS.items()}
    return {"methods": methods, "calibration_ms": copying["copying"]}


if __name__ == "__main__":
    exit_with(main)
