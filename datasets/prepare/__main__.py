"""Builds <datasets_folder>/unified_dataset from GSV-Cities, Pitts30k, MSLS and SF-XL as they come.

    python -m datasets.prepare gsv_cities|pitts30k|msls|sf_xl --datasets_folder FOLDER [--source FOLDER]
                               [--copy | --check]
    python -m datasets.prepare [pitts30k|msls|sf_xl] --datasets_folder FOLDER --audit pitts30k tokyo247

What is there is kept, so that the same command resumes after an interruption.  Sources are never changed.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..commands import Parser, exit_with
from ..listing import and_more
from ..protocols import PROTOCOLS, open_protocol
from ..readers.image_files import some_images
from ..training.tables import GSV_CITIES, UNIFIED_CITIES
from .audit import Points, count_nearby, listing_points, named_points, training_points
from .build import City, Plan, build_city, check_city, plan
from .categories import Rule
from .sources import SOURCES, Source, groups_in_the_paper, gsv_cities

GSV = "gsv_cities"
FOLDER = "unified_dataset"  # of all that is built, in the folder of all data sets
COUNTED = "{} groups, {} classes, {} of {} images"
Part = tuple[str, Collection[str], Iterable[City]]  # a source's city: its name, those of its groups, the groups

RULE_OPTIONS = {field.name: field.metadata["means"] for field in dataclasses.fields(Rule) if field.type is int}


def _plans(source: Source, rule: Rule, *, datasets_folder: Path, folder: Path | None,
           cities: Collection[str] | None) -> Iterator[Plan]:
    """The division of one city after the other, each said in a line."""
    totals, seen = np.zeros(4, np.int64), set()
    for images in source.read(datasets_folder, folder, cities):
        planned = plan(images, rule, numbered=source.numbered)
        for note in planned.notes:
            print(f"{images.name}: {note}", file=sys.stderr)
        division = planned.division
        counts = len(division.groups), division.classes, len(division.image), len(images.paths)
        totals += counts
        seen.add(images.name)
        left_out = (f"{division.small_classes} classes with fewer than {rule.min_images} images left out "
                    f"({division.small_class_images} images)")
        if division.unused_groups:
            left_out += f", {division.unused_groups} groups not used ({division.unused_group_images} images)"
        print(f"{images.name}: {COUNTED.format(*counts)}; {left_out}", flush=True)
        expected = groups_in_the_paper(images.name)
        # Taken modulo 360, headings fill the paper's groups and perhaps more: classes only grow.
        differs = counts[0] != expected if rule.published_headings else counts[0] < expected
        if rule == dataclasses.replace(source.rule, published_headings=rule.published_headings) and differs:
            print(f"{images.name}: {counts[0]} groups, where the paper's images fill {expected}: is the source "
                  "complete?", file=sys.stderr)
        unread = [name for name in planned.city_names if name not in UNIFIED_CITIES]
        if unread:
            print(f"{unread[0]}{and_more(len(unread))}: no city of the paper's, hence not read by --training_dataset "
                  f"{FOLDER}; a path to that folder is read with all that is in it", file=sys.stderr)
        yield planned
    if cities is None:
        _say_absent(name for name in source.names if name not in seen)
    if not totals[2]:
        raise ValueError(f"no class of {rule.min_images} images or more among {totals[3]} images: nothing to "
                         "build; add images or lower --min_images")
    print(f"total: {COUNTED.format(*totals)}", flush=True)


def _build(parts: Iterable[Part], folder: Path, *, copy: bool) -> None:
    put = []
    for own, names, cities in parts:
        others = _other_tables(own, names, folder)
        if others:
            raise ValueError(f"{others}; expected what the same images and options (--published_headings is one) gave "
                             "before: remove them, and the folders of their images")
        put += [build_city(city, folder, copy=copy) for city in cities]
    print(f"{folder}: {len(put) - put.count(0)} cities {'copied' if copy else 'linked'}, {put.count(0)} were complete")


def _check(parts: Iterable[Part], folder: Path) -> int:
    """Number of problems: what is not as it would be built."""
    wrong = 0
    for own, names, cities in parts:
        problems = [problem for city in cities for problem in check_city(city, folder)]
        problems += filter(None, [_other_tables(own, names, folder)])
        print("\n".join(problems or [f"{own}: complete"]), flush=True)
        wrong += len(problems)
    return wrong


def _other_tables(own: str, names: Collection[str], folder: Path) -> str:
    """What to say of tables of the city `own` there that are none of its groups; nothing where there are none."""
    tables = {path.stem for path in (folder / "Dataframes").glob("*.csv")}
    others = sorted(stem for stem in tables.difference(names) if re.fullmatch(rf"{own}\d*", stem))
    return f"{folder / 'Dataframes'}: tables that would not be built: {', '.join(others)}" if others else ""


def _gsv_cities(datasets_folder: Path, folder: Path | None) -> Iterator[Part]:
    """GSV-Cities needs no division; each city is said in a line."""
    seen = set()
    for city, n_places in gsv_cities(datasets_folder, folder):
        seen.add(city.name)
        print(f"{city.name}: {n_places} places, {len(city.images)} images", flush=True)
        yield city.name, [city.name], [city]
    _say_absent(name for name in GSV_CITIES if name not in seen)


def _say_absent(names: Iterable[str]) -> None:
    absent = ", ".join(names)
    if absent:
        print(f"not in the source: {absent}", file=sys.stderr)


def _audit(training: Points, what: str, benchmarks: Mapping[str, Points]) -> None:
    print(f"{what}: {len(training.zone)} images")
    for name, queries in benchmarks.items():
        total = len(queries.zone)
        print(f"{name}: {total} queries")
        for radius, found in count_nearby(queries, training).items():
            cities = ", ".join(f"{city} {count}" for city, count in found.most_common())
            print(f"  {found.total()} ({100 * found.total() / total:.1f} %) with a training image within {radius:g} m"
                  f"{': ' if cities else ''}{cities}")


def _kept_points(plans: Iterable[Plan]) -> Points:
    """Where the images were taken that the division keeps."""
    parts = []
    for planned in plans:
        names = planned.images.names or planned.images.paths
        parts.append(named_points((names[row] for row in planned.division.image.tolist()), str(planned.images.folder),
                                  planned.images.name))
    return Points(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _queries(datasets_folder: Path, name: str) -> tuple[str, Points]:
    """Of <name>/images/test/queries or <name>/queries, where `name` is a set's or a folder; or of a protocol."""
    places = [base / below / "queries" for base in (datasets_folder / name, Path(name))
              for below in ("images/test", "")]
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        return str(found), named_points(some_images(found, "the queries of a benchmark"), str(found))
    if name in PROTOCOLS:
        return name, listing_points(open_protocol(datasets_folder, name))
    raise FileNotFoundError(f"{datasets_folder / name}: no queries there; expected <name>/images/test/queries, or the "
                            "folder of another split (<name>/images/val) or path with queries in it, or a protocol: "
                            f"{', '.join(PROTOCOLS)}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m datasets.prepare", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", choices=(GSV, *SOURCES),
                        help="what to divide; --audit alone takes all that is built")
    parser.add_argument("--datasets_folder", type=Path, default=os.environ.get("DATASETS_FOLDER"),
                        help="holds unified_dataset and the benchmarks; default: environment variable DATASETS_FOLDER")
    parser.add_argument("--source", dest="folder", metavar="FOLDER", type=Path,
                        help="where the source lies; default: <datasets_folder>/pitts30k/images/train, "
                             "{msls,mapillary_sls} or msls/images/train, sf_xl/processed/train, gsv_cities")
    parser.add_argument("--cities", nargs="+", help="msls: only these, by their folders' names")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--copy", action="store_true", help="copy the images; default: link them")
    what.add_argument("--check", action="store_true", help="write nothing, say what is missing or differs; exit code 1")
    what.add_argument("--audit", nargs="+", metavar="PROTOCOL",
                      help="write nothing, count the queries of these sets that have a training image nearby")
    parser.add_argument("--published_headings", action="store_true",
                        help="the published code's cut, for comparison: headings of 360 and negative ones have classes "
                             "of their own, so that a batch may have one place twice, as two different ones; default: "
                             "headings modulo 360")
    for name, meaning in RULE_OPTIONS.items():
        defaults = ", ".join(f"{getattr(source.rule, name)} ({key})" for key, source in SOURCES.items())
        parser.add_argument(f"--{name}", type=int, help=f"{meaning}; default: {defaults}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 where --check found something.  Raises ValueError or OSError for a mistake."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.datasets_folder is None:
        parser.error("--datasets_folder, or the environment variable DATASETS_FOLDER, is required")
    if args.source is None and not args.audit:
        parser.error(f"a source is required: {', '.join((GSV, *SOURCES))}")
    changes = {name: getattr(args, name) for name in RULE_OPTIONS if getattr(args, name) is not None}
    folder = args.datasets_folder / FOLDER
    plans = None
    if args.source == GSV:
        if changes or args.published_headings or args.cities or args.audit:
            raise ValueError(f"{GSV} is taken as it is: leave --cities, --audit and the division's options out")
        parts = _gsv_cities(args.datasets_folder, args.folder)
    elif args.source is not None:
        if args.cities and args.source != "msls":
            raise ValueError(f"--cities {' '.join(args.cities)}: only msls has cities to choose among; leave it out")
        source = SOURCES[args.source]
        rule = dataclasses.replace(source.rule, published_headings=args.published_headings, **changes)
        plans = _plans(source, rule, datasets_folder=args.datasets_folder, folder=args.folder, cities=args.cities)
        parts = ((planned.images.name, planned.city_names, planned.cities()) for planned in plans)
    if args.audit:
        queries = dict(_queries(args.datasets_folder, name) for name in args.audit)  # mistakes come first
        training = training_points(folder) if plans is None else _kept_points(plans)
        _audit(training, args.source or str(folder), queries)
    elif args.check:
        return 1 if _check(parts, folder) else 0
    else:
        _build(parts, folder, copy=args.copy)
    return 0


if __name__ == "__main__":
    exit_with(main, interrupted="the same command resumes")
