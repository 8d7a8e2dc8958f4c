"""A map's confidence, fitted on labelled queries and kept in its index."""

from pathlib import Path

import numpy as np

from datasets import own_pictures
from datasets.readers.coordinates import in_plane_of

from ..confidence import Confidence, fit, joined
from ..search import TwoStageIndex
from .answers import FITTED, ByCodes, ask
from .maps import Eye, tell_unreadable, zone_of


def fit_confidence(index: TwoStageIndex, eye: Eye, labelled: Path, *, coordinates: Path | None = None,
                   threshold_m: float = 25.0, risk: float, by: ByCodes) -> Confidence:
    """Asks a map for the images of a folder, whose coordinates are known, fits the probability that its answer lies
    within `threshold_m` metres, and keeps it among the index's notes.

    risk  of the threshold: at most this share of what reaches it is wrong; by: the search that it is of
    Raises ValueError where a query or an image of the map has no coordinates, and as `confidence.fit` does.
    """
    pictures = own_pictures([labelled], coordinates=coordinates)
    if None in pictures.points:
        path = pictures.paths[pictures.points.index(None)]
        raise ValueError(f"{path}: no coordinates (of {pictures.points.count(None)} of {len(pictures.points)} images); "
                         "a labelled set needs those of each, from a CSV (--coordinates), the name or EXIF GPS")
    truth = dict(zip(pictures.paths, in_plane_of(zone_of(index), pictures.points, [*map(str, pictures.paths)],
                                                 f"the map {index.folder}"), strict=True))
    unreadable: dict[Path, str] = {}
    found, right = [], []
    for paths, some in ask(index, eye, pictures.paths, unreadable, by):
        first = some.signals.positions[:, 0]
        if np.isnan(first).any():
            raise ValueError(f"{index.folder} has no coordinates of the image that {paths[0]} finds; nothing tells "
                             "whether it is right: build the map with coordinates")
        found.append(some.signals)
        right.append(np.hypot(*(first - np.array([truth[path] for path in paths])).T) <= threshold_m)
    tell_unreadable(unreadable, len(pictures.paths))
    if not found:
        raise ValueError(f"{labelled}: none of its {len(pictures.paths)} images can be read")
    fitted = fit(joined(found), np.concatenate(right), risk=risk, set=str(labelled), threshold_m=threshold_m,
                 model=eye.extractor.identity.fingerprint, generation=index.generation, images=len(index),
                 by_codes=by._asdict())
    index.note(**{FITTED: fitted.to_dict()})
    return fitted
