"""First light on a GPU: `make gpu`, or `python -m benchmarks.gpu [--quick --device cpu]`.

Runs the stages below (gpu_stages.py), each in a process of its own with a time limit: one that crashes, or lacks a
package, costs the rows behind it, not the others. Rows are kept as they come, and the page with its JSON is written
anew after each stage. --quick drives the same stages on small shapes, to test the command where there is no GPU.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from utils.device import pick_device
from utils.errors import Parser
from utils.run import exit_with

from .report import PAGES, PROJECT, Report, machine, new_folder, stored, write_section

QUICK = "Small shapes, to see that the command works: the figures mean nothing."


class Stage(NamedTuple):
    """What it does, for how many seconds at most, and with which environment variables."""

    says: str
    limit: int
    environment: dict[str, str] = {}


STAGES = {
    "tests": Stage("The tests that need a GPU.", 150),
    "training": Stage("A training step by every path, against the published order of operations.", 330),
    "methods": Stage("Peak memory of the methods of Tables IV to VI at their batch of 40 places, Adam included.", 90),
    "reproducible": Stage("Two short trainings from one seed, with deterministic algorithms and without.", 60,
                          {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
    "extraction": Stage("Images extracted in a second, in memory and from files.", 150),
    "retrieval": Stage("Searching and re-ranking, beside the processor.", 150),
    "loader": Stage("JPEG files of 640 x 480 through the loader into a training step: who waits for whom.", 90,
                    {"OMP_WAIT_POLICY": "PASSIVE"}),  # threads that spin while they wait take the loader's cores
    "toy city": Stage("The demo's trainings on the device; what precisions and stores change in the recalls.", 180),
}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small shapes: only to see that the command works")
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=[*STAGES],
                        help="default: all; what the page has of others stays")
    parser.add_argument("--out", type=new_folder, help="folder of gpu.md and gpu.json (docs/benchmarks; with --quick, "
                                                        "or on a processor, gpu_quick)")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    page = (args.out or (new_folder("gpu_quick") if args.quick or device.type == "cpu" else PAGES)) / "gpu.md"
    found = stored(page).get(machine(device), {}).get("stages", {})  # which were run before
    with tempfile.TemporaryDirectory() as scratch:
        for chosen in args.stages:
            found[chosen] = run_stage(chosen, Path(scratch) / f"{chosen}.json", args)
            found = {name: found[name] for name in STAGES if name in found}
            write_section(page, "\n".join([*about(args.quick), *(section(*one) for one in found.items())]),
                          {"stages": found}, device=device, seconds=sum(stage["seconds"] for stage in found.values()))
    unfinished = [name for name in args.stages if found[name]["ended"] != "complete"]
    if unfinished:
        raise ValueError(f"not complete: {', '.join(unfinished)}; {page} says why")


def run_stage(name: str, kept: Path, args: argparse.Namespace) -> dict:
    """{"ended", "seconds", "rows", "samples"} of a stage, run in a process of its own."""
    stage, started, command = STAGES[name], time.perf_counter(), command_of(name, kept, args)
    print(f"\n{name}: {stage.says} At most {stage.limit} s.", flush=True)
    last, late = "", threading.Event()
    with subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **stage.environment}, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True) as child:
        def stop() -> None:
            late.set()
            end(child)

        timer = threading.Timer(stage.limit, stop)
        timer.start()
        try:
            for line in child.stdout:
                print(line, end="", flush=True)
                last = line.strip() or last
            child.wait()
        finally:
            timer.cancel()
            end(child)
    ended = f"stopped after {stage.limit} s" if late.is_set() else (
        f"exit code {child.returncode}: {last}" if child.returncode else "complete")
    rows = json.loads(kept.read_text()) if kept.is_file() else {"rows": [], "samples": {}}
    return {"ended": ended, "seconds": time.perf_counter() - started, **rows}


def command_of(name: str, kept: Path, args: argparse.Namespace) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu_stages", name, str(kept), "--device", args.device,
            *(["--quick"] if args.quick else [])]


def end(child: subprocess.Popen) -> None:
    """And whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def about(quick: bool) -> Iterator[str]:
    """The driver, and what a stage may miss."""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version,memory.total,power.limit", "--format=csv,noheader"]
        yield f"Driver, memory, power limit: {subprocess.run(asked, capture_output=True, text=True).stdout.strip()}; " \
              f"CUDA {torch.version.cuda}.\n"
    missing = [name for name in ("faiss", "utm", "pytest", "timm") if importlib.util.find_spec(name) is None]
    if "faiss" not in missing and not hasattr(importlib.import_module("faiss"), "StandardGpuResources"):
        missing.append("faiss's GPU part (not used: searches on a GPU are torch's)")
    if missing:
        yield f"Not there: {', '.join(missing)}.\n"
    if quick:
        yield f"**{QUICK}**\n"


def section(name: str, stage: dict) -> str:
    report = Report()
    report.rows = stage["rows"]
    said = "" if stage["ended"] == "complete" else f" **{stage['ended']}**"
    return f"### {name}\n\n{STAGES[name].says} {stage['seconds']:.0f} s.{said}\n\n{report.markdown()}"


if __name__ == "__main__":
    exit_with(main)
