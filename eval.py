"""Evaluates float descriptors: exhaustive L2 search, recall@k."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

from collections.abc import Iterator
from pathlib import Path

from utils import cli
from utils.data import evaluated_listings, prepared
from utils.evaluation.evaluator import EvaluationOptions, Evaluator, ExtractedSet, Stage, bytes_read
from utils.evaluation.extraction import as_extractor
from utils.evaluation.results import write_evaluation
from utils.hub import hub_model
from utils.models import model_for_evaluation, said_of_cuts, taught_by
from utils.run import Run, exit_with


def retrieve(found: ExtractedSet, depth: int) -> Iterator[Stage]:
    """L2 distance of each query's float descriptor to every one of the database; yields ids and squared distances."""
    distances, ids = found.database.search_floats(found.floats, depth, device=found.device)
    yield ids, distances


def evaluator(options: EvaluationOptions, folder: Path | None = None) -> Evaluator:
    """Extracts float descriptors, retrieves, counts recall@k; called with a model and a data set."""
    return Evaluator(retrieve, "flat L2", ("float",), options, folder,
                     bytes_read=lambda database: bytes_read(database, code_bits=0, rerank_num=len(database)))


def main(argv: list[str] | None = None) -> None:
    options = cli.evaluation(__doc__, argv)
    listings, warnings = evaluated_listings(options.chosen, options.images), []
    if options.hub is None:
        model, checkpoint = model_for_evaluation(options.model, branches=("float",))
        warnings = said_of_cuts(checkpoint.config, float_dim=options.model.float_dim)
        options = options.fitted(model.config.vit.patch)
        dataset = prepared(listings, options.images)
    else:  # somebody else's, tried on images of the set
        dataset = prepared(listings, options.images)
        model, checkpoint = hub_model(options.hub, dataset, device=options.device,
                                      batch_size=options.evaluation.batch_size)
    run = Run(options.run, model=model.config)

    evaluate = evaluator(options.evaluation, run.folder)
    taught = taught_by(checkpoint, options.model.float_dim)
    evaluation = evaluate(as_extractor(model.to(options.device), taught=taught), dataset)
    write_evaluation(run, evaluation, model, checkpoint, answers=options.answers, shown=options.shown,
                     warnings=warnings)


if __name__ == "__main__":
    exit_with(main)
