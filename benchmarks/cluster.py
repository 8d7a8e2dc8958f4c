"""An index in parts on Ray nodes of this machine: `python -m benchmarks.cluster [--images N] [--work DIR]`.

Searches a simulated index on 1, 2 and 4 nodes, beside the same rows in one index; kills nodes under a running search;
describes a toy city and kills a node half-way. Prints the tables of docs/benchmarks/cluster.md.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datasets.toy_city import build_toy_city
from model import ModelConfig, build_model, save_checkpoint
from utils.cluster import ROOM
from utils.cluster.describing import describe
from utils.cluster.searching import PART, Parts, parts_of
from utils.errors import Parser
from utils.ranks import share
from utils.run import exit_with
from utils.search import ModelIdentity, TwoStageIndex

NODES = 1, 2, 4
CODE_BYTES, DIM = 64, 256
QUERIES, CLIENTS, BATCH = 200, 4, 128
KILLS = 20
MODEL = ModelIdentity("made up", "made up")


def made_up(n: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Writes an index of random rows for each of NODES, the first as one index; returns queries near some of them."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (n, CODE_BYTES), np.uint8)
    codes[n // 2:] = codes[:n - n // 2]  # every distance is there twice: ties across the parts
    floats = random.standard_normal((n, DIM), np.float32)
    for parts in NODES:
        for number in range(parts):
            some = share(n, number, parts)
            rows = slice(some.start, some.stop)
            TwoStageIndex.build(folder / str(parts) / f"{PART}{number:05d}", model=MODEL, store="fp16",
                                names=map(str, some), codes=codes[rows], floats=floats[rows])
    chosen = random.integers(0, n, QUERIES)
    noise = np.packbits(random.random((QUERIES, 8 * CODE_BYTES)) < 0.2, axis=1)
    return codes[chosen] ^ noise, floats[chosen] + random.standard_normal((QUERIES, DIM), np.float32)


@contextlib.contextmanager
def nodes(count: int, cpus: int) -> Iterator:
    """A head that runs nothing and so many nodes beside it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False,
                                                            "resources": {"head": 1}})
    ray = None
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=cpus)
        import ray

        ray.init(cluster.address, namespace=ROOM, logging_level="ERROR", log_to_driver=False)
        yield cluster
    finally:
        if ray is not None:
            ray.shutdown()
        cluster.shutdown()


def searching(folder: Path, codes: np.ndarray, floats: np.ndarray) -> None:
    index = TwoStageIndex.open(folder / "1" / f"{PART}00000")
    index.search(codes[:1], floats[:1])
    started = time.perf_counter()
    alone = [index.search(codes[i:i + 1], floats[i:i + 1]) for i in range(QUERIES)]
    print(f"one index, no Ray: {QUERIES / (time.perf_counter() - started):.0f} queries/s", flush=True)
    names = [index.names(found.ids[0]) for found in alone]
    distances = np.concatenate([found.distances[:, :10] for found in alone])
    for count in NODES:
        with nodes(count, 2) as cluster:
            served = Parts([folder / str(count)])
            served.search(codes, floats)

            def ask(i: int, served: Parts = served) -> tuple[float, bool]:
                begun = time.perf_counter()
                found = served.search(codes[i:i + 1], floats[i:i + 1])
                same = [*found.names[0]] == names[i] and (found.distances[0] == distances[i]).all()
                return time.perf_counter() - begun, bool(same)

            one = [ask(i) for i in range(QUERIES)]
            started = time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                several = [*pool.map(ask, range(QUERIES))]
            together = QUERIES / (time.perf_counter() - started)
            started = time.perf_counter()
            found = served.search(codes[:BATCH], floats[:BATCH])
            batch = BATCH / (time.perf_counter() - started)
            right = sum(same for _, same in one + several)
            right += sum([*row] == name for row, name in zip(found.names, names, strict=False))
            ms = 1000 * np.array([seconds for seconds, _ in one])
            print(f"| {count} | {right} of {2 * QUERIES + BATCH} | {np.median(ms):.1f} / {np.quantile(ms, .95):.1f} | "
                  f"{1000 / ms.mean():.0f} | {together:.0f} | {batch:.0f} |", flush=True)
            if count == NODES[-1]:
                kill(cluster, ask, served.parts)


