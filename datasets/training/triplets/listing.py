"""Images that only coordinates supervise: which database images may show a query's place, and which never do."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...listing import Listing
from ...positives import within_metres
from ...readers.folders import read_folder


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TripletListing:
    """A training set in which every query has a positive.

    listing  its images; `positives` are the candidates for a triplet's positive
    zones    of each query of `listing`, ascending int64 ids of the database images that are never its negatives
    zone_m   how far a zone reaches, in metres
    dropped  queries left out because they have no positive
    """

    listing: Listing
    zones: Sequence[np.ndarray]
    zone_m: float
    dropped: Sequence[Path] = ()


def read_triplet_folder(datasets_folder: Path | str, name: str, *, split: str = "train", positives_m: float = 10.0,
                        zone_m: float = 25.0) -> TripletListing:
    """A training set in the benchmark layout, <datasets_folder>/<name>/images/<split>/{database,queries}.

    Positives lie within `positives_m` metres of their query, never-negative zones reach `zone_m` metres; both are
    inclusive.  Queries without a positive are dropped, together with their zones: the published code forgets the zones,
    and from the first such query on takes other queries' zones, hence negatives of the same place.  A line in the
    listing's warnings counts them.

    Raises what `read_folder` does, and ValueError for distances that do not fit and where no query has a positive.
    """
    if not 0 <= positives_m <= zone_m < math.inf:
        raise ValueError(f"positives within {positives_m} m, none of the negatives within {zone_m} m: expected finite "
                         "distances of at least 0, the first no larger than the second")
    whole = read_folder(datasets_folder, name, split=split, threshold_m=zone_m)
    assert whole.positives is not None and whole.database_utm is not None and whole.query_utm is not None
    # What is near in metres of another UTM zone is not near: the zones know.
    near = within_metres(whole.database_utm, whole.query_utm, positives_m)
    positives = [np.intersect1d(*pair, assume_unique=True) for pair in zip(near, whole.positives, strict=True)]
    kept = [query for query, ids in enumerate(positives) if len(ids)]
    dropped = [path for path, ids in zip(whole.query_paths, positives, strict=True) if not len(ids)]
    if not kept:
        raise ValueError(f"{whole.folder}: none of the {whole.n_queries:,} queries has a database image within "
                         f"{positives_m:g} m; expected coordinates of one area in both folders, or a larger distance")
    warnings = whole.warnings
    if dropped:
        warnings += (f"{len(dropped):,} of {whole.n_queries:,} queries have no database image within {positives_m:g} m "
                     f"and are left out: {dropped[0].name}{', ...' if len(dropped) > 1 else ''}",)
    listing = dataclasses.replace(
        whole, query_paths=[whole.query_paths[query] for query in kept], query_utm=whole.query_utm[kept],
        positives=[positives[query] for query in kept], threshold_m=positives_m, rule=f"within {positives_m:g} m",
        warnings=warnings)
    return TripletListing(listing=listing, zones=[whole.positives[query] for query in kept], zone_m=zone_m,
                          dropped=dropped)
