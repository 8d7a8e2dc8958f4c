"""SelaVPR's training: triplets that the model mines for itself, and what of the plumbing is not SelaVPR++'s."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from datasets import (
    BenchmarkDataset,
    TripletDataset,
    TripletListing,
    TripletMiner,
    collate_triplets,
    evaluation_transform,
    read_triplet_folder,
)
from losses import local_feature_loss, triplet_loss
from model import SelaVPR, build_selavpr, load_selavpr, read_selavpr, save_selavpr

from ..data import TrainingData, fitting, training_loader
from ..device import PRECISIONS
from ..evaluation.evaluator import Evaluation
from ..loader import ImageLoader
from ..training.loop import ModelFiles, Training, TrainingOptions
from ..training.memory import report_step_memory
from ..training.state import as_one_line

log = logging.getLogger("selavprpp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TripletData:
    """Which images to train on, and how triplets are mined from them (datasets/training/triplets).

    dataset_name         a folder of `datasets_folder` with images/train
    size                 (H, W) in pixels
    triplets_per_batch   queries, each with a positive and its negatives
    batch_size           of the images that mining describes
    """

    datasets_folder: Path
    dataset_name: str
    positives_m: float = 10.0
    mining: str = "partial"
    negs_num_per_query: int = 2
    neg_samples_num: int = 1000
    cache_refresh_rate: int = 1000
    queries_per_epoch: int = 5000
    size: Sequence[int] = (224, 224)
    triplets_per_batch: int = 4
    batch_size: int = 16
    seed: int = 0
    num_workers: int = 0

    def fitted(self, patch: int) -> "TripletData":
        """The same with sides that are the nearest multiples of the backbone's patch, in pixels."""
        return dataclasses.replace(self, size=fitting(self.size, patch, "--resize"))

    def trained_on(self, images: TripletListing) -> dict:
        """What a page must say of the images that a model saw, as results.json and the checkpoint hold it."""
        return {"set": self.dataset_name, "queries": images.listing.n_queries, "database": images.listing.n_database,
                "queries_without_positives": len(images.dropped), "positives_m": self.positives_m,
                "mining": self.mining, "negatives_per_query": self.negs_num_per_query}


class MinedTriplets:
    """The batches of an epoch: round by round the model describes images, triplets are mined, and come `size` large.

    dataset        what is mined
    batch_sampler  the miner, whose epoch `Training` sets
    """

    def __init__(self, data: TripletData):
        self.data = data
        self.dataset = read_triplet_folder(data.datasets_folder, data.dataset_name, positives_m=data.positives_m)
        for warning in self.dataset.listing.warnings:
            log.warning("%s: %s", self.dataset.listing.label, warning)
        self.batch_sampler = TripletMiner(
            self.dataset, mining=data.mining, negs_num_per_query=data.negs_num_per_query,
            neg_samples_num=data.neg_samples_num, cache_refresh_rate=data.cache_refresh_rate,
            queries_per_epoch=data.queries_per_epoch, seed=data.seed)
        listing, miner = self.dataset.listing, self.batch_sampler
        log.info("training on %s: %d queries with a positive, %d without, %d database images; %d rounds of %d queries, "
                 "mining %s", listing.label, listing.n_queries, len(self.dataset.dropped), listing.n_database,
                 miner.n_rounds, miner.cache_refresh_rate, data.mining)
        self._described = BenchmarkDataset(listing, transform=evaluation_transform(data.size))
        self.model: SelaVPR | None = None
        self.done = 0  # batches of the epoch, which are left out
        self.triplets: np.ndarray | None = None  # of the round that the last batch is from

    @property
    def _batches_a_round(self) -> int:
        return self.batch_sampler.cache_refresh_rate // self.data.triplets_per_batch

    def __len__(self) -> int:
        return self.batch_sampler.n_rounds * self._batches_a_round - self.done

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(images (B * (2 + k), 3, H, W) uint8, rows (B * k, 3) of query, positive and negative); an incomplete last
        batch of a round is left out."""
        first, done = divmod(self.done, self._batches_a_round)
        for number in range(first, self.batch_sampler.n_rounds):
            if number > first or not done:
                self.triplets, done = self.batch_sampler.mine(self.describe, round_number=number), 0
            assert self.triplets is not None  # mined before the break
            left = self.triplets[done * self.data.triplets_per_batch:]
            images = TripletDataset(self.dataset.listing, left, size=(self.data.size[0], self.data.size[1]))
            yield from ImageLoader(images, batch_size=self.data.triplets_per_batch, collate_fn=collate_triplets,
                                    num_workers=self.data.num_workers, drop_last=True)

    @torch.no_grad()
    def describe(self, ids: np.ndarray) -> np.ndarray:
        """Global descriptors (n, D) float32 of images, by the model as it is now, in eval mode."""
        assert self.model is not None  # Training sets it
        device, training = next(self.model.parameters()).device, self.model.training
        self.model.eval()
        loader = ImageLoader(Subset(self._described, ids.tolist()), batch_size=self.data.batch_size,
                              num_workers=self.data.num_workers)
        found = [self.model(images.to(device), local=False).floating.cpu() for images, _ in loader]
        self.model.train(training)
        return torch.cat(found).numpy()


def batches_to_learn_from(data: TripletData | TrainingData, *, device: torch.device) -> MinedTriplets | DataLoader:
    """Mined triplets, or, under full supervision, batches of places as SelaVPR++ has them."""
    return MinedTriplets(data) if isinstance(data, TripletData) else training_loader(data, device=device)


def losses_of(model: SelaVPR, batch: Tensor, *, triplets_per_image: float) -> tuple[Tensor, Tensor]:
    """Of made-up triplets of a batch, so many that a step's memory is that of a training."""
    found = model(batch)
    rows = torch.arange(round(triplets_per_image * len(batch)), device=batch.device) % len(batch)
    return triplet_loss(*[found.floating[rows]] * 3), local_feature_loss(*[found.local[rows] for _ in range(3)])


