"""The stages of benchmarks/gpu.py, each in a process of its own: `python -m benchmarks.gpu_stages NAME ROWS`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from datasets.toy_city.city import build_toy_city
from datasets.transforms import normalise
from utils import demo
from utils.cli.variants import chosen_fields
from utils.data import TrainingData, training_loader
from utils.device import best_precision, pick_device, synchronise
from utils.errors import Parser
from utils.run import exit_with

from . import extraction, precision, training
from . import search as searching
from .loader import enlarge
from .paper.tables import TUNED
from .report import MIB, PROJECT, Report, calibrate

QUERIES = 6816
STEPS = 4  # of a training that is done twice


def tests(report: Report, device: torch.device, quick: bool) -> None:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rfE", "-p", "no:cacheprovider",
               "--continue-on-collection-errors", *(["tests/utils/search"] if quick else [])]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    *lines, summary = done.stdout.strip().splitlines() or ["", done.stderr.strip().splitlines()[-1]]
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            report.add(line, "failed", goal="passes", met=False)
    report.add("pytest -m gpu", summary.strip("= "), goal="none fails", met=done.returncode == 0)


def steps(report: Report, device: torch.device, quick: bool) -> None:
    """A training step by every path, against the published order of operations."""
    rates = calibrate(report, device)
    if quick:
        training.steps(report, "dinov2-tiny", "train", 16, rates, device, size=56)
        return
    for backbone in ("dinov2-large", "dinov2-base"):
        for images in (480, 160):
            training.steps(report, backbone, "train", images, rates, device, size=training.SIZE)
    training.steps(report, "dinov2-base", "train_rerank", 480, rates, device, size=training.SIZE)


def methods(report: Report, device: torch.device, quick: bool) -> None:
    """Peak memory of the methods of Tables IV to VI at their batch of 40 places, Adam included."""
    images, size = (8, 56) if quick else (160, training.SIZE)
    for backbone in ("dinov2-tiny",) if quick else ("dinov2-base", "dinov2-large"):
        peaks = {}
        for name, variant in TUNED.items():
            step = training.Step(backbone, "train", images, device, size=size, fields=chosen_fields(variant, []))
            peaks[name], ours = (_peak(step, kind) for kind in ("kept", "ours"))
            kept, recomputed = ("does not fit" if peak is None else f"{peak / 1e9:.2f} GB"
                                for peak in (peaks[name], ours))
            report.add(f"{backbone}, {images} images, {name}: peak", kept,
                       f"everything kept, as published; recomputed: {recomputed}")
        for name, paper in {"Full-tuning": 11.5, "SelaVPR-global": 14.6, "Partial-tuning": 50.3}.items():
            if peaks[name] and peaks["MemEfficient-MCA"]:
                share = 100 * peaks["MemEfficient-MCA"] / peaks[name]
                report.add(f"{backbone}, MultiConv over {name}, everything kept", f"{share:.1f} %",
                           f"the paper's, of large: {paper} %")


def _peak(step: training.Step, kind: str) -> float | None:
    """Bytes of two steps in bf16 with Adam; on a processor, of what one keeps for the gradient."""
    if step.device.type == "cpu":
        return step.saved_mib(kind, "bf16") * len(step.images) * MIB
    train = _training(step, kind)
    with step.prepared(f"{kind} bf16"):
        return training.gpu_peak(lambda: [train() for _ in range(2)], step.device)


def _training(step: training.Step, kind: str) -> Callable[[], None]:
    """A step in bf16 with Adam, each time it is called."""
    optimiser = torch.optim.Adam([p for p in step.model.parameters() if p.requires_grad], fused=True)

    def train() -> None:
        step(kind, "bf16")
        optimiser.step()
        synchronise(step.device)

    return train


def reproducible(report: Report, device: torch.device, quick: bool) -> None:
    """Two short trainings from one seed, with deterministic algorithms and without."""
    backbone, images, size = ("dinov2-tiny", 8, 56) if quick else ("dinov2-base", 160, training.SIZE)
    seconds = {}
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic)
        states = []
        for _ in range(2):
            step = training.Step(backbone, "train_rerank", images, device, size=size)
            train, taken = _training(step, "ours"), []
            with step.prepared("ours bf16"):
                for _ in range(STEPS):
                    started = time.perf_counter()
                    train()
                    taken.append(time.perf_counter() - started)
            states.append(step.model.state_dict())
            seconds[deterministic] = statistics.median(taken[1:])
        apart = sum(not torch.equal(states[0][name], value) for name, value in states[1].items())
        goal = {"goal": "0", "met": apart == 0} if deterministic else {}
        report.add(f"{backbone}, two trainings {'with' if deterministic else 'without'} deterministic algorithms",
                   f"{apart} tensors differ", f"of {len(states[0])}", **goal)
    report.add(f"{backbone}, cost of deterministic algorithms", f"{100 * (seconds[True] / seconds[False] - 1):+.1f} %")


def extracting(report: Report, device: torch.device, quick: bool) -> None:
    """Images extracted in a second, in memory and from files."""
    if quick:
        extraction.rows(report, device=device, backbones=("dinov2-tiny",), repeats=1, batch=2)
        return
    extraction.rows_from_files(report, device=device, images=2000, workers=min(16, os.cpu_count() or 1))
    extraction.rows(report, device=device, batch=64)


def retrieval(report: Report, device: torch.device, quick: bool) -> None:
    """Searching and re-ranking, beside the processor."""
    images, queries = (500, 60) if quick else (10_000, QUERIES)
    searching.rows(report, device=device, images=images, queries=queries, repeats=1 if quick else 5)
    for n in (20_000,) if quick else (10**6, 10**7):
        searching.beside_the_processor(report, device, images=n, queries=100 if quick else QUERIES)


def loading(report: Report, device: torch.device, quick: bool) -> None:
    """JPEG files of 640 x 480 through the loader into a training step: who waits for whom."""
    places, batch, size, backbone = (16, 4, 56, "dinov2-tiny") if quick else (480, 40, training.SIZE, "dinov2-base")
    with tempfile.TemporaryDirectory() as scratch:
        city = build_toy_city(Path(scratch) / "toy", train_places=places, val_places=1, test_places=1) / "gsv_cities"
        enlarge(city)
        workers = min(16, os.cpu_count() or 1)
        loader = training_loader(TrainingData(
            training_dataset=str(city), datasets_folder=city, size=(size, size), places_per_batch=batch,
            num_workers=workers), device=device)
        step = training.Step(backbone, "train", 4 * batch, device, size=size)

        def train(batches) -> tuple[int, float, float]:
            """Images, seconds in all and waiting for the loader."""
            count, waited, begun = 0, 0.0, time.perf_counter()
            asked = begun
            for images, labels in batches:
                waited += time.perf_counter() - asked
                step.images, step.labels = normalise(images.to(device, non_blocking=True)), labels.to(device)
                step("ours", "bf16")  # which waits for the device
                count += len(images)
                asked = time.perf_counter()
            return count, time.perf_counter() - begun, waited

        with step.prepared("ours bf16"):
            train(loader)  # starts the workers, and what a device compiles
            loader.batch_sampler.set_epoch(1)
            count, seconds, waited = train(loader)
            started = time.perf_counter()
            loader.batch_sampler.set_epoch(2)
            alone = sum(len(images) for images, _ in loader) / (time.perf_counter() - started)
    name = f"{backbone}, {batch} x 4 images of 640 x 480, {workers} workers"
    report.add(f"{name}: loader alone", f"{alone:.0f} images/s")
    report.add(f"{name}: training", f"{count / seconds:.0f} images/s", f"step alone {count / (seconds - waited):.0f}")
    report.add(f"{name}: share of the time that the device waits", f"{100 * waited / seconds:.1f} %", goal="< 5 %",
               met=waited < 0.05 * seconds)


def toy_city(report: Report, device: torch.device, quick: bool) -> None:
    """The demo's trainings on the device, and what precisions and stores change in its recalls."""
    counts = {"train_places": 24, "val_places": 4, "test_places": 12} if quick else {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_toy_city(folder / "toy_city", **counts)
        trained, both = demo.train_both(folder, device=device.type, **{"epochs": (1, 1)} if quick else {})
        for name, file, stage in (("float, L2", trained, "final"), ("binary, Hamming", both, "first_stage"),
                                  ("binary, re-ranked by float", both, "final")):
            report.add(f"toy city, {name}: R@1", f"{json.loads(file.read_text())['recalls'][stage]['1']:.1f}",
                       f"{best_precision(device)}; docs/benchmarks/demo.md has a processor's")
        report.add("toy city drawn, both trainings", f"{time.perf_counter() - started:.0f} s")
        found = precision.measure(Path(demo.best_model(both)), folder / "toy_city" / "pitts30k", 112, device=device)
        for combination, values in found["changes"].items():
            final, rounding = values["final"], values["rounding"]
            report.add(f"toy city, {combination} against fp32: queries that change", f"{final['queries']}",
                       f"net {final['net']:+d} of {found['queries']}; least cosine {rounding['least_cosine']:.6f}; "
                       f"bits changed {rounding['bits_changed_percent']:.2f} %")


STAGES = {"tests": tests, "training": steps, "methods": methods, "reproducible": reproducible, "extraction": extracting,
          "retrieval": retrieval, "loader": loading, "toy city": toy_city}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m benchmarks.gpu_stages", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("rows", type=Path, help="a .json, written anew with every row")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    args = parser.parse_args(argv)
    STAGES[args.stage](Report(kept=args.rows), pick_device(args.device), args.quick)


if __name__ == "__main__":
    exit_with(main)
