"""Evaluates binary codes: exhaustive Hamming search, recall@k."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

from collections.abc import Iterator
from pathlib import Path

from utils import cli
from utils.data import evaluated_listings, prepared
from utils.evaluation.evaluator import EvaluationOptions, Evaluator, ExtractedSet, Stage
from utils.evaluation.extraction import as_extractor
from utils.evaluation.results import write_evaluation
from utils.models import model_for_evaluation, taught_by
from utils.run import Run, exit_with


def retrieve(found: ExtractedSet, depth: int) -> Iterator[Stage]:
    """Hamming distance of each query's code to every one of the database; yields ids and distances in bits."""
    distances, ids = found.database.search_codes(found.codes, depth, device=found.device)
    yield ids, distances


def evaluator(options: EvaluationOptions, folder: Path | None = None) -> Evaluator:
    """Extracts binary codes, retrieves, counts recall@k; called with a model and a data set."""
    return Evaluator(retrieve, "Hamming", ("binary",), options, folder)


def main(argv: list[str] | None = None) -> None:
    options = cli.evaluation(__doc__, argv, flags=("hashing",))
    listings = evaluated_listings(options.chosen, options.images)
    model, checkpoint = model_for_evaluation(options.model, branches=("binary",))
    options = options.fitted(model.config.vit.patch)
    dataset = prepared(listings, options.images)
    run = Run(options.run, model=model.config)

    evaluate = evaluator(options.evaluation, run.folder)
    evaluation = evaluate(as_extractor(model.to(options.device), taught=taught_by(checkpoint)), dataset)
    write_evaluation(run, evaluation, model, checkpoint, answers=options.answers, shown=options.shown)


if __name__ == "__main__":
    exit_with(main)
