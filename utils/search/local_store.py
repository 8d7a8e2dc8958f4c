"""Local features of many images, on disk or made anew; an image's are a map (rows, columns, D) of unit length.

One file holds all images, each under its number: no name of an image becomes a name of a file. It is numpy's .npy, as
float16: 2 * rows * columns * D bytes an image, 0.95 MB for 61 x 61 x 128. Behind it, where numpy does not look, is each
image's CRC-32. Reading maps it into memory for as long as that takes, so that RAM holds what was asked for alone.
"""

import contextlib
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..errors import named
from .index.disk import regular
from .stores import NOT_FINITE

Write = Callable[[int, np.ndarray], None]  # first image's number, its features and those of the ones behind it


class LocalFeatures:
    """A finished file of `write_local`. Raises FileNotFoundError, and ValueError for any other file.

    shape  (rows, columns, D) of an image's map
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        features = self._open()
        if features.ndim != 4 or features.dtype != np.float16:
            raise ValueError(f"{self.path} holds {features.dtype} {features.shape}; "
                             "expected local features, float16 (images, rows, columns, width)")
        self._images, self.shape = len(features), features.shape[1:]
        self._read = np.zeros(len(features), bool)  # and compared with their checksums
        self._checksums = np.fromfile(self.path, "<u4", offset=features.offset + features.nbytes)
        if len(self._checksums) != len(features):
            raise ValueError(f"{self.path} is torn: {len(self._checksums)} of {len(features)} checksums; extract again")

    def __len__(self) -> int:
        return self._images

    @property
    def bytes_per_image(self) -> int:
        return 2 * int(np.prod(self.shape))

    def read(self, images: np.ndarray) -> np.ndarray:
        """A copy of the features (k, rows, columns, D) float16 of images (k,).

        ValueError for one that is not there, and for one whose bytes have changed since they were written.
        """
        if len(images) and not 0 <= images.min() <= images.max() < len(self):
            raise ValueError(f"images range from {images.min()} to {images.max()}; "
                             f"expected some of the {len(self)} in {self.path}")
        found = np.asarray(self._open())[images]
        for image, features in zip(images.tolist(), found, strict=True):
            if not self._read[image] and zlib.crc32(np.ascontiguousarray(features).data) != self._checksums[image]:
                raise ValueError(f"{self.path} is damaged: the features of image {image} do not fit their checksum; "
                                 "extract it again")
            self._read[image] = True
        return found

    def __getitem__(self, image: int) -> np.ndarray:
        """Likewise of one image (rows, columns, D)."""
        return self.read(np.array([image]))[0]

    def _open(self) -> np.memmap:
        try:
            found = np.load(regular(self.path), mmap_mode="r", allow_pickle=False)
            if not isinstance(found, np.memmap):
                raise ValueError(f"a {type(found).__name__}")
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.path} is no file of local features, or torn: {error}; extract them again"
                             ) from error
        return found


@contextlib.contextmanager
def write_local(path: str | Path, *, images: int, shape: tuple[int, int, int]) -> Iterator[Write]:
    """A file of the local features of so many images, map by map: `with write_local(...) as write: write(0, features)`.

    write  takes the first image's number and features (b, rows, columns, D) of it and those behind it, in any order

    The file is at `path` once all are written; a writing that ends otherwise leaves none there, and what was there
    before stays. Raises ValueError for features that do not fit or are not finite, and at the end for missing images.
    """
    path, expected = Path(path), (images, *shape)
    if min(expected) < 1:
        raise ValueError(f"local features have shape {expected}; expected at least one of each")
    written, checksums = np.zeros(images, bool), np.zeros(images, "<u4")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
                file, {"descr": "<f2", "fortran_order": False, "shape": expected})
            head, size = file.tell(), 2 * int(np.prod(shape))
            with named(path):
                file.truncate(head + images * (size + 4))

            def write(start: int, features: np.ndarray) -> None:
                stop = start + len(features)
                if features.shape[1:] != tuple(shape) or not 0 <= start <= stop <= images:
                    raise ValueError(f"local features {features.shape} for images from {start} on; "
                                     f"expected {tuple(shape)} each, for some of {images} images")
                with np.errstate(over="ignore"):
                    half = np.ascontiguousarray(features, "<f2")
                if not np.isfinite(half).all():
                    raise ValueError(NOT_FINITE)
                # By the file, not by a map of it: where the disk is full, that is an error and not a signal.
                with named(path):
                    file.seek(head + start * size)
                    file.write(half.data)
                written[start:stop], checksums[start:stop] = True, [zlib.crc32(one.data) for one in half]

            yield write
            if not written.all():
                raise ValueError(f"{(~written).sum()} of {images} images have no local features; expected all, "
                                 f"before {path} is finished")
            with named(path):
                file.seek(head + images * size)
                file.write(checksums.data)
                file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Recomputed:
    """Local features that are extracted when they are asked for, where the disk has no room for all.

    extract  given image numbers (k,) int64, their features (k, rows, columns, D)
    keep     the features of so many images stay in memory, those asked for last
    """

    def __init__(self, extract: Callable[[np.ndarray], np.ndarray], *, keep: int = 128):
        if keep < 0:
            raise ValueError(f"keep is {keep}; expected at least 0")
        self._extract, self._keep = extract, keep
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def read(self, images: np.ndarray) -> np.ndarray:
        """Features (k, rows, columns, D) of images (k,), as `extract` gives them; it is asked for the missing ones."""
        missing = np.array(list(dict.fromkeys(image for image in images.tolist() if image not in self._kept)), np.int64)
        new = self._extract(missing) if len(missing) else ()
        if len(new) != len(missing):
            raise ValueError(f"extracting {len(missing)} images gave the features of {len(new)}")
        found = self._kept | dict(zip(missing.tolist(), new, strict=True))
        read = np.stack([found[image] for image in images.tolist()])
        for place, image in enumerate(images.tolist()):
            if image not in self._kept:
                self._kept[image] = read[place].copy()  # a view would keep the whole batch in memory
            self._kept.move_to_end(image)
        while len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return read
