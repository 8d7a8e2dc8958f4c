"""What is searched for what, and what counts as right: the one form that every source of benchmark images takes."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TOY_MANIFEST = "TOY_CITY.json"  # says that what lies below its folder is drawn


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """Images of a database and of queries, in the order of all ids, and which database images show a query's place."""

    name: str  # as log lines and results.json call it: a protocol's or a folder's; "toy_city/..." for drawn images
    folder: Path  # what names of images are relative to
    database_paths: Sequence[Path]
    query_paths: Sequence[Path]
    positives: Sequence[np.ndarray] | None  # of each query, ascending int64 ids of right answers; None: no labels
    rule: str  # what counts as right, in words: "within 25 m"
    split: str | None = None  # "train", "val" or "test"; None: there is none
    database_utm: np.ndarray | None = None  # (n, 2) float64, east and north in metres; None: not known
    query_utm: np.ndarray | None = None
    utm_zone: int = 0  # of these metres, negative in the southern hemisphere; 0: not known, or told by the names alone
    threshold_m: float | None = None  # the distance in the rule; None: it has none
    protocol: str | None = None  # its name in PROTOCOLS; None: another folder, lists, or images of one's own
    warnings: tuple[str, ...] = ()  # what a reader of the figures must hear: counts that differ, what was left out

    @property
    def n_database(self) -> int:
        return len(self.database_paths)

    @property
    def n_queries(self) -> int:
        return len(self.query_paths)

    @property
    def n_unanswerable(self) -> int | None:
        """Queries without a right answer in the database; None without labels."""
        return None if self.positives is None else sum(len(ids) == 0 for ids in self.positives)

    @property
    def label(self) -> str:
        """For people: a protocol is one split of its set, other sets have several."""
        return self.name if self.protocol or not self.split else f"{self.name} {self.split}"

    def names(self, side: str) -> list[str]:
        """Of "database" or "query" images, relative to `folder` where they lie in it."""
        paths = self.database_paths if side == "database" else self.query_paths
        above = f"{self.folder}/".replace("//", "/")
        # As text: relative_to takes ten times as long, which tells where there are a million.
        return [str(path).removeprefix(above) for path in paths]

    def fingerprint(self) -> str:
        """sha256 over the names of database and queries in their order, and every query's right answers."""
        digest = hashlib.sha256()
        for side in ("database", "query"):
            digest.update("\n".join([side, *self.names(side), ""]).encode(errors="surrogateescape"))
        for ids in self.positives or ():
            digest.update((" ".join(map(str, ids)) + "\n").encode())
        return digest.hexdigest()


def is_toy(*folders: Path | str) -> bool:
    """Whether one of `folders`, or a folder above it, holds a TOY_CITY.json: then its images are drawn."""
    above = {parent for folder in folders for parent in (Path(folder).absolute() / "_").parents}
    return any((folder / TOY_MANIFEST).is_file() for folder in above)


def display_name(name: str, *folders: Path | str) -> str:
    """`name`, behind toy_city/ where the images in `folders` are drawn."""
    return f"toy_city/{name}" if is_toy(*folders) else name


def and_more(count: int) -> str:
    """Behind the first of `count` things that are wrong alike."""
    return f" (and {count - 1} more like it)" if count > 1 else ""
