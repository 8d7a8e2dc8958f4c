"""What an evaluation leaves in the run folder: results.json, predictions.npz, answers, official prediction files, and
what one looks at: a report, panels."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets import check_predictions, image_key, write_predictions
from model import Checkpoint, SelaVPRpp

from ..errors import named
from ..files import temporary_path
from ..hub import HubModel, HubOrigin
from ..ranks import is_first
from ..report import write_report
from ..run import Run, hardware, versions
from .answers import write_answers
from .evaluator import KEPT_PREDICTIONS, Evaluation
from .extraction import as_extractor
from .metrics import correctness
from .panels import write_panels

log = logging.getLogger("selavprpp")
OFFICIAL_DEPTH = 20  # predictions of a query that MSLS's evaluation needs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownOptions:
    """What an evaluation draws of its results.

    report      whether it writes report.html
    panels      how many predictions a query's panel shows; 0: no panels
    only_wrong  panels only of queries whose first prediction is wrong
    """

    report: bool = False
    panels: int = 0
    only_wrong: bool = False


def write_evaluation(run: Run, evaluation: Evaluation, model: SelaVPRpp | HubModel, checkpoint: Checkpoint | HubOrigin,
                     *, training: dict | None = None, answers: int | None = None,
                     shown: ShownOptions = ShownOptions(), warnings: Sequence[str] = ()) -> None:
    """Writes results.json (schema 2) and predictions.npz into the run folder; of several processes, the first.

    checkpoint  where the model comes from; its weights are not read
    training    what the model's training cost, where this run trained it
    warnings    what a reader of the figures should know, beside what the set and the model tell
    answers     how many of each query to write into answers.csv and answers.json; None: no such files
    """
    if not is_first():
        return
    listing, extractor = evaluation.listing, as_extractor(model)
    _write_predictions(evaluation, run.folder / "predictions.npz")
    if answers:
        written = write_answers(run.folder, listing, evaluation.final, evaluation.final_distances, k=answers,
                                kind=evaluation.distance)
        log.info("answers: %s, %s", *written)
    if listing.protocol == "msls_test":
        _write_official(evaluation, run.folder / "msls_predictions.zip")
    run.write_results({
        "schema": 2,
        "dataset": listing.name,
        "split": listing.split,
        "folder": str(listing.folder.absolute()),
        "protocol": evaluation.protocol,
        "benchmark": {"protocol": listing.protocol, "rule": listing.rule, "files_sha256": listing.fingerprint(),
                      "warnings": [*listing.warnings, *extractor.warnings, *warnings]},
        "n_database": listing.n_database,
        "n_queries": listing.n_queries,
        "n_queries_without_positives": listing.n_unanswerable,
        "threshold_m": listing.threshold_m,
        "recalls": evaluation.recalls(),
        "recalls_answerable": evaluation.recalls(answerable_only=True),
        "parts": {part.listing.name: {"rule": part.listing.rule, "n_queries": part.listing.n_queries,
                                      "n_database": part.listing.n_database, "recalls": part.recalls()}
                  for part in evaluation.parts},
        "latency_ms": evaluation.latency_ms,
        "bytes_per_image": evaluation.bytes_per_image,
        "bytes_read_per_query": evaluation.bytes_read_per_query,
        "extraction": evaluation.extraction,
        "model": {**extractor.record, "pretrained": checkpoint.pretrained, "licence": checkpoint.licence,
                  "checkpoint": checkpoint.source, "trainings": checkpoint.trainings},
        "training": training,
        "options": {**run.options, "resize_antialias": True},
        "versions": versions(),
        "hardware": hardware(extractor.device),
    })
    if shown.report:
        log.info("report: %s", write_report([run.folder]))
    if shown.panels:
        write_panels(run.folder, evaluation, count=shown.panels, only_wrong=shown.only_wrong)


def _write_official(evaluation: Evaluation, path: Path) -> None:
    listing = evaluation.listing
    if evaluation.final.shape[1] < OFFICIAL_DEPTH:
        log.warning("no %s: %d predictions of a query, and its format asks for %d; the database is too small",
                    path.name, evaluation.final.shape[1], OFFICIAL_DEPTH)
        return
    queries, database = ([image_key(path) for path in paths] for paths in (
        listing.query_paths, listing.database_paths))
    write_predictions(path, queries,
                      [[database[i] for i in row] for row in evaluation.final[:, :OFFICIAL_DEPTH]])
    check_predictions(path, queries, database)
    log.info("predictions in the official format, checked: %s", path)


def _write_predictions(evaluation: Evaluation, path: Path) -> None:
    listing = evaluation.listing
    arrays = {f"{side}_names": np.array(listing.names(side)) for side in ("database", "query")}
    if listing.positives is not None:
        arrays["query_positives"] = np.array([len(ids) for ids in listing.positives])
    for side, metres in (("database", listing.database_utm), ("query", listing.query_utm)):
        if metres is not None:
            arrays[f"{side}_utm"] = metres
    for stage, ids, distances in (("first_stage", evaluation.first, evaluation.first_distances),
                                  ("final", evaluation.final, evaluation.final_distances)):
        if ids is not None:
            ids = ids[:, :KEPT_PREDICTIONS]
            arrays |= {f"{stage}_ids": ids, f"{stage}_distances": distances[:, :KEPT_PREDICTIONS]}
            if listing.positives is not None:
                arrays[f"{stage}_correct"] = correctness(ids, listing.positives)
    arrays |= evaluation.codes or {}
    with named(path), temporary_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
