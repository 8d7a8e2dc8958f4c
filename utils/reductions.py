"""What the reductions of a model file hold: `python -m utils.reductions FILE [FILE ...]`.

The 1x1 convolutions before the 3x3 and 5x5 of every MultiConv adapter start, as published, with all rows equal, and in
exact arithmetic keep them so: their channels then act as one. Where rows differ, rounding or another start told them
apart. A FILE is a model of this project or a published one.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from model import Checkpoint

from .errors import Parser
from .files import checked_file, write_json
from .models import read_model
from .run import exit_with

KERNELS = ("3x3", "5x5")  # behind the two reductions of an adapter
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Reduction:
    """One reduction, whose weight is a matrix with a row for each channel.

    block           the backbone's block, from 1, whose tokens the adapter takes
    before          the kernel that it serves
    shape           channels, inputs
    distinct        rows that differ in any value
    distinct_close  rows of which no two are within TOLERANCE of the largest value, chosen from the first row on
    largest         the largest singular value
    second          the second over the largest; 0 where all are 0
    effective_rank  exp of the entropy of the singular values over their sum (Roy and Vetterli, EUSIPCO 2007); or 0
    """

    branch: str
    block: int
    before: str
    shape: tuple[int, int]
    distinct: int
    distinct_close: int
    largest: float
    second: float
    effective_rank: float


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.reductions", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="model file, ours or published")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same numbers there as well")
    args = parser.parse_args(argv)
    if args.json is not None:
        checked_file(args.json, "--json")
    found = {}
    for path in args.files:
        found[str(path)] = measured = list(reductions(read_model(path)))
        print(f"{path}\n{format_reductions(measured)}\n", flush=True)
    if args.json is not None:
        write_json({path: [dataclasses.asdict(reduction) for reduction in measured]
                    for path, measured in found.items()}, args.json)


def reductions(checkpoint: Checkpoint) -> Iterator[Reduction]:
    """Of each branch, block by block. ValueError where the model has no MultiConv adapters, or lacks one of their
    weights, or where one is not finite."""
    config = checkpoint.config
    if config.adapter != "multiconv" or not config.taps:
        raise ValueError(f"{checkpoint.source}: no MultiConv adapter in it (placement {config.placement!r}, adapter "
                         f"{config.adapter!r}); expected a model with them")
    for branch in config.branches:
        for number, block in enumerate(config.taps):
            for kernel in KERNELS:
                name = f"{branch}_branch.side.adapters.{number}.reduce{kernel}.conv.weight"
                weight = checkpoint.state_dict.get(name)
                if weight is None or not weight.isfinite().all():
                    raise ValueError(f"{checkpoint.source}: {name} is {'missing' if weight is None else 'not finite'}; "
                                     "expected a whole model with MultiConv adapters")
                yield measure(weight.flatten(1), branch=branch, block=block, before=kernel)


def measure(weight: Tensor, *, branch: str, block: int, before: str) -> Reduction:
    """Of a weight (channels, inputs) of any floating type; in float64."""
    weight = weight.double()
    singular = torch.linalg.svdvals(weight)
    largest, shares = singular[0].item(), singular / singular.sum()
    return Reduction(
        branch=branch, block=block, before=before, shape=(weight.shape[0], weight.shape[1]),
        distinct=len(weight.unique(dim=0)), distinct_close=_distinct(weight, TOLERANCE * weight.abs().max()),
        largest=largest, second=(singular[1] / largest).item() if largest and len(singular) > 1 else 0.0,
        effective_rank=torch.special.entr(shares).sum().exp().item() if largest else 0.0)


def _distinct(rows: Tensor, within: Tensor) -> int:
    kept: list[Tensor] = []
    for row in rows:
        if all((row - other).abs().max() > within for other in kept):
            kept.append(row)
    return len(kept)


def format_reductions(found: list[Reduction]) -> str:
    """Markdown table, and a sentence for each branch."""
    lines = ["| branch | block | before |   shape | distinct rows | 1e-6 apart | largest | 2nd / largest | eff. rank |",
             "|--------|------:|--------|--------:|--------------:|-----------:|--------:|--------------:|----------:|"]
    for one in found:
        lines.append(f"| {one.branch:6} | {one.block:5} | {one.before:6} | {'x'.join(map(str, one.shape)):>7} | "
                     f"{one.distinct:13} | {one.distinct_close:10} | {one.largest:7.1e} | {one.second:13.1e} | "
                     f"{one.effective_rank:9.2f} |")
    branches = dict.fromkeys(one.branch for one in found)
    return "\n".join([*lines, "", *(summary(branch, [one for one in found if one.branch == branch])
                                    for branch in branches)])


def summary(branch: str, found: list[Reduction]) -> str:
    """A branch in a line."""
    channels = sum(one.shape[0] for one in found)
    equal = sum(one.distinct == 1 for one in found)
    return (f"{branch}: {len(found)} reductions of {channels} channels in all, {sum(one.distinct for one in found)} "
            f"distinct, {sum(one.distinct_close for one in found)} of them 1e-6 apart; all rows equal in {equal}; "
            f"effective rank {min(one.effective_rank for one in found):.2f} to "
            f"{max(one.effective_rank for one in found):.2f}")


if __name__ == "__main__":
    exit_with(main)