class SelaVPRTraining(Training):
    """Adam at a constant rate; the best epoch is that of the highest re-ranked R@5."""

    files = ModelFiles(build_selavpr, read_selavpr, load_selavpr, save_selavpr)
    score_name = "R@5"
    mined: MinedTriplets | None = None
    _restored: tuple[str, dict] | None = None

    def __init__(self, *given: Any, negatives: int, **options: Any):
        self.negatives = negatives  # of each query
        super().__init__(*given, **options)

    def report_memory(self, model: SelaVPR, options: TrainingOptions, data: TripletData | TrainingData) -> None:
        """Logs what a step will take, both losses included."""
        queries, images = ((data.places_per_batch, data.images_per_place) if isinstance(data, TrainingData) else
                           (data.triplets_per_batch, 2 + self.negatives))
        report_step_memory(
            model, size=(data.size[0], data.size[1]), dtype=PRECISIONS[options.precision], device=options.device,
            places_per_batch=queries, images_per_place=images,
            forward=functools.partial(losses_of, triplets_per_image=self.negatives / images))

    def score(self, evaluation: Evaluation) -> tuple[float, float]:
        return evaluation.final_recalls((5,))[5], 0.0

    def more_state(self) -> dict:
        if self.mined is None:
            return {}
        triplets = None if self.mined.triplets is None else torch.from_numpy(self.mined.triplets)
        return {"mined": {**self.mined.batch_sampler.state_dict(), "triplets": triplets}}

    def restore(self, state: dict, source: str) -> None:
        if "mined" in state:
            self._restored = source, state["mined"]

    def remaining_epochs(self, loader: MinedTriplets | DataLoader) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        if isinstance(loader, MinedTriplets):
            self.mined, loader.model = loader, self.model
            if self._restored:
                source, mined = self._restored
                with as_one_line(source):
                    loader.batch_sampler.load_state_dict(mined)
                    triplets = mined.get("triplets")
                    loader.triplets = None if triplets is None else triplets.numpy()
        yield from super().remaining_epochs(loader)

    def begin_epoch(self, loader: MinedTriplets | DataLoader, *, done: int) -> None:
        if not isinstance(loader, MinedTriplets):
            super().begin_epoch(loader, done=done)
            return
        loader.batch_sampler.set_epoch(self.epoch)
        loader.done = done
