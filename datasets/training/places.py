"""Training places in the GSV-Cities layout, and batches of places from one city."""

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..commands import progress
from ..readers.coordinates import EARTH_M, unit_vectors
from ..transforms import Transform, read_image
from .tables import read_city, whole_city

LAYOUT = "<folder>/Dataframes/<City>.csv and <folder>/Images/<City>/*.jpg"

# Of hard batches.
APART_M = 100.0  # places that look alike are farther apart, or they may be one
FAMILIES_SHARE = 0.5  # of a batch
FAMILY = 4  # places at most: a seed and its nearest look-alikes
_TRIED = 100  # seeds, or places, that lie too near for a batch, before it goes without


class PlaceDataset(Dataset):
    """Places with several images each; an item is `images_per_place` images of one, drawn at random.

    `transform` makes tensors of one size of the RGB images (`training_transform`).

    Stateless: the images drawn and their augmentation depend on (seed, epoch, place) alone, hence neither
    on the number of workers nor on what ran before.

    cities, missing_cities   those of the requested cities that have, and have not, a CSV
    n_places, n_images       places kept, and images in them
    dropped_places           places left out because they have fewer than images_per_place images
    repeated                 for each table with rows of an image that an earlier row has: how many, and the first, in
                             words; such rows are passed over
    empty_cities             those of `cities` that no place is left of
    city_places              for each city its range of place numbers (the labels); they run on from city to
                             city, so that two places never share one
    positions                (n_places, 3) float64, where the places are: the mean of their images, metres from the
                             centre of the globe

    Raises FileNotFoundError when no requested city is there, ValueError for a bad argument or CSV.
    """

    def __init__(self, folder: Path | str, *, cities: Sequence[str], images_per_place: int = 4, transform: Transform,
                 seed: int = 0) -> None:
        for what, value, least in (("images_per_place", images_per_place, 1), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{what} {value}: expected at least {least}")
        if not cities or len(set(cities)) < len(cities):
            raise ValueError(f"cities {list(cities)}: expected at least one, each named once")
        self.folder = Path(folder)
        self.images_per_place = images_per_place
        self.transform = transform
        self.seed = seed
        tables = self.folder / "Dataframes"
        self.cities = [city for city in cities if (tables / f"{city}.csv").is_file()]
        self.missing_cities = [city for city in cities if city not in self.cities]
        if not self.cities:
            present = ", ".join(sorted(path.stem for path in tables.glob("*.csv"))[:10]) or "none"
            raise FileNotFoundError(
                f"{self.folder}: none of the {len(cities)} requested cities ({cities[0]}, ...) is there; "
                f"expected {LAYOUT}; CSVs found: {present}")
        self.dropped_places = self.n_places = 0
        self.city_places: list[range] = []
        self.repeated: list[str] = []
        images, counts, positions = [], [], []
        for city in progress(self.cities, "tables of cities"):
            place_ids, city_images, degrees = read_city(tables / f"{city}.csv")
            for city_id in {path.split(b"/")[0].decode() for path in city_images}:
                if not (self.folder / "Images" / city_id).is_dir():
                    raise FileNotFoundError(f"{self.folder / 'Images' / city_id}: no such folder, listed in "
                                            f"{tables / city}.csv; expected {LAYOUT}")
            _, firsts = np.unique(city_images, return_index=True)
            if len(firsts) < len(city_images):
                again = np.delete(np.arange(len(city_images)), firsts)
                self.repeated.append(f"{tables / city}.csv: {len(again)} of {len(city_images)} rows repeat another "
                                     f"one's image, which is used once; the first is {city_images[again[0]].decode()}")
                firsts.sort()
                place_ids, city_images, degrees = place_ids[firsts], city_images[firsts], degrees[firsts]
            order = np.argsort(place_ids, kind="stable")
            _, starts, city_counts = np.unique(place_ids[order], return_index=True, return_counts=True)
            kept = city_counts >= images_per_place
            images.append(city_images[order][np.repeat(kept, city_counts)])
            counts.append(city_counts[kept])
            sums = np.add.reduceat(EARTH_M * unit_vectors(*degrees[order].T), starts)
            positions.append((sums / city_counts[:, None])[kept])
            self.dropped_places += int((~kept).sum())
            self.city_places.append(range(self.n_places, self.n_places + int(kept.sum())))
            self.n_places += int(kept.sum())
        if not self.n_places:
            raise ValueError(f"{self.folder}: none of the {self.dropped_places} places has images_per_place = "
                             f"{images_per_place} images; lower it or add images")
        self.empty_cities = [city for city, kept in zip(self.cities, self.city_places, strict=True) if not kept]
        # An array of bytes, not a list of strings: workers then read it without copying its memory.
        self._images = np.concatenate(images)
        self._starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        self.n_images = len(self._images)
        self.positions = np.concatenate(positions)

    def __len__(self) -> int:
        return self.n_places

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(epoch, place) -> images (K,3,H,W) uint8 and the place's label repeated (K,) int64.

        Raises FileNotFoundError or ValueError naming an image that is absent or cannot be read.
        """
        epoch, place = index
        if not 0 <= place < self.n_places:
            raise IndexError(f"place {place} of {self.n_places}")
        rng = _generator(self.seed, epoch, place)
        rows = range(self._starts[place], self._starts[place + 1])
        paths = [self.folder / "Images" / self._images[row].decode()
                 for row in rng.choice(rows, self.images_per_place, replace=False)]
        # torchvision's augmentations draw from torch's global CPU generator; it is put back afterwards.
        # torch.manual_seed would also reseed the GPUs, which fork_rng(devices=[]) leaves alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(rng.integers(2**63)))
            images = torch.stack([self.transform(read_image(path)) for path in paths])
        return images, torch.full((self.images_per_place,), place, dtype=torch.int64)


class CityBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of `places_per_batch` (epoch, place) pairs, for a DataLoader's batch_sampler.

    Every epoch the order of the cities and the places inside each city are shuffled, and the sequence is cut
    into batches: a batch comes from one city (its negatives are harder) and mixes only where a city's places
    end.  Every place comes once an epoch; the last batch may be short.  The order is that of (seed, epoch).

    Cities that differ in a number at the end alone are groups of one city (equation 17 of the paper), whose places
    touch: no batch has places of two of them, but ends short where the next would begin. So are the cities that two
    data sets share (`whole_city`): in the published code Bangkok and bangkok0 may meet in a batch, as negatives.

    Of several processes that train together each gets its share of every batch; the shares differ by one place at most
    and are, laid end to end, the batch of one process.  None is ever empty: a batch with fewer places than processes
    joins the one before, the first one the one behind.

    planned  the places of this epoch's batches, for all processes together
    """

    def __init__(self, dataset: PlaceDataset, *, places_per_batch: int, seed: int = 0, process: int = 0,
                 processes: int = 1) -> None:
        if places_per_batch < processes:
            raise ValueError(f"places_per_batch {places_per_batch}: expected at least {processes}, a place for each "
                             "process; raise it or start fewer processes")
        if dataset.n_places < processes:
            raise ValueError(f"{dataset.n_places} places for {processes} processes: expected at least one for each; "
                             "start fewer processes")
        self.dataset = dataset
        self._whole_city = [whole_city(city) for city in dataset.cities]
        self.places_per_batch = places_per_batch
        self.seed = seed
        self.process, self.processes = process, processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int, *, done: int = 0, look_alikes: np.ndarray | None = None) -> None:
        """Choose the epoch (from 0) that the next iteration yields, without the `done` batches it begins with; and
        whether its batches are hard, see `batches`."""
        self.epoch, self.done, self.planned = epoch, done, self.batches(epoch, look_alikes)

    def __len__(self) -> int:
        """Batches that are left of this epoch; where there are groups it depends on the cities' order."""
        return len(self.planned) - self.done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for batch in self.planned[self.done:]:
            start, stop = (-(-len(batch) * part // self.processes) for part in (self.process, self.process + 1))
            yield [(epoch, place) for place in batch[start:stop]]

    def batches(self, epoch: int, look_alikes: np.ndarray | None = None) -> list[list[int]]:
        """The places of an epoch's batches, for all processes together.

        look_alikes  (n_places, k): of each place others, the most alike first, -1 for none; None: the paper's batches.
                     Then each batch has as many places of a city as the paper's batch has, but other ones:
                     FAMILIES_SHARE of them, which come first, are families of up to FAMILY, a seed and its nearest
                     look-alikes in its city that are left of this epoch; the others are drawn from what is left.
                     Places of a family are more than APART_M from each other, and of a batch where that can be had.
        """
        paper = self._paper_batches(epoch)
        if look_alikes is None:
            return [[place for _, place in batch] for batch in paper]
        cities: dict[int, list[int]] = defaultdict(list)
        for city, place in itertools.chain(*paper):
            cities[city].append(place)
        deals = {city: _Deal(places, look_alikes, self.dataset.positions) for city, places in cities.items()}
        hard: list[list[int]] = []
        for batch in paper:
            hard.append([])
            counts = Counter(city for city, _ in batch)
            for city, count in counts.items():
                families = deals[city].families(int(FAMILIES_SHARE * count), hard[-1])
                hard[-1] += families
                counts[city] -= len(families)
            for city, count in counts.items():
                hard[-1] += deals[city].others(count, hard[-1])
        return hard

    def _paper_batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """(city, place) pairs of an epoch's batches, for all processes together."""
        rng = _generator(self.seed, epoch)
        batches: list[list[tuple[int, int]]] = []
        groups: dict[str, int] = {}  # of each whole city in the batch that is being filled
        for city in rng.permutation(len(self.dataset.city_places)).tolist():
            whole_city = self._whole_city[city]
            for place in rng.permutation(self.dataset.city_places[city]).tolist():
                straddles = groups.get(whole_city, city) != city
                if not batches or straddles or len(batches[-1]) == self.places_per_batch:
                    batches.append([])
                    groups = {}
                batches[-1].append((city, place))
                groups[whole_city] = city
        merged: list[list[tuple[int, int]]] = []  # those with too few places for the processes joined to a neighbour
        for batch in batches:
            if merged and min(len(batch), len(merged[-1])) < self.processes:
                merged[-1] += batch
            else:
                merged.append(batch)
        for batch in merged:
            inside = [self._whole_city[city] for city in dict(batch)]
            if len(set(inside)) < len(inside):
                names = [self.dataset.cities[city] for city in dict(batch) if inside.count(self._whole_city[city]) > 1]
                raise ValueError(f"{self.processes} processes: one of {', '.join(names)} has too few places for a "
                                 "batch of its own; start fewer processes, or leave it out")
        return merged


class _Deal:
    """The places of one city that are left of an epoch; what is dealt to a batch is gone.

    places  in the order in which they are dealt
    """

    def __init__(self, places: list[int], look_alikes: np.ndarray, positions: np.ndarray) -> None:
        self.left, self.seeds = dict.fromkeys(places), deque(places)
        self.look_alikes, self.positions = look_alikes, positions

    def families(self, room: int, batch: list[int]) -> list[int]:
        """Up to `room` places, family by family, apart from those of the batch; as few as possible are near one."""
        found: list[int] = []
        for beside in (batch, None):
            put_off: list[int] = []  # seeds for later batches
            while len(found) < room - 1 and self.seeds and len(put_off) < _TRIED:
                seed = self.seeds.popleft()
                alike = [place for place in self.look_alikes[seed].tolist() if place in self.left]
                if seed not in self.left or not alike:
                    continue  # nor will it ever lead a family
                others = [] if beside is None else beside + found
                family = self._apart([seed, *alike], others, min(FAMILY, room - len(found)))
                if family[0:1] == [seed] and len(family) > 1:
                    found += self._dealt(family)
                else:
                    put_off.append(seed)
            self.seeds.extendleft(reversed(put_off))
        return found

    def others(self, count: int, batch: list[int]) -> list[int]:
        """The next places, those near one of the batch put off; of them, too, where there are not enough others."""
        candidates = list(itertools.islice(self.left, count + _TRIED))
        apart = self._apart(candidates, batch, count)
        return self._dealt([*apart, *(place for place in candidates if place not in apart)][:count])

    def _dealt(self, places: list[int]) -> list[int]:
        for place in places:
            del self.left[place]
        return places

    def _apart(self, places: list[int], others: list[int], count: int) -> list[int]:
        """The first `count` places that are apart from the others and from each other."""
        at = self.positions[places]

        def far_from(points: np.ndarray) -> np.ndarray:
            return (np.linalg.norm(at[:, None] - points, axis=2) > APART_M).all(axis=1)

        free, taken = far_from(self.positions[others]), []
        while len(taken) < count and free.any():
            first = int(free.argmax())
            taken.append(places[first])
            free &= far_from(at[[first]])  # itself among them
        return taken


def collate_places(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """B items of a PlaceDataset -> images (B*K,3,H,W) uint8 and labels (B*K,) int64."""
    images, labels = zip(*samples, strict=True)
    return torch.cat(images), torch.cat(labels)


def _generator(seed: int, *key: int) -> np.random.Generator:
    """Independent random numbers for each (seed, key)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
