"""Training images without labels, each seen by two models: one augmented view, in two sizes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, Sampler

from ..transforms import read_image, training_transform


class ViewDataset(Dataset):
    """An item is one view of an image, drawn at random, in two sizes, for the one model and for the other.

    sizes  (H, W) in pixels. The view is augmented (`training_transform`) at the larger height and width of both, and
           resized from there, antialiased: both models see the same, as far as their pixels go.

    Stateless: the augmentation depends on (seed, epoch, image) alone, as in PlaceDataset.
    """

    def __init__(self, paths: Sequence[Path], *, sizes: tuple[tuple[int, int], tuple[int, int]], seed: int = 0) -> None:
        if not paths:
            raise ValueError("no images were given; expected at least one")
        self.paths, self.sizes, self.seed = paths, sizes, seed
        height, width = map(max, zip(*sizes, strict=True))
        self._transform = training_transform((height, width))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(epoch, image) -> two of (3,H,W) uint8, in the order of `sizes`.

        Raises FileNotFoundError or ValueError naming an image that is absent or cannot be read.
        """
        epoch, number = index
        image = read_image(self.paths[number])
        with torch.random.fork_rng(devices=[]):  # see PlaceDataset
            torch.default_generator.manual_seed(int(np.random.default_rng([self.seed, epoch, number]).integers(2**63)))
            view = self._transform(image)
        first, second = (view if view.shape[1:] == size else
                         interpolate(view[None], size, mode="bilinear", antialias=True)[0] for size in self.sizes)
        return first, second


class ImageBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of at most `images_per_batch` (epoch, image) pairs, for a DataLoader's batch_sampler.

    Every image comes once an epoch, in an order of (seed, epoch); batches differ by one image at most, so that none is
    much smaller than the others.
    """

    def __init__(self, n_images: int, *, images_per_batch: int, seed: int = 0) -> None:
        self.n_images, self.n_batches = n_images, -(-n_images // images_per_batch)
        self.seed = seed
        self.epoch = self.done = 0

    def set_epoch(self, epoch: int, *, done: int = 0) -> None:
        """Choose the epoch (from 0) that the next iteration yields, without the `done` batches it begins with."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return self.n_batches - self.done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, np.random.default_rng([self.seed, self.epoch]).permutation(self.n_images)
        for batch in np.array_split(order, self.n_batches)[self.done:]:
            yield [(epoch, number) for number in batch.tolist()]
