"""Descriptors of a set of images, written into indexes on disk: in blocks, resumed after a break, shared out."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch

from datasets import BenchmarkDataset
from model import Descriptors, SelaVPRpp, fast_inference, fingerprint

from ..device import PRECISIONS, warm_up_compiled
from ..distributed import broadcast, collect, own_share, total
from ..files import write_json
from ..loader import ImageLoader
from ..models import Taught
from ..ranks import is_first, progress
from ..search import IndexWriter, ModelIdentity, RowShape, TwoStageIndex, pack_codes, store_rows
from ..search.index.disk import regular
from .forecast import Forecast, check_disk

log = logging.getLogger("selavprpp")
DATABASE = "database"  # the map's index, in the folder of --index
COST = "extraction.json"  # in the queries' folder
SAMPLE = 8  # images whose exact descriptors are extracted too, where something is rounded

Network = Callable[..., Descriptors]


class Extractor(Protocol):
    """A model as its descriptors are extracted and as results.json names it: `OwnModel` or hub.HubModel.

    taught    of a student (utils.distil), whose queries may come to a database that its teacher extracted; None: it is
              none
    code_bits, float_dim  of its descriptors; None: it has no such branch
    record    what results.json tells of it under "model"
    warnings  what a reader of its figures should know
    network   gives a function (images (B, 3, H, W), branches) that extracts in that type
    """

    identity: ModelIdentity
    taught: Taught | None
    code_bits: int | None
    float_dim: int | None
    device: torch.device
    record: dict
    warnings: Sequence[str]

    def network(self, *, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Network: ...


class OwnModel:
    """A model of ours as an `Extractor`, in eval mode from now on."""

    warnings = ()

    def __init__(self, model: SelaVPRpp, *, taught: Taught | None = None):
        self.model, config = model.eval(), model.config
        self.taught = taught
        self.device = next(model.parameters()).device
        self.code_bits = config.code_bits if "binary" in config.branches else None
        self.float_dim = config.float_dim if "float" in config.branches else None
        self.identity = ModelIdentity(fingerprint(model), f"{config.backbone} {config.aggregation}")
        self.record = {"backbone": config.backbone, "fingerprint": self.identity.fingerprint,
                       "config": config.to_dict()}

    def network(self, *, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Network:
        return fast_inference(self.model, dtype=dtype, compiled=compiled)


def as_extractor(model: SelaVPRpp | Extractor, *, taught: Taught | None = None) -> Extractor:
    """What extracts with a model: its own `Extractor`, or itself where it is one. taught: of OwnModel."""
    return OwnModel(model, taught=taught) if isinstance(model, SelaVPRpp) else model


class Extraction(NamedTuple):
    """Descriptors of a set: indexes of its database and of its queries, and what they cost, as in results.json; of
    descriptors that were there already, what they cost then.

    Of several processes the first alone has the indexes.
    """

    database: TwoStageIndex | None
    queries: TwoStageIndex | None
    cost: dict


@torch.inference_mode()
def extract(model: SelaVPRpp | Extractor, dataset: BenchmarkDataset, folder: Path, *, branches: Sequence[str],
            batch_size: int, num_workers: int, precision: str = "fp32", store: str = "fp32",
            compiled: bool = False) -> Extraction:
    """Runs the model, in eval mode, over a set's images with one pass of the backbone for all branches.

    folder     gets an index "database" and one for these queries; what lies there of the same images, extracted in
               the same way, is not done again. A student's queries come to a database that its teacher has extracted,
               in whatever way
    precision  a key of PRECISIONS: what the network computes in; descriptors are fp32 all the same
    store      how the float descriptors of the database are kept, one of STORES; those of queries stay fp32

    Queries that vary in size go one a batch, all other images `batch_size`. Each process extracts its share, into
    the same files or, where it does not see the first one's folder, into files of its own, from which the first then
    receives the rows. Raises ValueError where the folder holds something else, or its disk has no room for the rest.
    """
    extractor = as_extractor(model)
    device = extractor.device
    sides = _sides(extractor, dataset, folder, branches=branches, precision=precision, store=store)
    for side in sides:
        if side.folder.is_symlink():
            raise ValueError(f"{side.folder} is a link, which may lead anywhere; put that folder there itself, or give "
                             "another --index")
    by_teacher = sides[0].model != extractor.identity
    if by_teacher:
        store = sides[0].row.store
        log.info("%s: the database is kept as %s extracted it; queries are extracted by its student %s",
                 sides[0].folder, sides[0].model, extractor.identity)
        for said in _other_preparations(extractor.taught, *(side.identity["prepared"] for side in sides)):
            log.warning("%s", said)
    cost = {"precision": precision, "store": store, "reused": False, "rounding": None}
    finished = broadcast([IndexWriter.finished(side.folder, side.identity) for side in sides])
    unfinished = [side for side, done in zip(sides, finished, strict=True) if not done]
    if unfinished:
        check_disk(folder, sum(side.bytes_to_come() for side in unfinished))
        network = extractor.network(dtype=PRECISIONS[precision], compiled=compiled)
        if compiled:
            images = torch.stack([dataset[0][0]] * batch_size).to(device)
            warm_up_compiled(lambda: network(images, branches=branches), device)
        with contextlib.ExitStack() as stack:
            writers = {side: stack.enter_context(IndexWriter(side.folder, n=len(side.names), identity=side.identity,
                                                             **side.row._asdict())) for side in unfinished}
            cost |= _extract(network, dataset, writers, branches=branches, batch_size=batch_size,
                              num_workers=num_workers, device=device)
            if is_first():
                if (precision, store) != ("fp32", "fp32"):
                    cost["rounding"] = _rounding(extractor, network, dataset, branches=branches, store=store)
                sides[-1].folder.mkdir(parents=True, exist_ok=True)
                write_json(cost, sides[-1].folder / COST)
            for side, writer in writers.items():
                side.complete(writer)
    elif is_first():
        log.info("%s holds the descriptors of %s already", folder, dataset.listing.label)
        cost = {**_cost_told(sides[-1].folder / COST), "reused": True}
    if by_teacher:
        cost["database_by"] = {**sides[0].model._asdict(), **{name: sides[0].identity.get(name)
                                                              for name in ("prepared", "precision")}}
    opened = [TwoStageIndex.open(side.folder) for side in sides] if is_first() else [None, None]
    total(0)  # nobody goes on, or deletes the folder, before the first has it open
    return Extraction(*opened, cost)


def _cost_told(path: Path) -> dict:
    content = regular(path).read_bytes()
    try:
        cost = json.loads(content)
        json.dumps(cost, indent=2)  # results.json will hold it
        if isinstance(cost, dict):
            return cost
    except (ValueError, RecursionError):
        pass
    raise ValueError(f"{path} is damaged; delete its folder, whose descriptors are then extracted again")


@dataclasses.dataclass(frozen=True, eq=False)
class _Side:
    """One of the two indexes. first: its first image's number in the data set; alone: its images vary in size."""

    folder: Path
    first: int
    names: list[str]
    coordinates: np.ndarray | None
    alone: bool
    row: RowShape
    model: ModelIdentity
    identity: dict
    notes: dict

    def bytes_to_come(self) -> int:
        there = sum(path.stat().st_blocks * 512 for path in self.folder.glob("*")) if self.folder.is_dir() else 0
        return max(0, len(self.names) * self.row.row_bytes - there)

    def batches(self, writer: IndexWriter, batch_size: int) -> Iterator[range]:
        """The numbers of this process's images that are not extracted yet, without gaps in a batch."""
        rows = writer.missing(own_share(len(self.names)))
        size = 1 if self.alone else batch_size
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
            for start in range(0, len(run), size):
                some = run[start:start + size]
                yield range(self.first + int(some[0]), self.first + int(some[-1]) + 1)

    def complete(self, writer: IndexWriter) -> None:
        """Has the first process make an index of the rows, once all are there."""
        total(0)  # everybody's are on a disk
        if broadcast(bool(len(writer.missing(range(len(self.names)))))):
            # Others see no folder of the first process: this is another node, with a disk of its own.
            collect(len(self.names), writer.read_arrays, writer.write_arrays)
        if is_first():
            writer.finish(names=self.names, coordinates=self.coordinates, model=self.model,
                          notes=self.notes)


