"""The main job on drawn images, in minutes on a CPU: `python -m utils.demo [FOLDER]` (what `make demo` runs).

Builds the toy city, trains the float branch and then the binary branch beside it, evaluates, prints one table and draws
some queries with what was found for them. Every script is run by the command line that is printed.
"""

import functools
import json
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets import BenchmarkDataset, evaluation_transform, read_folder
from datasets.transforms import read_image
from model import ModelConfig, build_model, fast_inference

from .errors import Parser
from .evaluation.baselines import BASELINES, search_baseline
from .evaluation.evaluator import Evaluation
from .files import temporary_path
from .run import exit_with
from .sheets import PLAIN, RIGHT, WRONG, Cell, sheet, spread

PROJECT = Path(__file__).resolve().parent.parent
IMAGE_SIZE = (112, 112)
SEED = 0
RECALLS = (1, 5, 10)
DATA = ["--datasets_folder", "toy_city", "--resize", "112", "112", "--infer_batch_size", "64", "--num_workers", "1",
        "--device"]
TRAINING = ["--val_datasets", "msls", "--train_resize", "112", "112", "--train_batch_size", "20", "--lr", "0.004",
            "--lr_halving", "3", "--seed", str(SEED)]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.demo", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"), help="default: demo")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    torch.set_num_threads(threads())

    run(folder, "-m", "datasets.toy_city", "toy_city")
    trained_float, trained_both = train_both(folder)
    reranked = run(folder, "eval_rerank.py", *DATA, "cpu", "--resume", best_model(trained_both), "--save_dir", "rerank")

    test_set = BenchmarkDataset(read_folder(folder / "toy_city", "pitts30k", split="test"),
                                transform=evaluation_transform(IMAGE_SIZE))
    rows = [float_row(f"{name}, L2", search_baseline(extract, test_set, recall_values=RECALLS))
            for name, extract in BASELINES.items()]
    rows.append(untrained(test_set))
    rows += results_rows(json.loads(trained_float.read_text()), json.loads(reranked.read_text()))
    table = format_table(rows, test_set)
    with temporary_path(folder / "table.md") as temporary:
        temporary.write_text(table)
    image = folder / "retrievals.png"
    with temporary_path(image) as temporary:
        draw_retrievals(reranked.with_name("predictions.npz"), test_set.listing.folder).save(temporary, "png")
    print(f"\n{table}\n{time.perf_counter() - started:.0f} s in all; queries with their top 5: {image}")


def train_both(folder: Path, *, device: str = "cpu", epochs: tuple[int, int] = (11, 3)) -> tuple[Path, Path]:
    """Trains the float branch and then the binary branch beside it on the city in <folder>/toy_city; their
    results.json."""
    trained_float = run(folder, "train.py", *DATA, device, *TRAINING, "--backbone", "dinov2-tiny",
                        "--foundation_model_path", "random", "--epochs_num", str(epochs[0]), "--save_dir", "float")
    trained_both = run(folder, "train_rerank.py", *DATA, device, *TRAINING, "--resume", best_model(trained_float),
                       "--epochs_num", str(epochs[1]), "--save_dir", "rerank")
    return trained_float, trained_both


@functools.cache
def threads() -> int:
    """As many computing threads as cores are idle now, at least one; all cores where the system does not tell;
    OMP_NUM_THREADS where that is set.

    Threads of a computation wait for the slowest: where other programs hold its core for a while, all of them wait.
    """
    def idle() -> float:
        ticks = Path("/proc/stat").read_text().split(maxsplit=6)
        return (int(ticks[4]) + int(ticks[5])) / os.sysconf("SC_CLK_TCK")  # seconds, idle and waiting for a disk

    if "OMP_NUM_THREADS" in os.environ:
        return int(os.environ["OMP_NUM_THREADS"])
    cores = os.cpu_count() or 1
    try:
        before, started = idle(), time.perf_counter()
        time.sleep(0.5)
        free = (idle() - before) / (time.perf_counter() - started)
    except OSError:
        return cores
    return min(cores, max(1, round(free)))


