"""The benchmarks by name: what is searched for what, what counts as right, and how many images there should be.

A protocol's figures compare with published ones; those of a folder that is merely called alike may not.  What a reader
of each protocol's figures should know is in datasets/README.md.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .listing import Listing, display_name, is_toy
from .msls.listings import COUNTS, detect_msls_version, msls_test, msls_val
from .readers.folders import LAYOUT, NAME, read_by_frames, read_by_metres, read_folder
from .readers.image_files import folders_near

DOWNLOADER = "gmberton/VPR-datasets-downloader"
NETVLAD = f"the author of NetVLAD by mail, then {DOWNLOADER}"
RSYNC = f"{DOWNLOADER} by rsync"
MAPILLARY = "Mapillary's download site of MSLS"
SF_XL = "gmberton/CosPlace by rsync"
TABLE_I = "paper, Table I"
SVOX = "SVOX's paper (WACV 2021)"
MEMORY = "memory, unverified"  # as `source`: no source at hand states the counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One benchmark, so named in log lines, results.json and --dataset_name."""

    name: str
    split: str = "test"  # of the data set
    # Pairs (database, queries) of folders in the folder of all data sets; the first whole pair is read.  Empty: read
    # from published lists alone.
    sides: tuple[tuple[str, str], ...]
    metres: float | None = None  # right answers lie within them, by coordinates in the names
    degrees: float | None = None  # and their headings are within these
    # Or: right answers are at most so many frames apart; `metres` then gives the same where names have the downloader's
    # made-up coordinates.
    frames: int | None = None
    n_database: int | None = None  # what there should be; None: no source states it
    n_queries: int | None = None
    source: str | None = None  # of the counts, or MEMORY; None: there are none
    obtain: str = DOWNLOADER  # whom or what to ask for the images
    reader: Callable[[Path], Listing] | None = None  # of images that are not drawn; it compares the counts, too
    tree: str | None = None  # where the reader looks for them

    @property
    def rule(self) -> str:
        """What counts as right, in words."""
        if self.frames is not None:
            return f"+-{self.frames} frame{'s' * (self.frames != 1)}"
        return f"within {self.metres:g} m" + (f" and {self.degrees:g} degrees" if self.degrees is not None else "")

    @property
    def where(self) -> str:
        """Its folders, in the folder of all data sets."""
        if self.tree or not self.sides:
            return self.tree or "published lists"
        pairs = [(Path(database), Path(queries)) for database, queries in self.sides]
        return " or ".join(f"{database.parent.as_posix()}/{{{database.name},{queries.name}}}"
                           for database, queries in pairs)


def _pair(folder: str, database: str = "database", queries: str = "queries") -> tuple[str, str]:
    return f"{folder}/{database}", f"{folder}/{queries}"


def _metres(name: str, *sides: tuple[str, str], **fields) -> Protocol:
    return Protocol(name=name, metres=25.0, sides=sides or (_pair(f"{name}/images/test"),), **fields)


def _msls_val(version: str, **fields) -> Protocol:
    n_queries, n_database = COUNTS[version]
    return _metres(f"msls_val_{version}", _pair("msls/images/val"), split="val", n_database=n_database,
                   n_queries=n_queries, obtain=MAPILLARY, reader=partial(msls_val, version=version),
                   tree="msls/train_val/{cph,sf} or msls/images/val/{database,queries}", **fields)


def _remembered(name: str, *sides: tuple[str, str], counts: tuple[int, int], **fields) -> Protocol:
    """`counts`: database images, queries."""
    return _metres(name, *sides, n_database=counts[0], n_queries=counts[1], source=MEMORY, **fields)


def _svox(condition: str, n_queries: int) -> Protocol:
    return _metres(f"svox_{condition}",
                   *(_pair("svox/images/test", name, f"queries_{condition}") for name in ("database", "gallery")),
                   _pair(f"svox_{condition}/images/test"), n_database=17_166, n_queries=n_queries, source=SVOX)


def _sf_xl(version: str) -> Protocol:
    pairs = (_pair(f"sf_xl/{layout}/test", queries=f"queries_{version}") for layout in ("images", "processed"))
    return _metres(f"sf_xl_{version}", *pairs, obtain=SF_XL)


PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (
    _metres("pitts30k", n_database=10_000, n_queries=6_816, source=TABLE_I, obtain=NETVLAD),
    _remembered("pitts250k", counts=(83_952, 8_280), obtain=NETVLAD),
    _metres("tokyo247", n_database=75_984, n_queries=315, source=TABLE_I, obtain=NETVLAD),
    _msls_val("740", source=f"{TABLE_I}; the lists of GSV-Cities"),
    _msls_val("740_40deg", degrees=40.0, source=TABLE_I),
    _msls_val("11k", source="the downloader's issue 18"),
    _metres("msls_test", _pair("msls/images/test"), n_database=COUNTS["test"][1], n_queries=COUNTS["test"][0],
            source="the list of SALAD", obtain=MAPILLARY, reader=msls_test, tree="msls/test"),
    _metres("nordland_27592_w2s_10f", _pair("nordland/images/test"), _pair("nordland", "summer", "winter"), frames=10,
            n_database=27_592, n_queries=27_592, source=TABLE_I, obtain=RSYNC),
    Protocol(name="nordland_2760_s2w_1f", frames=1, n_database=27_592, n_queries=2_760, sides=(),
             source="the lists of GSV-Cities", obtain="amaralibey/gsv-cities (lists)"),
    Protocol(name="nordland_3450_2f", frames=2, n_database=3_450, n_queries=3_450,
             sides=(_pair("nordland_3450/images/test"),), source="SelaVPR's paper",
             obtain="not stated; see Lu-Feng/SelaVPR, issue 6"),
    _remembered("sped", counts=(607, 607)),
    _remembered("eynsham", counts=(23_935, 23_935), obtain=RSYNC),
    *(_svox(condition, n_queries) for condition, n_queries in (
        ("night", 823), ("rain", 937), ("overcast", 872), ("snow", 870), ("sun", 854))),
    _remembered("st_lucia", counts=(1_549, 1_464), obtain=RSYNC),
    _remembered("amstertime", counts=(1_231, 1_231)),
    _sf_xl("v1"),
    _sf_xl("v2"),
)}


def open_protocol(datasets_folder: Path | str, name: str) -> Listing:
    """The benchmark `name` of PROTOCOLS; its warnings tell where counts differ or cannot be verified.

    Drawn images are called toy_city/<name> and are no protocol's.
    Raises KeyError for another name, FileNotFoundError for folders that are missing or empty, ValueError for images
    that cannot be placed and for a protocol that is read from lists alone.
    """
    protocol, datasets_folder = PROTOCOLS[name], Path(datasets_folder)
    toy = is_toy(datasets_folder)
    if protocol.reader and not toy:
        return dataclasses.replace(protocol.reader(datasets_folder), name=name, protocol=name)
    (database, queries), others = _sides(protocol, datasets_folder)
    options = {"name": display_name(name, datasets_folder), "split": protocol.split,
               "layout": f"<datasets_folder>/{protocol.where}/**/{NAME}"}
    if protocol.frames is not None:
        listing = read_by_frames(database, queries, frames=protocol.frames, same_m=protocol.metres, **options)
    else:
        listing = read_by_metres(database, queries, threshold_m=protocol.metres, **options)
    if others and not toy:
        left = f"read from {database} and {queries}; there, and not read: {', '.join(sum(others, ()))}"
        listing = dataclasses.replace(listing, warnings=(*listing.warnings, left))
    return as_protocol(listing, name)


def as_protocol(listing: Listing, name: str) -> Listing:
    """`listing` under a protocol's name, with what is to be said of its counts; drawn images as they are.

    Stated counts that are met need no word, and each that is not is a warning.  Counts from memory, and none at all,
    are a warning either way: figures are then of as many images as were found.
    """
    if listing.name.startswith("toy_city/"):
        return listing
    protocol = PROTOCOLS[name]
    return dataclasses.replace(listing, name=name, protocol=name,
                               warnings=(*listing.warnings, *_said_of_counts(protocol, listing)))


def _said_of_counts(protocol: Protocol, listing: Listing) -> list[str]:
    counts = (("database images", protocol.n_database, listing.n_database),
              ("queries", protocol.n_queries, listing.n_queries))
    found = " and ".join(f"{number:,} {what}" for what, expected, number in counts
                         if expected is None or protocol.source == MEMORY)
    if protocol.source == MEMORY and all(expected == number for _, expected, number in counts):
        return [f"counts unverified: {found} are as many as we remember, but no source at hand states them"]
    if protocol.source == MEMORY:
        expected = " and ".join(f"{expected:,} {what}" for what, expected, _ in counts)
        return [f"expected, unverified: {expected} (from memory, no source at hand states them); found {found}"]
    none = [f"counts unverified: no source states them; found {found}"] if found else []
    return none + [
        f"expected {expected:,} {what} ({protocol.source}), found {number:,}: not comparable with published figures"
        for what, expected, number in counts if expected not in (None, number)]