def _sides(model: Extractor, dataset: BenchmarkDataset, folder: Path, *, branches: Sequence[str], precision: str,
           store: str) -> list[_Side]:
    listing = dataset.listing
    sides, first = [], 0
    place = folder / DATABASE
    held = broadcast(IndexWriter.held_in(place) if model.taught and not place.is_symlink() else None)
    there, shape = held or ({}, None)
    by_teacher = model.taught and there.get("weights") == model.taught.by.fingerprint
    if by_teacher and "float" in branches and shape.float_dim != model.float_dim:
        raise ValueError(f"{place}: its float descriptors, by the teacher, have {shape.float_dim} dimensions, the "
                         f"student's {model.float_dim}; leave --float_dim out")
    for name, kept, coordinates, alone, prepared in (
            ("database", store, listing.database_utm, False, dataset.prepared[0]),
            ("query", "fp32", listing.query_utm, dataset.queries_vary, dataset.prepared[1])):
        names, who = listing.names(name), model.identity
        if name == "database" and by_teacher:
            who, kept = model.taught.by, there.get("store", kept)
        row = RowShape(model.code_bits // 8 if "binary" in branches else None,
                       model.float_dim if "float" in branches else None, kept)
        identity = source(who, names, branches=branches, prepared=prepared, precision=precision, store=kept)
        if who != model.identity:  # however that was extracted
            identity = {**there, **{told: identity[told] for told in ("branches", "files")}}
        # Other queries may come to the same database, each set to a folder of its own.
        place = DATABASE if name == "database" else f"queries-{_sha256(json.dumps(identity))[:8]}"
        notes = {"folder": str(listing.folder.absolute()), "utm_zone": listing.utm_zone}
        sides.append(_Side(folder / place, first, names, coordinates, alone, row, who, identity, notes))
        first += len(names)
    return sides


