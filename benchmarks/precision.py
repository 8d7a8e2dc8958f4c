"""What precision and store change in the recalls: `python -m benchmarks.precision --set MODEL FOLDER SIZE ...`.

Each --set names a trained two-branch model, a folder in the benchmark layout (its test split) and the side of the
images in pixels; give as many as there are. Every combination is evaluated beside the exact one: how many queries
more or fewer find a right image at k = 1, 5, 10 in either stage, and how many change at all. Prints the table and
writes it into precision.md, with all that was found in precision.json.
"""

import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from datasets import nearest_multiple, read_folder
from eval_rerank import evaluator
from model import load_model
from utils.data import as_dataset
from utils.device import PRECISIONS
from utils.evaluation.evaluator import Evaluation, EvaluationOptions
from utils.evaluation.metrics import correctness
from utils.run import exit_with
from utils.search.stores import STORES

from . import report

RECALLS = (1, 5, 10)
EXACT = ("fp32", "fp32")
CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> None:
    parser = report.command_parser(__spec__.name, __doc__)
    parser.add_argument("--set", nargs=3, action="append", required=True, metavar=("MODEL", "FOLDER", "SIZE"),
                        help="a model file, a benchmark folder and a side in pixels")
    args = parser.parse_args(argv)
    wrong = [size for *_, size in args.set if not size.isdecimal() or size == "0"]
    if wrong:
        parser.error(f"SIZE {wrong[0]}: expected a number of pixels")
    started = time.perf_counter()
    found = [measure(Path(model), Path(folder), int(size)) for model, folder, size in args.set]
    print(table(found))
    report.write_section(args.out / "precision.md", table(found), {"sets": found}, device=CPU,
                         seconds=time.perf_counter() - started)


def measure(model_file: Path, folder: Path, side: int, *, device: torch.device = CPU) -> dict:
    """{"set", "queries", "recalls" of the exact evaluation, "changes": {"bf16, int8": {...}}} of one model and set."""
    model = load_model(model_file).to(device)
    dataset = as_dataset(read_folder(folder.parent, folder.name, split="test"),
                         size=nearest_multiple((side, side), model.config.vit.patch))
    with tempfile.TemporaryDirectory() as scratch:
        evaluations = {}
        # fp16 is a GPU's: processors compute it slowly, or not at all.
        for precision, store in product(PRECISIONS if device.type == "cuda" else ("bf16", "fp32"), STORES):
            options = EvaluationOptions(recall_values=RECALLS, batch_size=64, precision=precision, store=store,
                                        device=device)
            evaluations[precision, store] = evaluator(options, Path(scratch), rerank_num=100)(model, dataset)
    exact = evaluations.pop(EXACT)
    return {"set": dataset.listing.label, "queries": dataset.n_queries, "database": dataset.n_database,
            "recalls": exact.recalls(),
            "changes": {", ".join(name): change(exact, other) for name, other in evaluations.items()}}


def change(exact: Evaluation, other: Evaluation) -> dict:
    """By stage: the largest net change over k, in queries; queries right at some k in one and not in the other; the
    share of queries whose first answer is another image; and what the extraction itself said of its rounding."""
    found = {"rounding": other.extraction["rounding"]}
    for stage, before, after in (("first_stage", exact.first, other.first), ("final", exact.final, other.final)):
        ranks = np.minimum(RECALLS, before.shape[1]) - 1
        right = [np.logical_or.accumulate(correctness(ids, exact.listing.positives), axis=1)[:, ranks]
                 for ids in (before, after)]
        net = right[1].sum(axis=0) - right[0].sum(axis=0)
        found[stage] = {"net": int(net[np.abs(net).argmax()]), "queries": int((right[0] != right[1]).any(axis=1).sum()),
                        "other_answer_percent": 100 * float((before[:, 0] != after[:, 0]).mean())}
    return found


def table(found: list[dict]) -> str:
    rows = []
    for one in found:
        for name, values in one["changes"].items():
            first, final, rounding = values["first_stage"], values["final"], values["rounding"]
            rows.append((f"{one['set']} ({one['queries']})", name, f"{first['net']:+d}, {first['queries']}",
                         f"{final['net']:+d}, {final['queries']}", f"{final['other_answer_percent']:.1f} %",
                         f"{rounding['least_cosine']:.6f}", f"{rounding['bits_changed_percent']:.2f} %"))
    return report.table(("set (queries)", "precision, store", "first stage: net, queries", "final: net, queries",
                         "other first answer", "least cosine", "bits changed"), rows, figures=5)


if __name__ == "__main__":
    exit_with(main)
