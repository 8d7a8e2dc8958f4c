"""Local features of a data set's images, which re-ranking asks for: the queries' one by one, the database's stored."""

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Subset

from datasets import BenchmarkDataset
from model import SelaVPR, selavpr_fingerprint
from model.network import Descriptors

from ..device import PRECISIONS
from ..evaluation.forecast import check_disk
from ..loader import ImageLoader
from ..ranks import progress
from ..run import LOCAL_FEATURES
from ..search import ModelIdentity
from ..search.local import rerank_local
from ..search.local_store import LocalFeatures, Recomputed, write_local


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """How candidates are re-ranked.

    rerank_num  how many of each query
    weight      of the global descriptors' cosine beside the counts, 0 to 1 (search/local.py)
    precision   of matching: "fp32" or "bf16"
    recompute   the database's features are extracted when they are asked for, instead of stored on the disk
    """

    rerank_num: int = 100
    weight: float = 0.0
    precision: str = "fp32"
    recompute: bool = False


class SelaVPRExtractor:
    """A SelaVPR as an `Extractor` of global descriptors, in eval mode from now on; and of local features."""

    code_bits = None
    taught = None
    warnings = ()

    def __init__(self, model: SelaVPR):
        self.model, config = model.eval(), model.config
        self.device = next(model.parameters()).device
        self.float_dim = config.vit.dim
        self.identity = ModelIdentity(selavpr_fingerprint(model), f"{config.backbone} SelaVPR")
        self.record = {"backbone": config.backbone, "fingerprint": self.identity.fingerprint,
                       "config": config.to_dict()}

    def network(self, *, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Callable[..., Descriptors]:
        """A function (images, branches) that gives the global descriptors."""
        if compiled:
            raise ValueError("--compile is for SelaVPR++; leave it out")

        @torch.inference_mode()
        def extract(images: torch.Tensor, branches: tuple[str, ...] = ("float",)) -> Descriptors:
            with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
                return Descriptors(floating=self.model(images, local=False).floating)

        return extract

    @torch.inference_mode()
    def local(self, images: torch.Tensor, precision: str) -> np.ndarray:
        """Images (B, 3, H, W) -> (B, rows', columns', 128) float32."""
        dtype = PRECISIONS[precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            features = self.model(images.to(self.device)).local
        return features.cpu().numpy()


class Features(Protocol):
    """The database's local features, by image: a file of them, or `Recomputed`."""

    def read(self, images: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class LocalSet:
    """What re-ranking reads of a set.

    database         its local features
    query            number of a query -> its map (rows', columns', 128)
    bytes_per_image  stored; 0 where they are extracted anew
    """

    database: Features
    query: Callable[[int], np.ndarray]
    bytes_per_image: int


@contextlib.contextmanager
def local_set(extractor: SelaVPRExtractor, dataset: BenchmarkDataset, *, folder: Path, keep: bool, recompute: bool,
              batch_size: int, num_workers: int, precision: str) -> Iterator[LocalSet]:
    """The local features of a set's images.

    folder  where the database's are stored, 0.95 MB an image of 224 x 224, unless they are recomputed; `keep`: they
            stay there, and what lies there of the same images and model is used
    """
    n = dataset.n_database

    def extracted(numbers: np.ndarray) -> np.ndarray:
        images = torch.stack([dataset[int(number)][0] for number in numbers])
        return np.concatenate([extractor.local(some, precision) for some in images.split(batch_size)])

    def query(number: int) -> np.ndarray:
        return extracted(np.array([n + number]))[0]

    if recompute:
        yield LocalSet(Recomputed(extracted), query, 0)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        temporary = contextlib.nullcontext(folder) if keep else tempfile.TemporaryDirectory(prefix=LOCAL_FEATURES,
                                                                                            dir=folder)
        place = Path(stack.enter_context(temporary))
        words = (str(extractor.identity), dataset.prepared[0], precision, *dataset.listing.names("database"))
        name = hashlib.sha256("\n".join(words).encode(errors="surrogateescape")).hexdigest()[:8]
        path = place / f"local-{name}.npy"
        if not path.is_file():
            shape = extracted(np.array([0])).shape[1:]
            check_disk(place, 2 * n * int(np.prod(shape)))
            loader = ImageLoader(Subset(dataset, range(n)), batch_size=batch_size, num_workers=num_workers)
            with write_local(path, images=n, shape=shape) as write:
                for images, numbers in progress(loader, "local features of the database"):
                    write(int(numbers[0]), extractor.local(images, precision))
        stored = LocalFeatures(path)
        yield LocalSet(stored, query, stored.bytes_per_image)


def rerank_by_local_features(features: LocalSet, candidates: np.ndarray, squared: np.ndarray, options: LocalOptions, *,
                             device: torch.device | None) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (m, k) of the set's queries, best first, with the squared distances of their global descriptors ->
    ids (m, k) int64 and the scores of the re-ranked part, highest first."""
    found = []
    for number in progress(range(len(candidates)), "re-ranking"):
        row = slice(number, number + 1)
        found.append(rerank_local([features.query(number)], candidates[row], features.database.read,
                                  depth=options.rerank_num, distances=squared[row], weight=options.weight,
                                  precision=options.precision, device=device))
    ids, scores = zip(*found, strict=True)
    return np.concatenate(ids), np.concatenate(scores)
