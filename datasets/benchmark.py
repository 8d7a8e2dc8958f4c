"""The images of a benchmark as tensors."""

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from .listing import Listing
from .transforms import Transform, read_image


class BenchmarkDataset(Dataset):
    """An item is (image, index), database images first, then queries, in the order of `listing`.

    query_transform   of queries; None: as the database
    queries_vary      it gives tensors of several sizes
    prepared          what they make of database and query images, in words: where it differs, descriptors that were
                      kept are not those of these images
    parts             listings of some of these images, which are scored too, without extracting anything again
    """

    def __init__(self, listing: Listing, *, transform: Transform, query_transform: Transform | None = None,
                 queries_vary: bool = False, prepared: tuple[str, str] = ("", ""),
                 parts: Sequence[Listing] = ()) -> None:
        self.listing, self.parts = listing, parts
        self.transform, self.query_transform = transform, query_transform or transform
        self.queries_vary = queries_vary
        self.prepared = prepared
        self.n_database, self.n_queries = listing.n_database, listing.n_queries

    def __len__(self) -> int:
        return self.n_database + self.n_queries

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """(image (3,H,W) float32, index).  Raises FileNotFoundError or ValueError naming a bad file."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        queries = index >= self.n_database
        path = self.listing.query_paths[index - self.n_database] if queries else self.listing.database_paths[index]
        image = read_image(path)
        try:
            return (self.query_transform if queries else self.transform)(image), index
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
