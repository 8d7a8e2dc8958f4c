"""Evaluates binary codes: exhaustive Hamming search, recall@k."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

import functools
from collections.abc import Iterator
from pathlib import Path

from utils import cli
from utils.data import evaluated_listings, prepared
from utils.evaluation.evaluator import EvaluationOptions, Evaluator, ExtractedSet, Stage, bytes_read, hamming
from utils.evaluation.extraction import as_extractor
from utils.evaluation.results import write_evaluation
from utils.models import model_for_evaluation, said_of_cuts, taught_by
from utils.run import Run, exit_with


def retrieve(found: ExtractedSet, depth: int, *, code_bits: int | None = None) -> Iterator[Stage]:
    """Hamming distance of each query's code, or its first bits, to every one of the database; yields ids and distances
    in bits."""
    distances, ids = found.database.search_codes(found.codes, depth, bits=code_bits, device=found.device)
    yield ids, distances


def evaluator(options: EvaluationOptions, folder: Path | None = None, *, code_bits: int | None = None) -> Evaluator:
    """Extracts binary codes, retrieves, counts recall@k; called with a model and a data set."""
    return Evaluator(functools.partial(retrieve, code_bits=code_bits), hamming(code_bits), ("binary",), options, folder,
                     bytes_read=functools.partial(bytes_read, code_bits=code_bits))


def main(argv: list[str] | None = None) -> None:
    options = cli.evaluation(__doc__, argv, flags=("hashing",))
    listings = evaluated_listings(options.chosen, options.images)
    model, checkpoint = model_for_evaluation(options.model, branches=("binary",))
    warnings = said_of_cuts(checkpoint.config, code_bits=options.code_bits)
    options = options.fitted(model.config.vit.patch)
    dataset = prepared(listings, options.images)
    run = Run(options.run, model=model.config)

    evaluate = evaluator(options.evaluation, run.folder, code_bits=options.code_bits)
    evaluation = evaluate(as_extractor(model.to(options.device), taught=taught_by(checkpoint)), dataset)
    write_evaluation(run, evaluation, model, checkpoint, answers=options.answers, shown=options.shown,
                     warnings=warnings)


if __name__ == "__main__":
    exit_with(main)
