"""Descriptors of a folder's images by many machines, into an index in parts."""

import functools
from collections.abc import Sequence
from pathlib import Path

from ..data import EvaluationImages
from ..localize.maps import Listed, Maker, listed, tell_unplaced, tell_unreadable
from ..models import ModelOptions
from ..ranks import progress, share
from . import answering, connect, got
from .searching import PART

PART_IMAGES = 10_000


@functools.lru_cache(1)
def _maker(resume: Path | None, backbone: str | None, size: tuple[int, int], precision: str) -> Maker:
    """One model for all parts that a process describes."""
    return Maker.of(ModelOptions(resume=resume, backbone=backbone), size=size, precision=precision)


def _describe(model: tuple, place: Path, given: Listed, store: str) -> tuple[int, dict[Path, str]]:
    unreadable: dict[Path, str] = {}
    return len(_maker(*model).make(place, given, unreadable, store=store)), unreadable


def describe(folder: Path, images: Path, *, resume: Path | None = None, backbone: str | None = None,
             parts: int | None = None, cpus: int = 1, size: Sequence[int] = EvaluationImages.size,
             coordinates: Path | None = None, precision: str = "fp32", store: str = "fp32",
             address: str | None = None) -> int:
    """Extracts an index in parts, folders PART* in `folder`, of all images in a folder and below; returns how many
    images it holds. Each part is an index of a run of the sorted images.

    resume, backbone  as of ModelOptions; parts: how many, None: one for each PART_IMAGES
    cpus    of each process, which describes a part after the other; it has a GPU where the machines have some
    A part whose machine dies goes on elsewhere, behind its last row on the disk; so do all if the same is called again.
    Images that cannot be read are named in the log and left out. Raises ValueError as maps.build.
    """
    given = listed(images, coordinates=coordinates)
    n = len(given.paths)
    parts = parts or -(-n // PART_IMAGES)
    if not 0 < parts <= n:
        raise ValueError(f"parts is {parts}; expected 1 to {n}, the number of images")
    work = {f"{PART}{number:05d}": share(n, number, parts) for number in range(parts)}
    if extra := {path.name for path in folder.glob(f"{PART}*")} - work.keys():
        raise ValueError(f"{folder} holds {min(extra)}, of an index in more parts; give another folder, or the same "
                         "number of parts")
    ray = connect(address)
    # max_calls: else Ray ends a process, and its model, after each task on a GPU.
    process = ray.remote(num_cpus=cpus, num_gpus=min(1, ray.cluster_resources().get("GPU", 0)), max_retries=-1,
                         scheduling_strategy="SPREAD", max_calls=0)
    got([process(lambda: None).remote()], ["a process that describes"], cpus=cpus)
    task = process(_describe)
    model = resume and resume.absolute(), backbone, tuple(size), precision
    waiting = [task.remote(model, folder.absolute() / part, given.part(some), store) for part, some in work.items()]
    held, unreadable = 0, {}
    with answering(), progress([], "describing", total=parts, unit=" parts") as bar:
        while waiting:
            (done,), waiting = ray.wait(waiting)
            some, errors = ray.get(done)
            held += some
            unreadable.update(errors)
            bar.update()
    tell_unreadable(unreadable, n)
    tell_unplaced(given.places, n)
    return held