def run(folder: Path, *command: str) -> Path:
    """Runs a script or module of the project in `folder`; returns the path that its last line of output names.

    Threads that wait for each other sleep (OMP_WAIT_POLICY): where they spin, they take the loader's core.
    """
    print(f"\n$ python {shlex.join(command)}", flush=True)
    head = [str(PROJECT / command[0])] if command[0] != "-m" else ["-m"]
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads()), **os.environ,
                   "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen([sys.executable, *head, *command[1:]], cwd=folder, env=environment, stdout=subprocess.PIPE,
                          text=True) as child:
        try:
            output, _ = child.communicate()
        except KeyboardInterrupt:
            child.wait()  # it was interrupted too, and clears up behind itself
            raise
    if child.returncode:
        raise ValueError(f"{command[0]} ended with exit code {child.returncode}; its own message stands above")
    return folder / output.strip().splitlines()[-1]


def best_model(results: Path) -> str:
    """The best weights of the run that wrote this results.json."""
    return str(results.with_name("best_model.pth").resolve())


def untrained(test_set: BenchmarkDataset) -> dict:
    """The model of the same seed before its first step."""
    extract = fast_inference(build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=SEED))

    def descriptors(paths: Sequence[Path]) -> np.ndarray:
        images = torch.stack([test_set.transform(read_image(path)) for path in paths])
        return extract(images).floating.numpy()

    return float_row("float, untrained", search_baseline(descriptors, test_set, recall_values=RECALLS))


def float_row(name: str, evaluation: Evaluation) -> dict:
    return row(name, evaluation.recalls()["final"], evaluation.latency_ms, evaluation.bytes_per_image["float"])


def results_rows(trained_float: dict, reranked: dict) -> list[dict]:
    """The rows of float, binary and re-ranked retrieval from two results.json."""
    sizes = reranked["bytes_per_image"]
    search_ms = {"search": reranked["latency_ms"]["search"]}
    return [
        row("float, L2", trained_float["recalls"]["final"], trained_float["latency_ms"], sizes["float"]),
        row("binary, Hamming", reranked["recalls"]["first_stage"], search_ms, sizes["binary"]),
        row("binary, re-ranked by float", reranked["recalls"]["final"], reranked["latency_ms"], sum(sizes.values())),
    ]


def row(name: str, recalls: dict[str, float], latency_ms: dict[str, float | None], size: int) -> dict:
    return {"name": name, "recalls": [recalls[str(k)] for k in RECALLS], "bytes": size,
            "ms": sum(value for value in latency_ms.values() if value is not None)}


def format_table(rows: list[dict], test_set: BenchmarkDataset) -> str:
    lines = [f"{test_set.listing.label}: {test_set.n_queries} queries, "
             f"{test_set.n_database} database images, drawn", "",
             "| descriptor, search            |   R@1 |   R@5 |  R@10 | ms/query | bytes |",
             "|-------------------------------|------:|------:|------:|---------:|------:|"]
    for values in rows:
        recalls = " | ".join(f"{value:5.1f}" for value in values["recalls"])
        lines.append(f"| {values['name']:29} | {recalls} | {values['ms']:8.3f} | {values['bytes']:5} |")
    return "\n".join(lines) + "\n"


def draw_retrievals(predictions: Path, images: Path, *, queries: int = 8, found: int = 5) -> Image.Image:
    """A sheet: each row a query and its first `found` images, framed green where right and red where wrong."""
    with np.load(predictions) as file:
        ids, correct, first = file["final_ids"], file["final_correct"], file["first_stage_correct"]
        query_names, database_names = file["query_names"], file["database_names"]
    rows = []
    for query in _interesting(correct[:, 0], first[:, 0], queries):
        cells = [(query_names[query], PLAIN)]
        cells += [(database_names[ids[query, rank]], RIGHT if correct[query, rank] else WRONG) for rank in range(found)]
        rows.append([Cell(read_image(images / str(name)).resize((168, 126)), frame) for name, frame in cells])
    return sheet(rows, {0: "query", 1: "top 5 after re-ranking: right in green, wrong in red"})


def _interesting(right: np.ndarray, right_at_first: np.ndarray, count: int) -> list[int]:
    """Queries that re-ranking put right, some that stay wrong, and others, spread over the set."""
    kinds = (right & ~right_at_first, ~right, right & right_at_first)
    chosen: list[int] = []
    for kind, share in zip(kinds, (3, 2, count), strict=True):
        chosen += spread(np.flatnonzero(kind), min(share, count - len(chosen)))
    return chosen


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    exit_with(main)
