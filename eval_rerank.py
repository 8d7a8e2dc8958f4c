"""Evaluates two-stage retrieval: the top candidates by Hamming distance, re-ranked by L2; recall@k of both stages."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

import functools
from collections.abc import Iterator
from pathlib import Path

from model import BRANCHES
from utils import cli
from utils.data import evaluated_listings, prepared
from utils.evaluation.evaluator import EvaluationOptions, Evaluator, ExtractedSet, Stage
from utils.evaluation.extraction import as_extractor
from utils.evaluation.results import write_evaluation
from utils.models import model_for_evaluation, taught_by
from utils.run import Run, exit_with


def retrieve(found: ExtractedSet, depth: int, *, rerank_num: int) -> Iterator[Stage]:
    """First by Hamming distance to every code of the database, then the best `rerank_num` by L2 distance to their float
    descriptors; yields ids and distances of both stages."""
    bits, candidates = found.database.search_codes(found.codes, max(depth, rerank_num), device=found.device)
    yield candidates, bits
    yield found.database.rerank(found.floats, candidates, rerank_num, device=found.device)


def evaluator(options: EvaluationOptions, folder: Path | None = None, *, rerank_num: int) -> Evaluator:
    """Extracts both kinds of descriptors, retrieves, counts recall@k; called with a model and a data set."""
    two_stages = functools.partial(retrieve, rerank_num=rerank_num)
    return Evaluator(two_stages, f"Hamming top {rerank_num}, then L2", BRANCHES, options, folder)


def main(argv: list[str] | None = None) -> None:
    options = cli.evaluation(__doc__, argv, flags=("hashing", "rerank"))
    listings = evaluated_listings(options.chosen, options.images)
    model, checkpoint = model_for_evaluation(options.model, branches=BRANCHES)
    options = options.fitted(model.config.vit.patch)
    dataset = prepared(listings, options.images)
    run = Run(options.run, model=model.config)

    evaluate = evaluator(options.evaluation, run.folder, rerank_num=options.rerank_num)
    evaluation = evaluate(as_extractor(model.to(options.device), taught=taught_by(checkpoint)), dataset)
    write_evaluation(run, evaluation, model, checkpoint, answers=options.answers, shown=options.shown)


if __name__ == "__main__":
    exit_with(main)
