"""Descriptors of a small set, made up or by a model, as the evaluation searches them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

import eval as eval_float  # `eval` is a builtin
import eval_hashing
import eval_rerank
from utils.evaluation.evaluator import Evaluation, EvaluationOptions, Evaluator, ExtractedSet
from utils.evaluation.evaluator import search as search_by
from utils.evaluation.extraction import extract
from utils.search import ModelIdentity, TwoStageIndex


class Rows(NamedTuple):
    """Of all images, database first, then queries; None: that branch is not there."""

    codes: np.ndarray | None
    floating: np.ndarray | None


def searchable(folder: Path, rows: Rows, n_database: int) -> ExtractedSet:
    """An index in a new folder inside `folder`, and the queries."""
    database, queries = ([None if part is None else part[of] for part in rows]
                         for of in (slice(n_database), slice(n_database, None)))
    number = len(list(folder.glob("index*"))) if folder.is_dir() else 0
    index = TwoStageIndex.build(folder / f"index{number}", model=ModelIdentity("", "made up"), codes=database[0],
                                floats=database[1], names=map(str, range(n_database)))
    return ExtractedSet(index, *queries)


def evaluator_of(mode: str, rerank_num: int = 100, **options) -> Evaluator:
    """That of eval.py ("float"), eval_hashing.py ("hashing") or eval_rerank.py ("rerank")."""
    chosen = EvaluationOptions(**options)
    if mode == "rerank":
        return eval_rerank.evaluator(chosen, rerank_num=rerank_num)
    return {"float": eval_float, "hashing": eval_hashing}[mode].evaluator(chosen)


def search(found: ExtractedSet, listing, *, mode: str, recall_values, rerank_num: int = 100) -> Evaluation:
    evaluator = evaluator_of(mode, rerank_num)
    return search_by(evaluator.retrieve, found, listing, protocol=evaluator.protocol, recall_values=recall_values)


def extract_rows(model, dataset, folder: Path, *, branches, batch_size, num_workers=0, **options) -> Rows:
    """What `extract` leaves in a folder."""
    found = extract(model, dataset, folder, branches=branches, batch_size=batch_size, num_workers=num_workers,
                    **options)
    sides = [index.rows(range(len(index))) for index in (found.database, found.queries)]
    return Rows(*(None if parts[0] is None else np.concatenate(parts) for parts in zip(*sides, strict=True)))
