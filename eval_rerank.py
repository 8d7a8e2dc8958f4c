"""Evaluates two-stage retrieval: the top candidates by Hamming distance, re-ranked by L2; recall@k of both stages.

Or, by --code_bits, in three: by the first bits of the codes, the best by the whole codes, the best of these by L2.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

import functools
from collections.abc import Iterator
from pathlib import Path

from model import BRANCHES
from utils import cli
from utils.data import evaluated_listings, prepared
from utils.evaluation.evaluator import EvaluationOptions, Evaluator, ExtractedSet, Stage, bytes_read, hamming
from utils.evaluation.extraction import as_extractor
from utils.evaluation.results import write_evaluation
from utils.models import model_for_evaluation, said_of_cuts, taught_by
from utils.run import Run, exit_with


def retrieve(found: ExtractedSet, depth: int, *, rerank_num: int, code_bits: int | None = None, shortlist: int = 0
             ) -> Iterator[Stage]:
    """First by Hamming distance to every code of the database, or its first `code_bits`, then the best `shortlist`, if
    any, by that of whole codes, then the best `rerank_num` by L2 distance to their float descriptors; yields ids and
    distances of each stage."""
    bits, candidates = found.database.search_codes(found.codes, max(depth, rerank_num, shortlist), bits=code_bits,
                                                   device=found.device)
    yield candidates, bits
    if shortlist:
        candidates, bits = found.database.rerank_codes(found.codes, candidates, shortlist)
        yield candidates, bits
    yield found.database.rerank(found.floats, candidates, rerank_num, device=found.device)


def evaluator(options: EvaluationOptions, folder: Path | None = None, *, rerank_num: int, code_bits: int | None = None,
              shortlist: int = 0) -> Evaluator:
    """Extracts both kinds of descriptors, retrieves, counts recall@k; called with a model and a data set."""
    stages = {"rerank_num": rerank_num, "code_bits": code_bits, "shortlist": shortlist}
    by_codes = f"{hamming(code_bits)} top {shortlist}, then {hamming()}" if shortlist else hamming(code_bits)
    return Evaluator(functools.partial(retrieve, **stages), f"{by_codes} top {rerank_num}, then L2", BRANCHES, options,
                     folder, first_protocol=hamming(code_bits), bytes_read=functools.partial(bytes_read, **stages))


def main(argv: list[str] | None = None) -> None:
    options = cli.evaluation(__doc__, argv, flags=("hashing", "rerank"))
    listings = evaluated_listings(options.chosen, options.images)
    model, checkpoint = model_for_evaluation(options.model, branches=BRANCHES)
    warnings = said_of_cuts(checkpoint.config, code_bits=options.code_bits, float_dim=options.model.float_dim)
    options = options.fitted(model.config.vit.patch)
    dataset = prepared(listings, options.images)
    run = Run(options.run, model=model.config)

    evaluate = evaluator(options.evaluation, run.folder, rerank_num=options.rerank_num, code_bits=options.code_bits,
                         shortlist=options.shortlist)
    taught = taught_by(checkpoint, options.model.float_dim)
    evaluation = evaluate(as_extractor(model.to(options.device), taught=taught), dataset)
    write_evaluation(run, evaluation, model, checkpoint, answers=options.answers, shown=options.shown,
                     warnings=warnings)


if __name__ == "__main__":
    exit_with(main)
