"""Mined triplets as images, and batches of them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from ...listing import Listing
from ...transforms import read_image, resize, to_uint8_tensor


class TripletDataset(Dataset):
    """The images of one round's triplets; an item is one triplet's.

    listing   the one that was mined
    triplets  (n, 2 + k) integers as `TripletMiner.mine` gives them
    size      (H, W) in pixels, to which images are resized without keeping their ratio

    Nothing is augmented, as by default in the published code, and nothing is drawn: an item depends on its number
    alone, on no worker.  Only the paths of this round are held.
    """

    def __init__(self, listing: Listing, triplets: np.ndarray, *, size: tuple[int, int]) -> None:
        triplets = np.asarray(triplets)
        if triplets.ndim != 2 or triplets.shape[1] < 3:
            raise ValueError(f"triplets of shape {triplets.shape}: expected (n, 2 + negatives)")
        database, queries = listing.database_paths, listing.query_paths
        for what, ids, count in (("query", triplets[:, 0], len(queries)), ("database", triplets[:, 1:], len(database))):
            bad = ids[(ids < 0) | (ids >= count)]
            if len(bad):
                raise ValueError(f"{what} image {bad[0]} in a triplet: expected 0 to {count - 1}")
        self.size = size
        self._paths = [[queries[query], *(database[image] for image in images)]
                       for query, *images in triplets.tolist()]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(2 + k, 3, H, W) uint8 of query, positive and negatives; see `normalise`.

        Raises FileNotFoundError or ValueError naming an image that is absent or cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"triplet {index} of {len(self)}")
        return torch.stack([to_uint8_tensor(resize(read_image(path), self.size)) for path in self._paths[index]])


def collate_triplets(samples: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """B items of a TripletDataset -> images (B * (2 + k), 3, H, W) uint8, a triplet's together, and (B * k, 3) int64 of
    their rows: query, positive and one of its negatives, query by query."""
    n, images = len(samples), len(samples[0])
    firsts = torch.arange(n).repeat_interleave(images - 2) * images
    negatives = torch.arange(2, images).repeat(n)
    return torch.cat(list(samples)), torch.stack([firsts, firsts + 1, firsts + negatives], dim=1)