def resolve(datasets_folder: Path | str, name: str, *, split: str | None = None,
            threshold_m: float | None = None) -> Listing:
    """What --dataset_name means: a protocol, or any folder of `datasets_folder` in the benchmark layout.

    A name that is both means the protocol, unless `split` or `threshold_m` contradict it: then the folder, whose
    listing's split or name says so.  A folder's `test` split within 25 m is meant where they are not given.
    Raises FileNotFoundError for a name that is neither, ValueError for a protocol whose split or metres are
    contradicted, and what reading raises.
    """
    datasets_folder = Path(datasets_folder)
    protocol = PROTOCOLS.get(name)
    contradicted = []
    if protocol and split not in (None, protocol.split):
        contradicted.append(f"split {split!r}")
    if protocol and threshold_m not in (None, protocol.metres):
        contradicted.append(f"threshold {threshold_m} m")
    if protocol and not contradicted:
        return open_protocol(datasets_folder, name)
    is_folder = (datasets_folder / name / "images").is_dir() or protocol is not None and any(
        Path(database).parts[0] == name for database, _ in protocol.sides)
    if protocol and not is_folder:
        raise ValueError(f"protocol {name} is its set's {protocol.split} split, {protocol.rule}; leave out what "
                         f"contradicts it ({' and '.join(contradicted)}), or name a folder")
    if not is_folder:
        there = sorted(path.parent.name for path in datasets_folder.glob("*/images") if path.is_dir())
        what = "no folder images in it" if (datasets_folder / name).is_dir() else "no such folder"
        raise FileNotFoundError(
            f"{datasets_folder / name}: {what}; {name!r} is neither a protocol ({', '.join(PROTOCOLS)}) nor a folder "
            f"in the layout {LAYOUT}; folders there: {', '.join(there) or 'none'}")
    metres = 25.0 if threshold_m is None else threshold_m
    listing = read_folder(datasets_folder, name, split=split or "test", threshold_m=metres)
    if is_toy(datasets_folder):
        return listing
    called, said = _version(listing, name) if not protocol else (name, "")
    if protocol and metres != protocol.metres:
        called, said = f"{name} at {metres:g} m", f"not the protocol {name}, which is {protocol.rule}"
    return dataclasses.replace(listing, name=called, warnings=(*listing.warnings, said) if said else listing.warnings)


def _version(listing: Listing, name: str) -> tuple[str, str]:
    """What to call a folder, and what to say of a set that is in use in several versions."""
    versions = ", ".join(protocol for protocol in PROTOCOLS if protocol.startswith(f"{name}_"))
    if name != "msls":
        return name, f"{name} names no version; protocols: {versions}" if versions else ""
    found = detect_msls_version(listing)
    if found == "other":
        return name, (f"msls: {listing.n_queries:,} queries and {listing.n_database:,} database images are neither "
                      f"version of MSLS-val, 740 nor 11k; protocols: {versions}")
    return f"msls ({found})", (f"msls: found the version {found} of MSLS-val, whose figures do not compare with "
                               f"those of another; protocols: {versions}")


def _sides(protocol: Protocol, datasets_folder: Path) -> tuple[tuple[Path, Path], list[tuple[str, str]]]:
    """The pair of folders to read, and other whole pairs beside it."""
    if not protocol.sides:
        raise ValueError(f"{protocol.name}: only published lists tell which frame a query shows; use --file_lists with "
                         f"the folder of {protocol.source}")
    whole = [pair for pair in protocol.sides if all((datasets_folder / side).is_dir() for side in pair)]
    if whole:
        return tuple(datasets_folder / side for side in whole[0]), whole[1:]
    half = [f"{side} is there, {other} is not" for pair in protocol.sides for side, other in (pair, pair[::-1])
            if (datasets_folder / side).is_dir()]
    raise FileNotFoundError(
        f"{protocol.name}: no such folders in {datasets_folder}; expected {protocol.where}; "
        f"{'; '.join(half) or folders_near(datasets_folder / '_')}; to be had from {protocol.obtain}")
