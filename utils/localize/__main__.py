"""Where was this photograph taken? A map answers.

    python -m utils.localize INDEX IMAGE...            where each was taken; the same as `query INDEX IMAGE...`
    python -m utils.localize build INDEX FOLDER        makes a map of all images in a folder and below
    python -m utils.localize add INDEX IMAGE...        adds images, or all in a folder and below
    python -m utils.localize remove INDEX NAME...      removes images, by name or path

INDEX is a folder; --index of the eval scripts leaves one too. `<command> --help` lists the options.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = ("query", "build", "add", "remove")


def main(argv: Sequence[str] | None = None) -> None:
    given = _parsed([*(sys.argv[1:] if argv is None else argv)])
    from ..run import start_log

    start_log()
    {"query": _query, "build": _build, "add": _add, "remove": _remove}[given.command](given)


def _query(given: argparse.Namespace) -> None:
    import json

    from datasets import own_pictures

    from ..errors import named
    from ..models import said_of_cuts
    from .answers import ByCodes, answers, ask, fitted_for, in_words, write_panels
    from .maps import folder_of, log, opened

    paths = own_pictures(given.images, located=False).paths if given.images else []
    index, eye = opened(given.index, _model(given), device=given.device)
    if given.code_bits is not None and index.shape.code_bytes is None:
        raise ValueError(f"--code_bits {given.code_bits}: {index.folder} has no codes; leave it out")
    by = ByCodes(given.code_bits, given.shortlist)
    said_of_cuts(eye.extractor.model.config, code_bits=by.bits)
    if given.fit_confidence is not None:
        from .labelled import fit_confidence

        fitted = fit_confidence(index, eye, given.fit_confidence, coordinates=given.coordinates,
                                threshold_m=given.val_positive_dist_threshold, risk=given.false_discoveries, by=by)
        told = fitted.fitted_on
        log.info("confidence fitted on %d queries, %d of them answered right", told["queries"], told["right"])
        if fitted.threshold is None:
            log.warning("no threshold: %d queries are too few, or too often wrong, to say that at most %g %% of the "
                        "answers above one are wrong; give more, or a larger --false_discoveries",
                        told["queries"], 100 * fitted.risk)
        else:
            log.info("of answers with a confidence of at least %.3f at most %g %% are wrong, with probability %g, for "
                     "queries drawn like these", fitted.threshold, 100 * fitted.risk, 1 - fitted.delta)
    if not paths:
        return
    confidence = fitted_for(index, eye, by)
    unreadable: dict[Path, str] = {}
    answered, signals = [], []
    with named("standard output"):
        for some, found in ask(index, eye, paths, unreadable, by):
            signals.append(found.signals)
            for path, answer in zip(some, answers(index, [*map(str, some)], found, confidence), strict=True):
                answered.append((path, answer))
                print(json.dumps(answer) if given.json else in_words(answer), flush=True)
    if confidence is not None and signals:
        from ..confidence import joined

        if said := confidence.warning(joined(signals)):
            log.warning("%s", said)
    if given.panel is not None and answered:
        written = write_panels(answered, folder_of(index), given.panel)
        log.info("%s", written[0] if len(written) == 1 else f"{len(written)} panels in {given.panel}")
    if unreadable:
        for error in unreadable.values():
            log.error("%s", error)
        raise ValueError(f"{len(unreadable)} of {len(paths)} images could not be read, first {next(iter(unreadable))}; "
                         f"{len(answered)} are answered")


def _build(given: argparse.Namespace) -> None:
    from .maps import build, log

    options = {"size": given.resize} if given.resize else {}
    index = build(given.index, given.folder, _model(given), coordinates=given.coordinates, precision=given.precision,
                  store=given.store, device=given.device, **options)
    log.info("%s: %d images of %s", given.index, len(index), index.model)


def _add(given: argparse.Namespace) -> None:
    from .maps import add, log, opened

    index, eye = opened(given.index, _model(given), device=given.device)
    added = add(index, eye, given.images, coordinates=given.coordinates)
    log.info("%s: %d images added, %d in all", given.index, added, len(index))


def _remove(given: argparse.Namespace) -> None:
    from ..search import TwoStageIndex
    from .maps import log, place_of, remove

    index = TwoStageIndex.open(place_of(given.index))
    removed = remove(index, given.names)
    log.info("%s: %d images removed, %d left", given.index, removed, len(index))


def _model(given: argparse.Namespace):
    from ..models import ModelOptions

    return ModelOptions(resume=given.resume, backbone=given.backbone, float_dim=getattr(given, "float_dim", None))


def _parsed(words: list[str]) -> argparse.Namespace:
    from ..cli.parsing import MODEL_FILE, Defaults, Parser, code_lengths, positive, positive_float, size_help
    from ..data import EvaluationImages
    from ..device import PRECISIONS
    from ..search import STORES

    parser = Parser(prog="python -m utils.localize", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, what: str, *, model: bool = True) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=what, description=what, formatter_class=Defaults, allow_abbrev=False)
        found.add_argument("index", type=Path, metavar="INDEX", help="the map's folder")
        if model:
            found.add_argument("--resume", type=Path, metavar="FILE", help=MODEL_FILE)
            found.add_argument("--backbone", help="of the published weights to take instead; default: the map's")
            found.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
            of = "for --fit_confidence: " if name == "query" else ""
            found.add_argument("--coordinates", type=Path, metavar="CSV", help=f"{of}path,lat,lon[,heading] or "
                               "path,utm_east,utm_north; default: from names or EXIF")
        return found

    query = command("query", "tells where images were taken")
    query.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="an image, or a folder of them")
    query.add_argument("--json", action="store_true", help="an object for each image, one a line")
    query.add_argument("--panel", type=Path, metavar="FILE|FOLDER",
                       help="draws each query beside its 5 nearest: one JPEG of all, or one each in a folder")
    query.add_argument("--code_bits", type=positive, nargs="+", metavar=("N", "M"),
                       help="search by the codes' first N bits; given M, sort the best M by whole codes then")
    query.add_argument("--fit_confidence", type=Path, metavar="FOLDER",
                       help="of images whose coordinates are known: learns how likely an answer is right, and keeps it")
    query.add_argument("--val_positive_dist_threshold", type=positive_float, metavar="METRES", default=25.0,
                       help="of right answers, for --fit_confidence")
    query.add_argument("--false_discoveries", type=positive_float, metavar="SHARE", default=0.1,
                       help="of sure answers that may be wrong, for --fit_confidence")
    build = command("build", "makes a map of all images in a folder and below; a broken-off build is resumed")
    build.add_argument("folder", type=Path, metavar="FOLDER")
    build.add_argument("--resize", type=positive, nargs=2, metavar=("H", "W"), help=size_help(EvaluationImages.size))
    build.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of extracting; bf16, fp16 round")
    build.add_argument("--store", choices=STORES, default="fp32", help="how float descriptors are kept")
    build.add_argument("--float_dim", type=positive, metavar="N", help="keep the float descriptors' first N dimensions")
    add = command("add", "adds images to a map, prepared as its own")
    add.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of them")
    remove = command("remove", "removes images from a map", model=False)
    remove.add_argument("names", nargs="+", metavar="NAME", help="as answers call it, or its path")

    if words and words[0] not in (*COMMANDS, "-h", "--help"):
        words = ["query", *words]
    given = parser.parse_args(words)
    if given.command == "query" and not given.images and given.fit_confidence is None:
        query.error("no IMAGE to localise and no --fit_confidence; give one of them")
    if given.command == "query" and not 0 < given.false_discoveries < 1:
        query.error(f"--false_discoveries {given.false_discoveries:g}: expected a share between 0 and 1")
    if given.command == "query" and given.coordinates and given.fit_confidence is None:
        query.error("--coordinates are of --fit_confidence; give that too")
    if given.command == "query":
        from .answers import RERANKED

        given.code_bits, given.shortlist = code_lengths(query, given.code_bits, rerank_num=RERANKED)
    return given


if __name__ == "__main__":
    from ..run import exit_with

    exit_with(main)