def on_a_node(cluster, parts: list[Path]) -> list:
    """The nodes beside the head on which these parts are."""
    import ray

    actors = [ray.get_actor(f"{part}#0") for part in parts]
    there = ray.get([actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for actor in actors])
    return [node for node in cluster.worker_nodes if node.node_id in there]


def kill(cluster, ask, parts: list[Path]) -> None:
    """KILLS times, while queries run: a node dies, with the actors on it, and another takes its place."""
    asked, took, wrong, ended = [], [], [], threading.Event()

    def client() -> None:
        i = 0
        while not ended.is_set():
            asked.append(i)
            seconds, same = ask(i % QUERIES)
            took.append((time.perf_counter(), seconds))
            if not same:
                wrong.append(i)
            i += 1

    clients = [threading.Thread(target=client) for _ in range(2)]
    for thread in clients:
        thread.start()
    waits = []
    for _ in range(KILLS):
        victim, at = on_a_node(cluster, parts)[0], time.perf_counter()
        cluster.remove_node(victim, allow_graceful=False)
        cluster.add_node(num_cpus=2, wait=False)
        while not [end for end, seconds in took if end - seconds > at + 0.5]:  # a query that began behind it ended
            time.sleep(0.05)
        waits.append(max(seconds for end, seconds in took if end > at))
        print(f"death {len(waits)}: {waits[-1]:.1f} s; {len(took)} answers, {len(wrong)} wrong", flush=True)
    ended.set()
    for thread in clients:
        thread.join()
    slow = sum(seconds > 0.5 for _, seconds in took)
    print(f"{KILLS} nodes killed: {len(asked)} queries asked, {len(took)} answered, {len(wrong)} of them wrong; the "
          f"slowest of a death took {np.median(waits):.1f} s (median), {min(waits):.1f} to {max(waits):.1f}; "
          f"{slow} took over 0.5 s", flush=True)


def describing(folder: Path, n: int) -> None:
    build_toy_city(folder / "toy", seed=0)  # 2,880 images
    files = sorted((folder / "toy").rglob("*.jpg"))[:n]
    for number, file in enumerate(files):
        (folder / "map" / f"{number % 10}").mkdir(parents=True, exist_ok=True)
        os.link(file, folder / "map" / f"{number % 10}" / f"{number:05d}.jpg")
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny", branches=("float", "binary")), seed=0),
                    folder / "model.pth", pretrained=False)

    def written() -> int:
        return sum(int(np.fromfile(path, np.uint8).sum()) for path in (folder / "killed").glob("*/marks"))

    for name in ("whole", "killed"):
        with nodes(2, 1) as cluster:
            def half_way(cluster=cluster) -> None:
                while len([*(folder / "killed").glob(f"{PART}*")]) < 5:  # of 8: four or so are finished
                    time.sleep(0.02)
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                cluster.add_node(num_cpus=1, wait=False)

            killer = threading.Thread(target=half_way)
            if name == "killed":
                killer.start()
            started = time.perf_counter()
            held = describe(folder / name, folder / "map", resume=folder / "model.pth", parts=8, size=(112, 112))
            seconds = time.perf_counter() - started
            if name == "killed":
                killer.join()
        indexes = [TwoStageIndex.open(part) for part in parts_of([folder / name])]
        names = [image for index in indexes for ids in index.live_ids() for image in index.names(ids)]
        rows = [index.rows(np.arange(len(index))) for index in indexes]
        print(f"described, {name}: {held} images, {len(set(names))} different, of {len(files)}, in {seconds:.1f} s",
              flush=True)
        if name == "whole":
            first = rows
    same = all((a == b).all() for one, other in zip(first, rows, strict=True) for a, b in zip(one, other, strict=True))
    print(f"every code and float is the same as without a death: {same}")


def main() -> None:
    parser = Parser(prog="python -m benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000, help="rows to search; default: a million")
    parser.add_argument("--described", type=int, default=2000, help="images of the toy city to describe")
    parser.add_argument("--work", type=Path, help="a folder for 2 GB of files that are deleted afterwards")
    given = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(dir=given.work) as scratch:
        searching(Path(scratch), *made_up(given.images, Path(scratch)))
        describing(Path(scratch), given.described)


if __name__ == "__main__":
    exit_with(main)
