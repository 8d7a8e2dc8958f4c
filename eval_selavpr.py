"""Evaluates SelaVPR: the top candidates by L2 between global descriptors, re-ranked by mutual nearest neighbours of
local features; recall@k of both stages."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from datasets import BenchmarkDataset
from model import SelaVPR
from utils import cli
from utils.data import evaluated_listings, prepared
from utils.evaluation.evaluator import Evaluation, EvaluationOptions, Evaluator, ExtractedSet, Stage
from utils.evaluation.results import write_evaluation
from utils.run import Run, exit_with
from utils.selavpr.local import LocalOptions, LocalSet, SelaVPRExtractor, local_set, rerank_by_local_features
from utils.selavpr.models import selavpr_for_evaluation


def retrieve(found: ExtractedSet, depth: int, *, features: LocalSet, local: LocalOptions) -> Iterator[Stage]:
    """First by L2 to every global descriptor of the database, then the best `rerank_num` by how many local features are
    mutual nearest neighbours; yields ids and squared distances, then ids and counts."""
    squared, candidates = found.database.search_floats(found.floats, max(depth, local.rerank_num), device=found.device)
    yield candidates, squared
    yield rerank_by_local_features(features, candidates, squared, local, device=found.device)


@dataclasses.dataclass(frozen=True)
class LocalEvaluator:
    """Extracts global descriptors and local features, retrieves, counts recall@k; called with a model and a set."""

    options: EvaluationOptions
    local: LocalOptions
    folder: Path

    def __call__(self, model: SelaVPR | SelaVPRExtractor, dataset: BenchmarkDataset) -> Evaluation:
        extractor = SelaVPRExtractor(model) if isinstance(model, SelaVPR) else model
        options, local = self.options, self.local
        with local_set(extractor, dataset, folder=options.index or self.folder, keep=options.index is not None,
                       recompute=local.recompute, batch_size=options.batch_size, num_workers=options.num_workers,
                       precision=options.precision) as features:
            two_stages = functools.partial(retrieve, features=features, local=local)
            evaluate = Evaluator(two_stages, f"L2 top {local.rerank_num}, then mutual neighbours", ("float",), options,
                                 self.folder, first_protocol="L2", reranked_by="mutual neighbours")
            found = evaluate(extractor, dataset)
        return dataclasses.replace(found, bytes_per_image={**found.bytes_per_image, "local": features.bytes_per_image})


def main(argv: list[str] | None = None) -> None:
    options = cli.selavpr_evaluation(__doc__, argv)
    listing, *_ = evaluated_listings(options.chosen, options.images)
    model, checkpoint = selavpr_for_evaluation(options.model)
    options = options.fitted(model.config.vit.patch)
    dataset = prepared([listing], options.images)
    run = Run(options.run, model=model.config)

    extractor = SelaVPRExtractor(model.to(options.device))
    evaluation = LocalEvaluator(options.evaluation, options.local, run.folder)(extractor, dataset)
    write_evaluation(run, evaluation, extractor, checkpoint, shown=options.shown)


if __name__ == "__main__":
    exit_with(main)
