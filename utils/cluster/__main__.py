"""One index over many machines, on Ray.

    python -m utils.cluster describe INDEX FOLDER   extracts all images in a folder and below, into an index in parts
    python -m utils.cluster serve INDEX...          starts an actor for each part, which stays; --stop ends them
    python -m utils.cluster search INDEX IMAGE...   the nearest images of all parts: an object of JSON for each query

--address tells which Ray, "auto" the one of this machine; without it each command starts one of its own.
`<command> --help` lists the options.
"""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from datasets import own_pictures

from ..cli.parsing import RERANK_NUM, Defaults, Parser, positive, size_help
from ..data import EvaluationImages
from ..device import PRECISIONS
from ..errors import named
from ..localize.maps import opened
from ..models import ModelOptions
from ..run import exit_with, start_log
from ..search import STORES
from .describing import describe
from .searching import Parts, parts_of, stop


def main(argv: Sequence[str] | None = None) -> None:
    given = _parsed(argv)
    start_log()
    command, out = {"describe": _describe, "serve": _serve, "search": _search}[given.command], sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # where Ray's own messages then go
        command(given, out)


def _describe(given: argparse.Namespace, out: TextIO) -> None:
    options = {"size": given.resize} if given.resize else {}
    held = describe(given.index, given.folder, resume=given.resume, backbone=given.backbone, parts=given.parts,
                    cpus=given.cpus, coordinates=given.coordinates, precision=given.precision, store=given.store,
                    address=given.address, **options)
    print(f"{given.index}: {held} images", file=out)


def _serve(given: argparse.Namespace, out: TextIO) -> None:
    if given.stop:
        print(f"{stop(given.index, address=given.address)} actors ended", file=out)
        return
    parts = Parts(given.index, replicas=given.replicas, cpus=given.cpus, stay=True, address=given.address)
    print(f"{len(parts.parts)} parts, {parts.images} images, are served", file=out, flush=True)
    if given.address is None:
        signal.pause()  # this Ray ends with this program


def _search(given: argparse.Namespace, out: TextIO) -> None:
    paths = own_pictures(given.images, located=False).paths
    _, eye = opened(parts_of([given.index])[0], ModelOptions(resume=given.resume, backbone=given.backbone))
    parts = Parts([given.index], cpus=given.cpus, address=given.address)
    unreadable: dict[Path, str] = {}
    with named("standard output"):
        for some in eye.described(paths, unreadable, what="searching"):
            found = parts.search(some.codes, some.floats, k=given.k, depth=given.rerank_num)
            for number, names, distances, places in zip(some.numbers, found.names, found.distances, found.coordinates,
                                                        strict=True):
                answers = [{"database": name, "distance": float(str(distance)),
                            "east": None if np.isnan(east) else east, "north": None if np.isnan(north) else north}
                           for name, distance, (east, north) in zip(names, distances, places.tolist(), strict=True)]
                print(json.dumps({"query": str(paths[number]), "answers": answers}), file=out, flush=True)
    if unreadable:
        raise ValueError(f"{len(unreadable)} of {len(paths)} images could not be read: "
                         f"{'; '.join(unreadable.values())}")


def _parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m utils.cluster", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, what: str, *, model: bool = True, **index: object) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=what, description=what, formatter_class=Defaults, allow_abbrev=False)
        found.add_argument("index", type=Path, metavar="INDEX", help="folder of the parts", **index)
        found.add_argument("--address", help='of a Ray, or "auto"; default: one of this command')
        found.add_argument("--cpus", type=positive, metavar="N", default=1, help="cores of each process")
        if model:
            found.add_argument("--resume", type=Path, metavar="FILE", help="model file, ours or published")
            found.add_argument("--backbone", help="of the published weights to take instead")
        return found

    described = command("describe", "extracts images into an index in parts; one that was broken off is resumed")
    described.add_argument("folder", type=Path, metavar="FOLDER")
    described.add_argument("--parts", type=positive, metavar="N", help="default: one for each 10,000 images")
    described.add_argument("--coordinates", type=Path, metavar="CSV", help="as of utils.localize")
    described.add_argument("--resize", type=positive, nargs=2, metavar=("H", "W"),
                           help=size_help(EvaluationImages.size))
    described.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of extracting; bf16, fp16 round")
    described.add_argument("--store", choices=STORES, default="fp32", help="how float descriptors are kept")
    served = command("serve", "starts an actor for each part, which stays", model=False, nargs="+")
    served.add_argument("--replicas", type=positive, default=1, metavar="N", help="actors of a part, which take turns")
    served.add_argument("--stop", action="store_true", help="ends them instead")
    searched = command("search", "finds the nearest images of all parts")
    searched.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of them")
    searched.add_argument("-k", type=positive, default=10, metavar="N", help="answers of a query")
    searched.add_argument("--rerank_num", type=positive, default=RERANK_NUM, metavar="N", help="candidates to re-rank")
    return parser.parse_args(words)


if __name__ == "__main__":
    exit_with(main)
