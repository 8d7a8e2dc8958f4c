"""Two-stage retrieval with several numbers of re-ranked candidates from one extraction (Table X)."""

import argparse
import functools
import logging
from collections.abc import Iterator

from eval_rerank import retrieve
from model import BRANCHES
from utils import cli
from utils.data import evaluated_set
from utils.evaluation.evaluator import Evaluation, Evaluator, ExtractedSet, Stage, search
from utils.models import model_for_evaluation
from utils.run import Run, exit_with

log = logging.getLogger("selavprpp")
FLAGS = ("hashing", "rerank")


def parser() -> argparse.ArgumentParser:
    """The options of eval_rerank.py, and --depths."""
    options = cli.evaluation_parser(__doc__, flags=FLAGS)
    options.add_argument("--depths", type=int, nargs="+", default=[20, 50, 100, 200], metavar="N",
                         help="numbers of candidates; --rerank_num has no effect")
    return options


def main(argv: list[str] | None = None) -> None:
    options = cli.evaluation(__doc__, argv, flags=FLAGS, parser=parser())
    depths = options.run.options["depths"]
    if min(depths) < 1:
        raise ValueError(f"--depths {min(depths)}: expected numbers of at least 1")
    dataset = evaluated_set(options.chosen, options.images)
    model, checkpoint = model_for_evaluation(options.model, branches=BRANCHES)
    run = Run(options.run, model=model.config)
    found: dict[str, Evaluation] = {}

    def at_every_depth(extracted: ExtractedSet, k: int) -> Iterator[Stage]:
        for depth in depths:
            found[str(depth)] = search(
                functools.partial(retrieve, rerank_num=depth), extracted, dataset.listing,
                protocol=f"Hamming top {depth}, then L2", recall_values=options.evaluation.recall_values)
        yield from retrieve(extracted, k, rerank_num=max(depths))

    Evaluator(at_every_depth, f"Hamming top {max(depths)}, then L2", BRANCHES, options.evaluation, run.folder)(
        model.to(options.device), dataset)
    listing = dataset.listing
    for evaluation in found.values():
        log.info("%s, %s: %s", listing.label, evaluation.protocol,
                 ", ".join(f"R@{k}: {value:.1f}" for k, value in evaluation.recalls()["final"].items()))
    run.write_results({
        "dataset": listing.name, "split": listing.split, "n_database": listing.n_database,
        "n_queries": listing.n_queries, "threshold_m": listing.threshold_m, "checkpoint": str(checkpoint.source),
        "recalls": {depth: evaluation.recalls()["final"] for depth, evaluation in found.items()},
        "rerank_latency_ms": {depth: evaluation.latency_ms["rerank"] for depth, evaluation in found.items()},
        "options": run.options})


if __name__ == "__main__":
    exit_with(main)
