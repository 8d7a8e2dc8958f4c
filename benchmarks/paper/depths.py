"""Two-stage retrieval with several numbers of re-ranked candidates from one extraction (Table X)."""

import argparse
import logging

from model import BRANCHES
from utils.cli import options as cli
from utils.data import evaluated_set
from utils.evaluation.evaluator import Evaluator, search
from utils.models import model_for_evaluation
from utils.run import Run, exit_with

log = logging.getLogger("selavprpp")


def parser() -> argparse.ArgumentParser:
    """The options of eval_rerank.py, and --depths."""
    options = cli.evaluation_parser(__doc__, mode="rerank")
    options.add_argument("--depths", type=int, nargs="+", default=[20, 50, 100, 200], metavar="N",
                         help="numbers of candidates; --rerank_num has no effect")
    return options


def main(argv: list[str] | None = None) -> None:
    options = parser()
    args = cli.parse(options, argv)
    if min(args.depths) < 1:
        options.error(f"--depths {min(args.depths)}: expected numbers of at least 1")
    dataset = evaluated_set(**cli.evaluated_options(args))
    model, checkpoint = model_for_evaluation(args.resume, **cli.model_flags(args), branches=BRANCHES)
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=model.config)
    evaluate = Evaluator(**cli.evaluation_options(args), **cli.descriptor_options(args), folder=run.folder)
    listing = dataset.listing
    with evaluate.described(model.to(args.device), dataset) as (described, _):
        found = {str(depth): search(described, listing, mode="rerank", recall_values=args.recall_values,
                                    rerank_num=depth) for depth in args.depths}
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
