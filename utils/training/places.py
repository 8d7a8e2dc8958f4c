"""A training by batches of places, which may be hard ones: places that looked alike in the epoch before."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from datasets import APART_M

from .. import distributed
from ..search import search_hamming
from .loop import Training
from .state import as_one_line

log = logging.getLogger("selavprpp")

LOOK_ALIKES = 32  # of each place
DEPTH = 256  # nearest codes among which they are: those of places close by are passed over
CODE_BITS = 512  # of descriptors so many first values count
_BLOCK = 2**12  # queries at a time

Codes = tuple[Tensor, Tensor]  # labels (n,) int64 of places, and a packed code of each, (n, bytes) uint8


class PlaceTraining(Training):
    """A training whose batches are the paper's or, where the configuration's `places` are hard, mined.

    Each step's own descriptors are noted (`seen`): a code of each place. As every place comes once an epoch, the next
    one's look-alikes are found by a search alone, and no image is described for it. The first epoch's batches are the
    paper's, and so are those behind an epoch that was not noted as a whole: the training went on with other data.
    """

    def __init__(self, *given: Any, **options: Any):
        super().__init__(*given, **options)
        self.hard = self.model.config.places != "paper"
        self.noted: list[Codes] = []  # step by step of this epoch
        self.before: Codes | None = None  # of the epoch before, by which this one's batches are mined
        self.noted_of: tuple | None = None  # which data, where a file said what was noted
        self.mined: dict[str, float] = {}  # seconds and measures of this epoch's mining; empty for the paper's batches

    @torch.no_grad()
    def seen(self, descriptors: Tensor, labels: Tensor) -> None:
        """Notes a step's whole batch: descriptors (P*K, D), the signs of whose first CODE_BITS values count, and labels
        (P*K,), place by place. Nothing in it waits for a GPU.

        A place's code is of the sum of its K images' values: what they have in common. That of its first image would
        hold that image's light, cars and augmentation, too; a vote of an even number of signs would have ties.
        """
        if self.hard:
            sums = descriptors[:, :CODE_BITS].float().unflatten(0, (-1, self.data.images_per_place)).sum(1)
            bits = pad(sums >= 0, (0, -sums.shape[1] % 8)).unflatten(1, (-1, 8))
            packed = (bits * 2 ** torch.arange(7, -1, -1, device=bits.device)).sum(2).to(torch.uint8)
            self.noted.append((labels[::self.data.images_per_place], packed))

    def begin_epoch(self, loader: DataLoader, *, done: int) -> None:
        super().begin_epoch(loader, done=done)
        if not self.hard:
            return
        if self.noted_of not in (None, _counts(self.trained_on)):
            log.warning("the resumed run had other places: the paper's batches, until each of these has a code")
            self.before, self.noted = None, []
        if not done:
            self.before, self.noted = self._joined(), []
        self.noted_of, self.mined = None, {}
        n_places, sampler, started = loader.dataset.n_places, loader.batch_sampler, time.perf_counter()
        if self.before is None or not torch.equal(self.before[0].sort()[0], torch.arange(n_places)):
            log.info("epoch %d: the paper's batches, as not every place has a code yet", self.epoch + 1)
            return
        places, codes = self.before
        ordered = codes[places.argsort()].numpy()
        bits = {"papers_nearest_bits": nearest_bits(sampler.planned, ordered)}
        found = distributed.first_decides(lambda: look_alikes(
            ordered, loader.dataset.positions, loader.dataset.city_places, device=self.device))
        sampler.set_epoch(self.epoch, done=done, look_alikes=found)
        bits["nearest_bits"] = nearest_bits(sampler.planned, ordered)
        self.mined = {"seconds": time.perf_counter() - started, **bits}
        log.info("epoch %d: look-alikes of %d places found in %.1f s; from a place to the nearest other of its batch "
                 "it is %.1f bits, in the paper's batches %.1f", self.epoch + 1, len(found), self.mined["seconds"],
                 bits["nearest_bits"], bits["papers_nearest_bits"])

    def end_training_pass(self) -> None:
        super().end_training_pass()
        if self.mined:
            self.mined["share_of_epoch"] = self.mined["seconds"] / self.meter.seconds
            log.info("epoch %d: mining took %.1f s, %.2f %% of the epoch's batches", self.epoch + 1,
                     self.mined["seconds"], 100 * self.mined["share_of_epoch"])

    def more_metrics(self) -> dict:
        return {"hard_places": self.mined} if self.mined else {}

    def more_state(self) -> dict:
        return {"places": {"before": self.before, "noted": self._joined()}} if self.hard else {}

    def restore(self, state: dict, source: str) -> None:
        if self.hard and "places" in state:
            with as_one_line(source):
                self.before = _checked(state["places"]["before"])
                noted = _checked(state["places"]["noted"])
                self.noted = [(noted[0].to(self.device), noted[1].to(self.device))] if noted else []
                self.noted_of = _counts(state["data"])

    def _joined(self) -> Codes | None:
        """What was noted of this epoch, on the CPU."""
        if not self.noted:
            return None
        places, codes = (torch.cat(parts).cpu() for parts in zip(*self.noted, strict=True))
        return places, codes


def look_alikes(codes: np.ndarray, positions: np.ndarray, city_places: Sequence[range], *, k: int = LOOK_ALIKES,
                device: torch.device | None = None) -> np.ndarray:
    """(n, k) int32: of each place those of the same city whose codes are nearest by Hamming distance, the nearest
    first, of the DEPTH nearest those that are more than APART_M away; -1 where there are fewer.

    codes (n, bytes) uint8, positions (n, 3) in metres, city_places as PlaceDataset has them.
    """
    found = np.full((len(codes), k), -1, np.int32)
    for places in city_places:
        for start in range(places.start, places.stop, _BLOCK):
            some = slice(start, min(start + _BLOCK, places.stop))
            city = slice(places.start, places.stop)
            near = search_hamming(codes[city], codes[some], DEPTH, device=device)[1] + places.start
            apart = np.linalg.norm(positions[near] - positions[some, None], axis=2) > APART_M
            order = np.argsort(~apart, axis=1, kind="stable")[:, :k]  # those apart first, in their order
            near[~apart] = -1
            found[some, :order.shape[1]] = np.take_along_axis(near, order, axis=1)
    return found


def nearest_bits(batches: Sequence[Sequence[int]], codes: np.ndarray) -> float:
    """How hard batches are: the mean, over all places, of the Hamming distance from a place's code to the nearest of
    another place in its batch; lone places left out. 0 where all are."""
    distances = [search_hamming(codes[batch], codes[batch], 2)[0][:, 1] for batch in batches if len(batch) > 1]
    return float(np.concatenate(distances).mean()) if distances else 0.0


def _counts(trained_on: dict) -> tuple:
    return trained_on["places"], trained_on["images"], trained_on["cities"]


def _checked(found: Sequence[Tensor] | None) -> Codes | None:
    if found is None:
        return None
    places, codes = found
    if (places.dtype, codes.dtype, places.ndim, codes.ndim) != (torch.int64, torch.uint8, 1, 2) or len(places) != len(
            codes) or not codes.shape[1]:
        raise ValueError(f"codes of places are {codes.dtype} {tuple(codes.shape)} with labels {places.dtype} "
                         f"{tuple(places.shape)}; expected uint8 (n, bytes) with int64 (n,)")
    return places, codes