def _other_preparations(taught: Taught, database: object, queries: str) -> Iterator[str]:
    if database != taught.prepared_for_teacher:
        yield (f"the database's images were prepared as {database}, and the student learnt what its teacher says of "
               f"{taught.prepared_for_teacher}")
    if queries.partition(", ")[0] != taught.prepared:
        yield f"queries are prepared as {queries}, and the student learnt from {taught.prepared}: give that to --resize"


def source(model: ModelIdentity, names: Sequence[str], *, branches: Sequence[str], prepared: str, precision: str,
           store: str) -> dict:
    """What an index's descriptors are of and how they were made: where it differs they are others."""
    return {"model": str(model), "weights": model.fingerprint, "branches": list(branches), "prepared": prepared,
            "precision": precision, "store": store, "files": _sha256("\n".join(names))}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _extract(network: Network, dataset: BenchmarkDataset, writers: dict[_Side, IndexWriter], *,
             branches: Sequence[str], batch_size: int, num_workers: int, device: torch.device) -> dict:
    """Extracts what is missing; returns what that cost."""
    to_do = sum(len(writer.missing(own_share(len(side.names)))) for side, writer in writers.items())
    batches = (batch for side, writer in writers.items() for batch in side.batches(writer, batch_size))
    loader = ImageLoader(dataset, batch_sampler=batches, num_workers=num_workers, device=device)
    forecast = Forecast(to_do, sum(len(side.names) * side.row.row_bytes for side in writers), device)
    pending, in_flight = [], int(device.type == "cuda")  # a GPU is at the next batch while the last one is written

    def write_oldest() -> None:
        writer, start, rows = pending.pop(0)
        writer.write(start, **rows())

    with progress([], f"extracting {dataset.listing.label}", total=to_do, unit=" images") as bar:
        asked = time.perf_counter()
        for images, numbers in loader:
            waited = time.perf_counter() - asked
            out = network(images.to(device, non_blocking=True), branches=branches)
            number = int(numbers[0])
            side = max((side for side in writers if side.first <= number), key=lambda side: side.first)
            pending.append((writers[side], number - side.first, _fetch(out)))
            if len(pending) > in_flight:
                write_oldest()
            forecast.add(len(images), waited=waited)
            bar.update(len(images))
            asked = time.perf_counter()
        while pending:
            write_oldest()
    for writer in writers.values():
        writer.flush()
    cost = forecast.end()
    cost["images"] = int(total(forecast.done))
    cost["images_per_second"] = cost["images"] / cost["measured"]["seconds"]
    if cost["images"]:
        log.info("extracted descriptors of %d images, %.1f a second; %.0f %% of the time was spent waiting for images",
                 cost["images"], cost["images_per_second"], 100 * cost["waiting_share"])
    return cost


def _fetch(out: Descriptors) -> Callable[[], dict[str, np.ndarray | None]]:
    """Sends the rows to the processor's memory; what comes back waits for them, for IndexWriter.write's arguments."""
    binary, floating = (None if rows is None else rows.to("cpu", non_blocking=True)
                        for rows in (out.binary, out.floating))
    made = out.binary if out.floating is None else out.floating
    sent = torch.cuda.current_stream(made.device).record_event() if made.is_cuda else None

    def rows() -> dict[str, np.ndarray | None]:
        if sent is not None:
            sent.synchronize()
        return {"codes": None if binary is None else pack_codes(binary),
                "floats": None if floating is None else floating.numpy()}

    return rows


def _rounding(model: Extractor, network: Network, dataset: BenchmarkDataset, *, branches: Sequence[str],
              store: str) -> dict:
    """What `precision` and `store` change, on the first images of the database, extracted exactly beside it."""
    images = torch.stack([dataset[number][0] for number in range(min(SAMPLE, dataset.n_database))]).to(model.device)
    rounded, exact = (_fetch(run(images, branches=branches))() for run in (network, model.network()))
    found = {"images": len(images), "least_cosine": None, "bits_changed_percent": None}
    if rounded["floats"] is not None:
        held = store_rows(rounded["floats"], store).read(slice(None))
        pair = (torch.from_numpy(rows).double() for rows in (held, exact["floats"]))
        found["least_cosine"] = torch.nn.functional.cosine_similarity(*pair).min().item()
    if rounded["codes"] is not None:
        found["bits_changed_percent"] = 100 * float(np.unpackbits(rounded["codes"] ^ exact["codes"]).mean())
    log.info("rounding, on %d images: %s", len(images),
             ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in found.items()
                       if name != "images" and value is not None))
    return found
