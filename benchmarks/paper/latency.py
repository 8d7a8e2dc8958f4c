"""Times exhaustive search and re-ranking among random descriptors (Table IX): `python -m benchmarks.paper.latency`.

One query at a time on one thread (several wait for each other longer than they work), and all at once on all threads;
top 100. The index is built beforehand; extraction does not count. Each method takes its turn after the others,
`--repeats` times: medians, and beside them the time of copying the 4096-dimensional database on one thread, which tells
machines, and hours of one machine, apart.

SelaVPR's re-ranking matches dense local features, which takes seconds a query: of one query, in LOCAL_REPEATS turns,
on one thread and then on all; by utils/search/local.py, and beside it in the published order of operations, which finds
the same. TransVPR's is not measured.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from utils.errors import Parser
from utils.files import write_json
from utils.run import exit_with, hardware, versions
from utils.search import rerank_l2
from utils.search.local import mutual_counts

from ..local_matching import Counts, published_counts
from ..report import Report, unit_rows

CANDIDATES = 100
BITS = 512
PUBLISHED = "matches, published order"
LOCAL_SIDE, LOCAL_DIM, LOCAL_REPEATS = 61, 128, 3  # SelaVPR's map of local features of an image
METHODS = {  # -> what is searched, and what re-ranks, if anything
    "SelaVPR": ("L2 1024", "matches"),
    "Float (4096D)": ("L2 4096", None),
    "Float (2048D)": ("L2 2048", None),
    "Float (512D)": ("L2 512", None),
    "Binary (512D)": ("Hamming", None),
    "SelaVPR++ (resource)": ("Hamming", "re-rank 2048"),
    "SelaVPR++ (performance)": ("Hamming", "re-rank 4096"),
}


def parser() -> argparse.ArgumentParser:
    options = Parser(prog="python -m benchmarks.paper.latency", description=__doc__.splitlines()[0])
    options.add_argument("--database", type=int, default=10_000, help="images; default: Pitts30k's 10,000")
    options.add_argument("--queries", type=int, default=100, help="default: 100")
    options.add_argument("--repeats", type=int, default=5, help="default: 5")
    options.add_argument("--local_side", type=int, default=LOCAL_SIDE,
                         help=f"of SelaVPR's square map of local features; default: {LOCAL_SIDE}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Writes results.json into the working directory; its path is the last line on stdout."""
    options = parser()
    args = options.parse_args(argv)
    if min(args.queries, args.repeats, args.local_side) < 1 or args.database < CANDIDATES:
        options.error(f"expected at least {CANDIDATES} database images, one query, one repeat and a local side of 1")
    results, machine = Path("results.json"), hardware(torch.device("cpu"))
    found = measure(args.database, args.queries, args.repeats, local_side=args.local_side)
    flop = 2 * CANDIDATES * args.local_side**4 * LOCAL_DIM
    remarks = [f"{machine['cpu']}: one thread for one query at a time, {faiss.omp_get_max_threads()} for all "
               f"{args.queries} at once; medians of {args.repeats} turns. Calibration: copying the 4096-dimensional "
               f"database takes {found['calibration_ms']:.1f} ms on one thread.",
               f"SelaVPR's re-ranking is of one query, {flop / 1e9:.0f} GFLOP of similarities: on one thread, then on "
               f"{torch.get_num_threads()}; medians of {min(args.repeats, LOCAL_REPEATS)} turns. The same "
               f"matching in the published order of operations takes {found['published_matching_ms']['one']:.0f} and "
               f"{found['published_matching_ms']['batched']:.0f} ms."]
    write_json({**found, "descriptors": "random", "remarks": remarks, "options": vars(args), "versions": versions(),
                "hardware": machine}, results)
    print(results)


def rerank_matches(query: np.ndarray, candidates: np.ndarray, *, counts: Counts) -> np.ndarray:
    """Ranks of the candidates (n, P, D) by their `counts` of mutual neighbours with the query (P, D), most first; equal
    ones keep their order."""
    return np.argsort(-counts(query, candidates), kind="stable")


def measure(n_database: int, n_queries: int, repeats: int, *, local_side: int = LOCAL_SIDE) -> dict:
    """Milliseconds a query, and of the copy.

    -> {"methods": {name: {"one" and "batched": {"initial", "rerank" (None: one stage), "total"}}},
        "published_matching_ms": {"one" and "batched"}, "calibration_ms"}
    """
    rng = np.random.default_rng(0)
    floats = {dim: (unit_rows(rng, n_database, dim), unit_rows(rng, n_queries, dim)) for dim in (4096, 2048, 1024, 512)}
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
    query, local = np.split(unit_rows(rng, (CANDIDATES + 1) * local_side**2, LOCAL_DIM), [local_side**2])
    local = local.reshape(CANDIDATES, local_side**2, LOCAL_DIM)
    matching = {name: lambda of, counts=counts: rerank_matches(query, local, counts=counts)
                for name, counts in {"matches": mutual_counts, PUBLISHED: published_counts}.items()}
    report, threads, copy = Report(), faiss.omp_get_max_threads(), np.empty_like(floats[4096][0])
    torch_threads, local_repeats = torch.get_num_threads(), min(repeats, LOCAL_REPEATS)
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    ms = {"one": {**report.per_query("one", calls, [slice(i, i + 1) for i in range(n_queries)], repeats=repeats),
                  **report.per_query("one", matching, [slice(0, 1)], repeats=local_repeats)}}
    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(torch_threads)
    ms["batched"] = {**report.per_query("batched", calls, [slice(0, n_queries)], repeats=repeats),
                     **report.per_query("batched", matching, [slice(0, 1)], repeats=local_repeats)}
    copying = report.medians("ms", {"copying": lambda: np.copyto(copy, floats[4096][0])}, scale=1000, repeats=repeats)
    methods = {name: {way: {"initial": times[searched], "rerank": times.get(reranking),
                            "total": times[searched] + times.get(reranking, 0.0)} for way, times in ms.items()}
               for name, (searched, reranking) in METHODS.items()}
    return {"methods": methods, "published_matching_ms": {way: times[PUBLISHED] for way, times in ms.items()},
            "calibration_ms": copying["copying"]}


if __name__ == "__main__":
    exit_with(main)
