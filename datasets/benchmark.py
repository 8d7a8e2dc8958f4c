"""Benchmark sets: a database and queries whose file names carry UTM coordinates."""

import math
import os
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch.utils.data import Dataset

from .transforms import Transform, read_picture

EXTENSIONS = (".jpg", ".jpeg", ".png")
NAME = "@<utm_east>@<utm_north>@*.{jpg,jpeg,png}"
LAYOUT = f"<datasets_folder>/<name>/images/<split>/{{database,queries}}/**/{NAME}"


class BenchmarkDataset(Dataset):
    """Database and query pictures of one split, and which database pictures show a query's place.

    Layout: <datasets_folder>/<name>/images/<split>/{database,queries}, searched recursively, with pictures
    (.jpg, .jpeg, .png in any case) named @<utm_east>@<utm_north>@... in metres.  Nothing is written there.

    folder         <datasets_folder>/<name>/images/<split>
    display_name   name, or toy_city/<name> where a TOY_CITY.json lies in datasets_folder
    database_paths, query_paths   lists of Path, sorted by the path inside their folder
    database_utm, query_utm       (n,2) float64, east and north in metres
    positives      for each query the ascending int64 ids of the database pictures within threshold_m metres
                   (inclusive); empty where there is none
    queries_vary   whether `query_transform` gives pictures of several sizes, which no batch can hold

    An item is (picture, index), database pictures first, then queries.  `query_transform` is for the queries alone;
    without it they are treated like the database.
    Raises FileNotFoundError for a missing or empty folder, ValueError for a file name without coordinates.
    """

    def __init__(
        self,
        datasets_folder: Path | str,
        name: str,
        *,
        split: str,
        threshold_m: float = 25.0,
        transform: Transform,
        query_transform: Transform | None = None,
        queries_vary: bool = False,
    ) -> None:
        if not 0 <= threshold_m < math.inf:
            raise ValueError(f"positives threshold {threshold_m} m: expected a finite distance of at least 0")
        datasets_folder = Path(datasets_folder)
        is_toy = (datasets_folder / "TOY_CITY.json").is_file()
        self.display_name = f"toy_city/{name}" if is_toy else name
        self.split = split
        self.threshold_m = threshold_m
        self.transform = transform
        self.query_transform = query_transform or transform
        self.queries_vary = queries_vary
        self.folder = datasets_folder / name / "images" / split
        self.database_paths = _find_pictures(self.folder / "database")
        self.query_paths = _find_pictures(self.folder / "queries")
        self.n_database = len(self.database_paths)
        self.n_queries = len(self.query_paths)
        self.database_utm = _coordinates(self.database_paths)
        self.query_utm = _coordinates(self.query_paths)
        self.positives = _within(self.database_utm, self.query_utm, threshold_m)

    def __len__(self) -> int:
        return self.n_database + self.n_queries

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """(picture (3,H,W) float32, index).  Raises FileNotFoundError or ValueError naming a bad file."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        if index < self.n_database:
            return self.transform(read_picture(self.database_paths[index])), index
        return self.query_transform(read_picture(self.query_paths[index - self.n_database])), index


def _find_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {_what_is_there(folder)}")
    # Links are followed: large sets are often assembled from linked folders.
    paths = [
        Path(parent, file)
        for parent, _, files in os.walk(folder, followlinks=True)
        for file in files
        if file.lower().endswith(EXTENSIONS)
    ]
    if not paths:
        raise FileNotFoundError(f"{folder}: no picture in it; {_what_is_there(folder)}")
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _what_is_there(folder: Path) -> str:
    present = next(parent for parent in folder.parents if parent.is_dir())
    names = sorted(path.name for path in present.iterdir() if path.is_dir())
    listing = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"expected {LAYOUT}; sub-folders of {present}: {listing or 'none'}"


def _coordinates(paths: list[Path]) -> np.ndarray:
    """(n,2) float64 UTM east, north from the file names alone: a folder name may contain "@" too."""
    utm = np.full((len(paths), 2), np.nan)
    for row, path in enumerate(paths):
        fields = path.stem.split("@")
        try:
            utm[row] = float(fields[1]), float(fields[2])
        except (IndexError, ValueError):
            continue  # stays NaN and is reported below
    bad = np.flatnonzero(~np.isfinite(utm).all(axis=1))
    if len(bad):
        others = f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise ValueError(
            f"{paths[bad[0]]}: no UTM coordinates in the file name{others}; expected {NAME} in metres, "
            "e.g. @0548546.00@4180340.00@.jpg"
        )
    return utm


def _within(database_utm: np.ndarray, query_utm: np.ndarray, threshold_m: float) -> list[np.ndarray]:
    # The tree computes distances from coordinate differences.  scikit-learn's brute force, its own choice for
    # small sets, expands the square, whose rounding loses pairs at exactly the threshold.
    tree = NearestNeighbors(radius=threshold_m, algorithm="kd_tree").fit(database_utm)
    neighbours = tree.radius_neighbors(query_utm, return_distance=False)
    return [np.sort(ids).astype(np.int64) for ids in neighbours]
