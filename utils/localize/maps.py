"""A map: an index of images of known places, in the folder that an evaluation keeps its descriptors in.

Its images are known by their paths below the folder of `folder_of`, else by whole paths.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets import evaluation_transform, own_pictures
from datasets.readers.coordinates import in_plane_of, plane_and_zone
from datasets.transforms import read_image
from model import BACKBONES, BRANCHES, CheckpointError, cut_floats, load_model

from ..data import EvaluationImages, fitting, preparation, prepared_as
from ..device import PRECISIONS, pick_device
from ..evaluation.extraction import DATABASE, OwnModel, source
from ..evaluation.forecast import check_disk
from ..loader import ImageLoader
from ..models import ModelOptions, model_for_evaluation, read_model, said_of_cuts, taught_by
from ..ranks import progress
from ..search import IndexWriter, RowShape, TwoStageIndex, pack_codes

log = logging.getLogger("selavprpp")
BATCH = 16  # images; fewer wait for no loader processes
LOADERS = 8  # at most


class Described(NamedTuple):
    """Of some images: their numbers, ascending, packed codes and float descriptors, None for a missing branch."""

    numbers: np.ndarray
    codes: np.ndarray | None
    floats: np.ndarray | None


class Eye(NamedTuple):
    """A model that looks at images as those of a map were looked at."""

    extractor: OwnModel
    branches: tuple[str, ...]
    transform: Callable
    dtype: torch.dtype

    def described(self, paths: Sequence[Path], unreadable: dict[Path, str], *, what: str,
                  only: Sequence[int] | None = None) -> Iterator[Described]:
        """Of images, or `only` some of their numbers, batch by batch; those that cannot be read go to `unreadable`,
        with the reason, instead."""
        network = self.extractor.network(dtype=self.dtype)
        numbers = np.arange(len(paths)) if only is None else np.asarray(only)
        loader = ImageLoader(_Files(paths, self.transform), device=self.extractor.device, collate_fn=_readable,
                             batch_sampler=np.array_split(numbers, max(1, -(-len(numbers) // BATCH))),
                             num_workers=0 if len(numbers) <= BATCH else min(LOADERS, os.cpu_count() or 1))
        with progress([], what, total=len(numbers), unit=" images") as bar:
            for images, found, errors in loader if len(numbers) else ():
                unreadable.update((paths[number], error) for number, error in errors)
                if images is not None:
                    out = network(images.to(self.extractor.device), branches=self.branches)
                    yield Described(np.array(found), None if out.binary is None else pack_codes(out.binary.cpu()),
                                    None if out.floating is None else out.floating.cpu().numpy())
                bar.update(len(found) + len(errors))


class _Files(Dataset):
    def __init__(self, paths: Sequence[Path], transform: Callable):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[int, torch.Tensor | str]:
        try:
            return int(number), self.transform(read_image(self.paths[number]))
        except (OSError, ValueError) as error:
            return int(number), " ".join(str(error).split())


def _readable(items: list[tuple[int, torch.Tensor | str]]) -> tuple:
    good = [(number, image) for number, image in items if not isinstance(image, str)]
    bad = [(number, error) for number, error in items if isinstance(error, str)]
    return torch.stack([image for _, image in good]) if good else None, [number for number, _ in good], bad


def place_of(folder: Path) -> Path:
    """Where the index lies that is called `folder`: in it, or in its DATABASE, as evaluations leave it."""
    inner = folder / DATABASE
    return inner if (inner / "index.sqlite").exists() and not (folder / "index.sqlite").exists() else folder


def opened(folder: Path, chosen: ModelOptions, *, device: str | None = None) -> tuple[TwoStageIndex, Eye]:
    """A map, and the model whose descriptors it holds, or a student of that one: the chosen file's, or the published
    weights of the map's backbone. Raises ValueError, which names both models, where the map is of another."""
    index = TwoStageIndex.open(place_of(folder))
    width = index.shape
    branches = tuple(name for name in BRANCHES if (width.float_dim if name == "float" else width.code_bytes))
    if chosen.resume is None and chosen.backbone is None:
        backbone, _, aggregation = index.model.name.partition(" ")
        if backbone not in BACKBONES:
            raise ValueError(f"{folder} is an index of {index.model}; give its model file by --resume")
        chosen = ModelOptions(backbone=backbone, aggregation=aggregation)
    # Of a file whatever it holds: one with other branches is another model, which is refused as such.
    model, checkpoint = model_for_evaluation(chosen, branches=() if chosen.resume else branches, mapped=True)
    if width.float_dim is not None and (model.config.float_dim or 0) > width.float_dim:
        with contextlib.suppress(CheckpointError):  # of a head that cannot be cut, whose map this is not
            model = load_model(cut_floats(checkpoint, width.float_dim), shared=True)
    taught = taught_by(checkpoint, model.config.float_dim)
    extractor = OwnModel(model.to(pick_device(device)), taught=taught)
    try:  # which reads every weight: so equal, none is damaged
        index.of(extractor.identity, teacher=taught and taught.by)
    except ValueError:
        if chosen.resume is not None:
            read_model(chosen.resume)  # is it another model, or a damaged file?
        raise
    of_student = extractor.identity.fingerprint != index.model.fingerprint
    if of_student:
        read_model(chosen.resume)  # whose fingerprint nobody knows: is it damaged?
        log.info("%s is of %s; its student %s asks", folder, index.model, extractor.identity)
    told = prepared_as(taught.prepared if of_student else index.source.get("prepared"))
    if told is None:
        told = tuple(EvaluationImages.size), EvaluationImages.normalisation
        log.warning("%s does not say how its images were prepared; taking %s", folder, preparation(*told))
    precision = index.source.get("precision", "fp32")
    if precision not in PRECISIONS:
        raise ValueError(f"{folder}: its descriptors' precision is {precision!r}; expected one of "
                         f"{', '.join(PRECISIONS)}: extract again")
    return index, Eye(extractor, branches, evaluation_transform(*told), PRECISIONS[precision])


