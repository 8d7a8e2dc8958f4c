"""What SelaVPR and both configurations of SelaVPR++ cost, at the paper's sizes: `python -m benchmarks.side_by_side`.

Random weights and images of 224 x 224: training steps by turns, and the memory of a step (utils/training/memory.py);
describing an image, searching 10,000 and re-ranking 100 (benchmarks/paper/latency.py); what lies on the disk.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import torch

from losses import batch_triplets, local_feature_loss, triplet_loss
from model import BACKBONES, ModelConfig, SelaVPRConfig, build_model, build_selavpr
from model.selavpr.network import LOCAL_DIM
from utils.run import exit_with
from utils.selavpr.training import losses_of
from utils.training.memory import step_memory

from .paper import latency
from .report import MIB, TYPES, Report, command_parser, table, write_section
from .training import SIZE, Step

CPU = torch.device("cpu")
TOGETHER = 16  # images of a step: the published batch of SelaVPR, 4 queries with a positive and two negatives each
PAPER_BATCH = 480  # of SelaVPR++: 120 places of 4 images
NEGATIVES, IMAGES_A_QUERY = 2, 4
DESCRIBED, DATABASE = 8, 10_000
CODE_BITS = 512


@dataclasses.dataclass(frozen=True)
class System:
    """A model by the name that Table IX gives it."""

    name: str
    backbone: str
    predecessor: bool = False

    def bytes_an_image(self, size: int) -> dict[str, int]:
        vit = BACKBONES[self.backbone]
        if not self.predecessor:
            return {"code": CODE_BITS // 8, "float32": 4 * vit.float_dim}
        side = 4 * (size // vit.patch) - 3
        return {"float32": 4 * vit.dim, "local features, float16": 2 * side**2 * LOCAL_DIM}

    def steps(self, size: int) -> dict[str, Callable[[], None]]:
        """Of training in bf16, each with TOGETHER images, by what of the model learns."""
        if self.predecessor:
            return {"the whole": PredecessorStep(self.backbone, size=size)}
        scripts = {f"{branch} branch": Step(self.backbone, script, TOGETHER, CPU, size=size)
                   for branch, script in (("float", "train"), ("binary", "train_rerank"))}
        return {name: functools.partial(in_epoch, step) for name, step in scripts.items()}

    def memory(self, images: int, size: int) -> tuple[float, float]:
        """MiB an image kept for the gradient, and the peak in GB, of a step in bf16; of SelaVPR++'s float branch."""
        with torch.device("meta"):  # no value is read
            model = (build_selavpr(SelaVPRConfig(backbone=self.backbone)) if self.predecessor else
                     build_model(ModelConfig(backbone=self.backbone, branches=("float",)))).train()
        own = {"forward": functools.partial(losses_of, triplets_per_image=NEGATIVES / IMAGES_A_QUERY)
               } if self.predecessor else {}
        found = step_memory(model, images=images, size=(size, size), dtype=torch.bfloat16, device=CPU, **own)
        return found.kept / images / MIB, found.peak / 1e9

    def describing(self, precision: str, images: int, size: int) -> Callable[[], object]:
        model = (build_selavpr(SelaVPRConfig(backbone=self.backbone), seed=0) if self.predecessor else
                 build_model(ModelConfig(backbone=self.backbone), seed=0)).eval()
        batch, dtype = torch.rand(images, 3, size, size), TYPES[precision]

        @torch.inference_mode()
        def describe() -> None:
            with model.backbone.rounded(dtype), torch.autocast("cpu", dtype, enabled=precision != "fp32"):
                model(batch)

        return describe


SYSTEMS = (System("SelaVPR", "dinov2-large", predecessor=True), System("SelaVPR++ (resource)", "dinov2-base"),
           System("SelaVPR++ (performance)", "dinov2-large"))


def in_epoch(step: Step) -> None:
    with step.prepared("ours bf16"):
        step("ours", "bf16")


class PredecessorStep:
    """A training step of SelaVPR without the optimiser, on images in memory, among places of IMAGES_A_QUERY images."""

    def __init__(self, backbone: str, *, size: int):
        self.model = build_selavpr(SelaVPRConfig(backbone=backbone), seed=0).train()
        self.images = torch.randn(TOGETHER, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.labels = torch.arange(TOGETHER) // IMAGES_A_QUERY

    def __call__(self) -> None:
        self.model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            found = self.model(self.images)
        rows = batch_triplets(found.floating, self.labels, negatives=NEGATIVES).T
        loss = (triplet_loss(*(found.floating[some] for some in rows))
                + local_feature_loss(*(found.local[some] for some in rows)))
        loss.backward()


def main(argv: list[str] | None = None) -> None:
    args = command_parser(__spec__.name, __doc__).parse_args(argv)
    started = time.perf_counter()
    found = measure(SYSTEMS, size=SIZE, database=DATABASE, local_side=latency.LOCAL_SIDE, repeats=3)
    write_section(args.out / "side_by_side.md", columns(found), found, device=CPU,
                  seconds=time.perf_counter() - started)


def measure(systems: tuple[System, ...], *, size: int, database: int, local_side: int, repeats: int) -> dict:
    """-> {"systems": {name: {what: text}}, "samples"}; each thing is measured of all systems in turn."""
    report = Report()
    rows: dict[str, dict[str, str]] = {one.name: {"backbone": one.backbone} for one in systems}
    for one in systems:
        for images in (TOGETHER, PAPER_BATCH):
            kept, peak = one.memory(images, size)
            rows[one.name][f"training, peak of {images} images, bf16"] = f"{peak:.1f} GB"
        rows[one.name]["training, kept for the gradient, bf16"] = f"{kept:.2f} MiB an image"
    steps = {f"{one.name}: {part}": step for one in systems for part, step in one.steps(size).items()}
    seconds = report.medians("training step", steps, repeats=repeats)
    for one in systems:
        rows[one.name][f"training, steps of {TOGETHER} images, bf16"] = "; ".join(
            f"{name.partition(': ')[2]} {TOGETHER / taken:.1f} images/s" for name, taken in seconds.items()
            if name.partition(": ")[0] == one.name)
    del steps
    for precision in TYPES:
        for images, what in ((DESCRIBED, "describing, {} together"), (1, "describing a query")):
            calls = {one.name: one.describing(precision, images, size) for one in systems}
            for name, taken in report.medians(f"{what} {precision}", calls, repeats=repeats).items():
                rows[name][f"{what.format(images)}, {precision}"] = (
                    f"{images / taken:.1f} images/s" if images > 1 else f"{1000 * taken:.0f} ms")
    searched = latency.measure(database, 20, 1, local_side=local_side)["methods"]  # a turn of 20 queries
    for one in systems:
        ms, stored = searched[one.name]["one"], one.bytes_an_image(size)
        rows[one.name] |= {
            f"searching {database:,} images, one thread": f"{ms['initial']:.2f} ms a query",
            f"re-ranking {latency.CANDIDATES}, one thread": f"{ms['rerank']:.2f} ms a query",
            "on the disk": f"{sum(stored.values()):,} bytes an image ("
                           + ", ".join(f"{name} {size:,}" for name, size in stored.items()) + ")"}
    return {"systems": rows, "samples": report.samples}


def columns(found: dict) -> str:
    """The table: a column for each system."""
    rows = found["systems"]
    first = next(iter(rows.values()))
    return table(("what", *rows), [(what, *(row[what] for row in rows.values())) for what in first],
                 figures=len(rows))


if __name__ == "__main__":
    exit_with(main)
