"""A picture for each query: the query and what was found for it, framed green where right and red where wrong."""

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.listing import and_more
from datasets.transforms import read_image

from ..errors import named
from ..files import temporary_path
from ..ranks import progress
from ..sheets import PLAIN, RIGHT, WRONG, Cell, into, sheet
from .evaluator import Evaluation
from .metrics import correctness

log = logging.getLogger("selavprpp")
FOLDER = "preds"  # in the run folder
SIZE = 320, 240  # pixels, of an image
QUALITY = 85


def write_panels(folder: Path, evaluation: Evaluation, *, count: int, only_wrong: bool = False) -> list[Path]:
    """Writes preds/<number of the query>.jpg in `folder`, a row of the query and its first `count` predictions, and
    returns the paths. What cannot be read is left white, and the log says of how many pictures.

    Raises ValueError for `only_wrong` without labels.
    """
    listing, ids = evaluation.listing, evaluation.final[:, :count]
    correct = None if listing.positives is None else correctness(ids, listing.positives)
    if only_wrong and correct is None:
        raise ValueError("--save_only_wrong_preds: this set has no labels, so none is known to be wrong; leave it out")
    chosen = np.flatnonzero(~correct[:, 0]) if only_wrong else np.arange(listing.n_queries)
    (folder / FOLDER).mkdir(exist_ok=True)
    unread: list[str] = []

    def cell(path: Path, frame: tuple[int, int, int], text: str) -> Cell:
        try:
            image = into(SIZE, read_image(path))
        except (ValueError, OSError) as error:
            unread.append(str(error))
            image = Image.new("RGB", SIZE, "white")
        return Cell(image, frame, text)

    written, digits = [], len(str(listing.n_queries - 1))
    for query in progress(chosen.tolist(), "panels"):
        cells = [cell(listing.query_paths[query], PLAIN, listing.query_paths[query].name)]
        for rank, image in enumerate(ids[query].tolist()):
            frame = PLAIN if correct is None else RIGHT if correct[query, rank] else WRONG
            cells.append(cell(listing.database_paths[image], frame, _metres(evaluation, query, image)))
        path = folder / FOLDER / f"{query:0{max(3, digits)}d}.jpg"
        with named(path), temporary_path(path) as temporary:
            sheet([cells], {}).save(temporary, "jpeg", quality=QUALITY)
        written.append(path)
    if unread:
        log.warning("panels: %d pictures could not be read, and are white: %s%s", len(unread), unread[0],
                    and_more(len(unread)))
    log.info("panels of %d of %d queries: %s", len(written), listing.n_queries, folder / FOLDER)
    return written


def _metres(evaluation: Evaluation, query: int, image: int) -> str:
    """Between both, where that is known."""
    here, there = evaluation.listing.query_utm, evaluation.listing.database_utm
    metres = np.nan if here is None or there is None else np.hypot(*(there[image] - here[query]))
    return "" if np.isnan(metres) else f"{metres:.0f} m"