class Listed(NamedTuple):
    """Images to make a map of: their files, the folder that their names are relative to, metres (n, 2) float64, NaN
    where unknown, and the UTM zone of these, 0 where that is not known."""

    home: Path
    zone: int
    paths: Sequence[Path]
    places: np.ndarray

    @property
    def names(self) -> list[str]:
        return [name_of(path, self.home) for path in self.paths]

    def part(self, some: range) -> "Listed":
        return self._replace(paths=self.paths[some.start:some.stop], places=self.places[some.start:some.stop])


def listed(images: Path, *, coordinates: Path | None = None) -> Listed:
    """All images in a folder and below; coordinates: as datasets.own_pictures.

    Raises FileNotFoundError where there is no such folder, ValueError for coordinates of two zones.
    """
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder; expected one of images to build the map of")
    pictures = own_pictures([images], coordinates=coordinates)
    for warning in pictures.warnings:
        log.warning("%s", warning)
    places, zone = _plane(pictures.points, pictures.paths)
    return Listed(whole(images).parent, zone, pictures.paths, places)


class Maker(NamedTuple):
    """A model that makes maps; prepared and precision as the source of an index tells them."""

    eye: Eye
    prepared: str
    precision: str

    @classmethod
    def of(cls, chosen: ModelOptions, *, size: Sequence[int] = EvaluationImages.size, precision: str = "fp32",
           device: str | None = None) -> "Maker":
        """size: (H, W) in pixels, moved to the model's patches."""
        model, checkpoint = model_for_evaluation(chosen, branches=() if chosen.resume else BRANCHES)
        said_of_cuts(checkpoint.config, float_dim=chosen.float_dim)
        size = fitting(size, model.config.vit.patch, "--resize")
        eye = Eye(OwnModel(model.to(pick_device(device))), model.config.branches, evaluation_transform(size),
                  PRECISIONS[precision])
        return cls(eye, preparation(size), precision)

    def make(self, place: Path, given: Listed, unreadable: dict[Path, str], *, store: str = "fp32") -> TwoStageIndex:
        """Extracts an index of these images into a folder, goes on with one that was broken off, or opens what is
        there already. Those that cannot be read go to `unreadable`, with the reason, and are left out.

        Raises ValueError where none can be read, and where the folder holds another index.
        """
        extractor, names = self.eye.extractor, given.names
        identity = source(extractor.identity, names, branches=self.eye.branches, prepared=self.prepared,
                          precision=self.precision, store=store)
        if IndexWriter.finished(place, identity):
            log.info("%s holds these images already", place)
            return TwoStageIndex.open(place)
        row = RowShape(extractor.code_bits and extractor.code_bits // 8, extractor.float_dim, store)
        check_disk(place, len(names) * row.row_bytes, advice="choose another folder, or a smaller --store")
        with IndexWriter(place, n=len(names), identity=identity, **row._asdict()) as writer:
            missing = writer.missing(range(len(names)))
            for some in self.eye.described(given.paths, unreadable, what="extracting", only=missing):
                first = 0
                for run in np.split(some.numbers, np.flatnonzero(np.diff(some.numbers) > 1) + 1):
                    part = slice(first, first + len(run))
                    writer.write(int(run[0]), codes=None if some.codes is None else some.codes[part],
                                 floats=None if some.floats is None else some.floats[part])
                    first = part.stop
            writer.flush()
            left_out = writer.missing(range(len(names)))
            if len(left_out) == len(names):
                tell_unreadable(unreadable, len(names))
                raise ValueError(f"{place}: none of its {len(names)} images can be read; nothing was built")
            return writer.finish(names=names, coordinates=given.places, model=extractor.identity, left_out=left_out,
                                 notes={"folder": str(given.home), "utm_zone": given.zone})


def build(folder: Path, images: Path, chosen: ModelOptions, *, size: Sequence[int] = EvaluationImages.size,
          coordinates: Path | None = None, precision: str = "fp32", store: str = "fp32",
          device: str | None = None) -> TwoStageIndex:
    """Extracts a map of all images in a folder and below; a build that was broken off is resumed.

    size, precision, device: as Maker.of; coordinates: as datasets.own_pictures
    Images that cannot be read are named in the log and left out. Raises ValueError where none can be read, where the
    folder holds another index, and for coordinates of two zones.
    """
    given = listed(images, coordinates=coordinates)
    place = folder if (folder / "index.sqlite").exists() else folder / DATABASE
    unreadable: dict[Path, str] = {}
    maker = Maker.of(chosen, size=size, precision=precision, device=device)
    index = maker.make(place, given, unreadable, store=store)
    tell_unreadable(unreadable, len(given.paths))
    tell_unplaced(given.places, len(given.paths))
    return index


def add(index: TwoStageIndex, eye: Eye, given: Sequence[Path], *, coordinates: Path | None = None) -> int:
    """Adds images, and those in folders and below, and saves; returns how many.

    Raises ValueError, and changes nothing, where one is in the map already, for coordinates in another plane than the
    map's, where none can be read, and where a student would describe them.
    """
    if eye.extractor.identity.fingerprint != index.model.fingerprint:
        raise ValueError(f"{index.folder} is an index of {index.model}, whose student {eye.extractor.identity} asks it "
                         "but adds nothing; give the file of the first")
    pictures = own_pictures(given, coordinates=coordinates)
    for warning in pictures.warnings:
        log.warning("%s", warning)
    names = [name_of(path, folder_of(index)) for path in pictures.paths]
    if there := sorted({*names} & {*names_in(index)}):
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise ValueError(f"{there[0]}{more}: in {index.folder} already; remove them first, or leave them out")
    known = [i for i, point in enumerate(pictures.points) if point is not None]
    places = np.full((len(names), 2), np.nan)
    if known:
        places[known] = in_plane_of(zone_of(index), [pictures.points[i] for i in known],
                                    [str(pictures.paths[i]) for i in known], f"the map {index.folder}")
    unreadable: dict[Path, str] = {}
    found = [*eye.described(pictures.paths, unreadable, what="extracting")]
    tell_unreadable(unreadable, len(names))
    if not found:
        raise ValueError(f"none of {len(names)} images can be read; nothing was added")
    rows = np.concatenate([some.numbers for some in found])
    codes = None if found[0].codes is None else np.concatenate([some.codes for some in found])
    floats = None if found[0].floats is None else np.concatenate([some.floats for some in found])
    index.add(names=[names[row] for row in rows], codes=codes, floats=floats, coordinates=places[rows])
    index.save()
    tell_unplaced(places[rows], len(rows))
    return len(rows)


def remove(index: TwoStageIndex, names: Sequence[str]) -> int:
    """Removes images by the names that they have in the map, or by their paths, and saves; returns how many.

    Raises ValueError, and changes nothing, for one that is not there.
    """
    known = {*names_in(index)}
    wanted = [name if name in known else name_of(whole(Path(name)), folder_of(index)) for name in names]
    unknown = [given for given, name in zip(names, wanted, strict=True) if name not in known]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(f"{index.folder}: no image is named {unknown[0]}{more}; expected names like {min(known)}")
    before = len(index)
    index.remove(wanted)
    index.save()
    return before - len(index)


def names_in(index: TwoStageIndex) -> Iterator[str]:
    """Of all images that can be found."""
    for ids in index.live_ids():
        yield from index.names(ids)


def folder_of(index: TwoStageIndex) -> Path | None:
    """What the names of a map's images are relative to; None where the index does not say so."""
    folder = index.notes.get("folder")
    return Path(folder) if isinstance(folder, str) else None


def zone_of(index: TwoStageIndex) -> int:
    """The UTM zone of a map's metres, negative in the southern hemisphere; 0: the index does not say so."""
    zone = index.notes.get("utm_zone")
    return zone if isinstance(zone, int) and 1 <= abs(zone) <= 60 else 0


def whole(path: Path) -> Path:
    """Absolute, and without "..", as images are known."""
    path = path.absolute()
    return path.resolve() if ".." in path.parts else path


def name_of(path: Path, home: Path | None) -> str:
    """What an image is called in a map: its path below the map's folder, else its whole path."""
    return str(path.relative_to(home)) if home is not None and path.is_relative_to(home) else str(path)


def tell_unreadable(unreadable: dict[Path, str], n: int) -> None:
    """Names each image that is left out, and counts them."""
    for error in unreadable.values():
        log.warning("%s", error)
    if unreadable:
        log.warning("%d of %d images cannot be read and are left out", len(unreadable), n)


def _plane(points: Sequence, paths: Sequence[Path]) -> tuple[np.ndarray, int]:
    known = [i for i, point in enumerate(points) if point is not None]
    places = np.full((len(points), 2), np.nan)
    places[known], zone = plane_and_zone([points[i] for i in known], [str(paths[i]) for i in known])
    return places, zone


def tell_unplaced(places: np.ndarray, n: int) -> None:
    """Counts the images without coordinates."""
    if missing := int(np.isnan(places).any(axis=1).sum()):
        log.warning("%d of %d images have no coordinates (in a CSV, the name or EXIF GPS): as answers they have only "
                    "their names", missing, n)
