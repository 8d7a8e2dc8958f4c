"""Which sub-linear index of codes: `python -m benchmarks.scale_trial [--images N]`, some minutes for a million.

faiss's inverted files, graphs and hash tables on the simulated city, each with growing effort until it has 99 % of the
exact search's recall@100. Prints the table of scale.md and stores it in scale_trial.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np

from utils.evaluation.metrics import recall_at_k
from utils.files import write_json
from utils.run import exit_with

from .report import RESULTS
from .scale import DEPTH, GOAL
from .simulated import BITS, simulated

STORE = RESULTS / "scale_trial.json"
QUERIES = 2000
LADDERS = {"nprobe": (8, 16, 32, 48, 64, 96, 128, 192, 256), "efSearch": (100, 150, 200, 300, 400, 800),
           "nflip": (0, 1, 2)}


def inverted_file(codes: np.ndarray, lists: int, *, by_graph: bool = False) -> tuple[object, object, str]:
    index = faiss.index_binary_factory(BITS, f"BIVF{lists}_BHNSW32" if by_graph else f"BIVF{lists}")
    index.cp.niter = 4
    index.train(codes[np.sort(np.random.default_rng(0).choice(len(codes), 40 * lists, replace=False))])
    return index, index, "nprobe"


def graph(codes: np.ndarray, links: int) -> tuple[object, object, str]:
    index = faiss.IndexBinaryHNSW(BITS, links)
    index.hnsw.efConstruction = 100
    return index, index.hnsw, "efSearch"


def hashes(codes: np.ndarray, tables: int, bits: int) -> tuple[object, object, str]:
    index = faiss.IndexBinaryMultiHash(BITS, tables, bits)
    return index, index, "nflip"


def candidates(n: int) -> dict[str, Callable[[np.ndarray], tuple[object, object, str]]]:
    """By name, what makes an empty trained index, and where its effort is set."""
    root = round(n ** 0.5)
    made = {f"inverted file, {c} sqrt(n) = {c * root} lists": lambda codes, c=c: inverted_file(codes, c * root)
            for c in (1, 2, 4)}
    made[f"the same, {4 * root} lists found by a graph"] = lambda codes: inverted_file(codes, 4 * root, by_graph=True)
    made |= {f"graph (HNSW), {m} links": lambda codes, m=m: graph(codes, m) for m in (16, 32)}
    made |= {f"{tables} hash tables of {bits} bits": lambda codes, t=tables, b=bits: hashes(codes, t, b)
             for tables, bits in ((16, 16), (25, 20))}
    return made


def trial(n: int) -> list[dict]:
    city = simulated(n, queries=QUERIES)
    codes = np.concatenate([block for block, _ in city.blocks()])
    queries = city.query_codes
    flat = faiss.IndexBinaryFlat(BITS)
    flat.add(codes)
    distances, ids = flat.search(queries, DEPTH)
    exact = recall_at_k(ids, city.positives, (DEPTH,))[DEPTH]
    rows = [{"index": "exact", "effort": "", "build_s": 0.0, "bytes": BITS // 8, "recall": 1.0, "same": 1.0,
             **times(flat, queries)}]
    for name, make in candidates(n).items():
        started = time.perf_counter()
        index, settings, effort = make(codes)
        index.add(codes)
        built = time.perf_counter() - started
        for value in LADDERS[effort]:
            setattr(settings, effort, value)
            found_distances, found = index.search(queries, DEPTH)
            # Of images as far as rank 100 any will do.
            same = float((found_distances <= distances[:, -1:]).mean())
            # What was not found is -1: no image's number.
            share = recall_at_k(np.where(found < 0, n, found), city.positives, (DEPTH,))[DEPTH] / exact
            if share >= GOAL:
                break
        rows.append({"index": name, "effort": f"{effort} {value}", "build_s": built, "recall": share, "same": same,
                     "bytes": len(faiss.serialize_index_binary(index)) / n, **times(index, queries)})
        print(line(rows[-1]), flush=True)
        del index, settings
    return rows


def times(index, queries: np.ndarray, *, repeats: int = 3) -> dict[str, float]:
    """Medians of ms a query, all at once and, on one thread, one at a time."""
    one = queries[::20]

    def seconds(run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    batched = statistics.median(seconds(lambda: index.search(queries, DEPTH)) for _ in range(repeats))
    alone = statistics.median(seconds(lambda: [index.search(q[None], DEPTH) for q in one]) for _ in range(repeats))
    return {"batched_ms": 1000 * batched / len(queries), "one_ms": 1000 * alone / len(one)}


def line(row: dict) -> str:
    return (f"| {row['index']} | {row['effort']} | {100 * row['recall']:.2f} % | {100 * row['same']:.1f} % | "
            f"{row['one_ms']:.3f} / {row['batched_ms']:.3f} | {row['build_s']:.1f} | {row['bytes']:.0f} |")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    args = parser.parse_args(argv)
    stored = json.loads(STORE.read_text()) if STORE.is_file() else {}
    rows = trial(args.images)
    write_json({**stored, str(args.images): rows}, STORE)
    print("| index | effort | recall@100 over exact | same images | one / batched, ms | build, s | B an image |",
          "|---|---|---|---|---|---|---|", *map(line, rows), sep="\n")


if __name__ == "__main__":
    exit_with(main)
