"""Images a second of a teacher and of smaller students on one thread of a processor: `python -m benchmarks.student`.

Both branches, by `fast_inference`, images in memory, all models alternately in one process. Weights are random and
seeded. Time is the processor's, so that other programs on the machine count little. Writes student.md.
"""

import time

import torch

from model import ModelConfig, build_model, fast_inference
from utils.device import best_precision
from utils.run import exit_with

from .report import TYPES, Report, command_parser

TEACHER = ("dinov2-base", "all", 322)  # backbone, placement, side of its images
STUDENTS = (("dinov2-small", "all", 322), ("dinov2-small", "last:4", 322), ("dinov2-small", "all", 224),
            ("deit-tiny", "all", 320), ("deit-tiny", "all", 224))
BATCH, GOAL = 2, 4.0  # images; times the teacher's images a second


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__spec__.name, __doc__)
    parser.add_argument("--repeats", type=int, default=7, help="of each model, in turn")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = Report()
    measure(report, repeats=args.repeats)
    report.write(args.out / "student.md", torch.device("cpu"))


def measure(report: Report, *, repeats: int) -> None:
    """Adds a row for each model, in fp32 and, where the processor multiplies it natively, in bf16."""
    native = best_precision(torch.device("cpu"))
    for precision in [name for name in TYPES if name in ("fp32", native)]:
        runs = {}
        for backbone, placement, side in (TEACHER, *STUDENTS):
            model = build_model(ModelConfig(backbone=backbone, placement=placement), seed=0)
            network = fast_inference(model, dtype=TYPES[precision])
            images = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(0))
            name = f"{backbone} {side}x{side}, adapters {placement}"
            runs[name] = lambda network=network, images=images: network(images)
        seconds = report.medians(precision, runs, repeats=repeats, clock=time.process_time)
        teachers = seconds[next(iter(runs))]
        for number, (name, taken) in enumerate(seconds.items()):
            goal = {"goal": f">= {GOAL:.0f} x", "met": teachers / taken >= GOAL} if number else {}
            report.add(f"{name}, {precision}", f"{BATCH / taken:.2f} images/s", f"{teachers / taken:.1f} x", **goal)


if __name__ == "__main__":
    exit_with(main)
