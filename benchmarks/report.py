"""What every benchmark here shares: rows with goals, the samples behind them, a calibration, the writing of a page."""

import argparse
import contextlib
import datetime
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.device import PRECISIONS, synchronise
from utils.errors import Parser
from utils.files import temporary_path, write_json
from utils.run import hardware, versions

PROJECT = Path(__file__).resolve().parents[1]
PAGES, RESULTS = PROJECT / "docs" / "benchmarks", PROJECT / "benchmarks" / "results"
MIB = 2**20
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def command_parser(module: str, doc: str) -> argparse.ArgumentParser:
    """With --out, a folder that is made before the work, not after it; the text's first line is the description."""
    made = Parser(prog=f"python -m {module}", description=doc.splitlines()[0])
    made.add_argument("--out", type=new_folder, default=PAGES, help="folder of what is written (docs/benchmarks)")
    return made


def new_folder(path: str) -> Path:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: {error.strerror}; expected a folder, or a name for one") from None
    return Path(path)


def alternate(runs: dict[str, Callable[[], object]], *, repeats: int = 5,
              clock: Callable[[], float] = time.perf_counter,
              around: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
              ) -> dict[str, list[float]]:
    """Seconds of `repeats` calls of each, one after the other in turn, after one call of each that does not count.

    `around` gives, for a run's name, a context for its call whose own time does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            with around(name):
                started = clock()
                run()
                taken = clock() - started
            if turn:
                seconds[name].append(taken)
    return seconds


class Report:
    """Rows of (what, goal, measured, floor or comparison), and the samples behind them.

    kept  a .json that is written anew with every row, for a process that may not reach its end
    """

    def __init__(self, *, kept: Path | None = None):
        self.kept = kept
        self.rows: list[dict] = []
        self.samples: dict[str, list[float]] = {}
        self.started = time.perf_counter()

    def add(self, what: str, measured: str, beside: str = "", *, goal: str = "", met: bool | None = None) -> None:
        self.rows.append({"what": what, "goal": goal, "measured": measured, "beside": beside, "met": met})
        if self.kept:
            write_json({"rows": self.rows, "samples": self.samples}, self.kept)
        print(f"{what:66} {goal:>12} {measured:>14}  {beside}{'' if met is None else '  met' if met else '  MISSED'}",
              flush=True)

    def medians(self, name: str, runs: dict[str, Callable[[], object]], *, scale: float = 1.0, **options
                ) -> dict[str, float]:
        """Of `alternate`, whose `options` these are, in seconds times `scale`."""
        return self.keep(name, {key: [scale * seconds for seconds in values]
                                for key, values in alternate(runs, **options).items()})

    def per_query(self, name: str, calls: dict[str, Callable[[slice], object]], parts: Sequence[slice], *, repeats: int
                  ) -> dict[str, float]:
        """Medians, in milliseconds a query, of calls with each of `parts` of the queries, one after the other."""
        runs = {key: lambda call=call: [call(part) for part in parts] for key, call in calls.items()}
        n_queries = sum(part.stop - part.start for part in parts)
        return self.medians(name, runs, scale=1000 / n_queries, repeats=repeats)

    def keep(self, name: str, samples: dict[str, list[float]]) -> dict[str, float]:
        """Keeps the samples, and returns the median of each."""
        self.samples |= {f"{name}: {key}": values for key, values in samples.items()}
        return {key: statistics.median(values) for key, values in samples.items()}

    def cosine(self, what: str, a: Tensor, b: Tensor, beside: str = "the least") -> None:
        least = F.cosine_similarity(a, b, dim=-1).min().item()
        self.add(what, f"{least:.6f}", beside, goal=">= 0.999", met=least >= 0.999)

    def matrix_share(self, what: str, share: float, *, least: float | None) -> None:
        goal = {"goal": f">= {100 * least:.0f} %", "met": share >= least} if least else {}
        self.add(f"{what}, share of the matrix rate", f"{100 * share:.0f} %", **goal)

    def markdown(self) -> str:
        verdict = {None: "", True: "met", False: "**missed**"}
        return table(("what", "goal", "measured", "beside", "verdict"), ({**row, "met": verdict[row["met"]]}.values()
                                                                  for row in self.rows))

    def write(self, page: Path, device: torch.device) -> None:
        """Writes the rows, and every sample, as `write_section` does."""
        write_section(page, self.markdown(), {"rows": self.rows, "samples": self.samples}, device=device,
                      seconds=time.perf_counter() - self.started)


def calibrate(report: Report, device: torch.device) -> dict[str, float]:
    """FLOP/s of a fixed matrix product by precision (processors have no fp16), and bytes/s of a fixed copy."""
    side = 2048 if device.type == "cpu" else 8192
    runs: dict[str, Callable] = {}
    for name, dtype in (TYPES if device.type == "cpu" else PRECISIONS).items():
        a, b, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
        runs[name] = lambda a=a, b=b, out=out: (torch.mm(a, b, out=out), synchronise(device))
    if device.type == "cpu":  # the same by the library that does ours: where the processor is not Intel's, it is faster
        maps = torch.randn(1, side, side, 1).to(memory_format=torch.channels_last)
        weight = torch.randn(side, side, 1, 1)
        runs["convolution"] = lambda: F.conv2d(maps, weight)
    source, target = (torch.ones(64 * MIB, device=device) for _ in range(2))
    runs["copy"] = lambda: (target.copy_(source), synchronise(device))
    seconds = report.medians("calibration", runs, repeats=9)
    copied = 2 * source.nbytes / seconds.pop("copy")
    rates = {name: 2 * side**3 / taken for name, taken in seconds.items()}
    for name, rate in rates.items():
        what = "1x1 convolution (oneDNN), fp32" if name == "convolution" else name
        report.add(f"matrix product {side}^3, {what}", f"{rate / 1e9:.0f} GFLOP/s", "calibration")
    report.add("copy of 256 MiB", f"{copied / 1e9:.1f} GB/s", "calibration")
    return rates


def table(head: Sequence[str], rows: Iterable[Iterable[object]], *, figures: int = 0) -> str:
    """In Markdown; the last `figures` columns are set to the right."""
    ruler = ["---"] * (len(head) - figures) + ["---:"] * figures
    return "\n".join([f"| {' | '.join(head)} |", f"|{'|'.join(ruler)}|",
                      *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Random descriptors (n, dim) float32 of unit length."""
    rows = rng.standard_normal((n, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def words_under(page: Path, heading: str) -> str:
    """What a person wrote under a page's last heading, which a command that writes the page anew must keep; or ""."""
    return page.read_text().partition(heading)[2].strip() if page.is_file() else ""


def write_section(page: Path, text: str, found: dict, *, device: torch.device, seconds: float) -> None:
    """Replaces this hardware's section of a page by `text`, and its entry in the page's .json by `found`; both get the
    date, the hardware, the versions and how long it took. What else stands on the page stays."""
    name, known, date = machine(device), versions(), datetime.date.today().isoformat()
    write_json({**stored(page), name: {"date": date, "hardware": hardware(device), "versions": known,
                                       "seconds": seconds, **found}}, store_of(page))
    libraries = ", ".join(f"{library} {version}" for library, version in known.items()
                          if library in ("python", "torch") or library.startswith("faiss"))
    head, *sections = (page.read_text() if page.is_file() else f"# {page.stem}\n").split("\n## ")
    parts = [head, *(section for section in sections if not section.startswith(f"{name}\n")),
             f"{name}\n\n{date}; {libraries}; {seconds:.0f} s in all.\n\n{text}"]
    with temporary_path(page) as temporary:
        temporary.write_text("\n## ".join(part.rstrip("\n") + "\n" for part in parts))
    print(f"{seconds:.0f} s; written to {page} and {store_of(page)}", flush=True)


def machine(device: torch.device) -> str:
    """What a page's section of this hardware is called."""
    found = hardware(device)
    return found.get("gpu") or f"{found['cpu']}, {found['threads']} thread{'s' * (found['threads'] != 1)}"


def store_of(page: Path) -> Path:
    """The JSON of a page: in RESULTS for the project's own pages, else beside it."""
    return (RESULTS if page.resolve().parent == PAGES else page.parent) / f"{page.stem}.json"


def stored(page: Path) -> dict[str, dict]:
    """What a page's JSON holds, by machine."""
    store = store_of(page)
    return json.loads(store.read_text()) if store.is_file() else {}
