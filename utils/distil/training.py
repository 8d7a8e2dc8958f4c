"""What of a student's training is its own: images without labels, the teacher's descriptors, and validation with a
database by the teacher and queries by the student."""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets import (
    BenchmarkDataset,
    ImageBatchSampler,
    ViewDataset,
    evaluation_transform,
    normalise,
    own_pictures,
)
from losses import code_distillation_loss, float_distillation_loss
from model import (
    BRANCHES,
    Checkpoint,
    Descriptors,
    ModelConfig,
    SelaVPRpp,
    cut_floats,
    fingerprint,
    load_model,
)

from ..data import EvaluationImages, fitting, preparation
from ..device import PRECISIONS
from ..evaluation.evaluator import Evaluation, EvaluationOptions, Evaluator, ExtractedSet, Stage
from ..evaluation.extraction import OwnModel
from ..loader import ImageLoader
from ..models import ModelOptions, Taught, read_resume
from ..search import ModelIdentity
from ..training.loop import Training, TrainingOptions
from ..training.memory import report_step_memory

log = logging.getLogger("selavprpp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationData:
    """Which images to learn from, and how student and teacher see them.

    folders           of images, with all below
    size              (H, W) in pixels of what the student sees, now and later as a query
    teacher_size      of what the teacher sees, and of the database images that it describes; None: as `size`
    images_per_batch  few or many: no image of a batch is compared with another
    """

    folders: Sequence[str]
    size: Sequence[int] = (224, 224)
    teacher_size: Sequence[int] | None = None
    images_per_batch: int = 64
    seed: int = 0
    num_workers: int = 0

    def fitted(self, patch: int, *, teachers_patch: int) -> "DistillationData":
        """The same with sides that are multiples of either backbone's patch, in pixels."""
        return dataclasses.replace(
            self, size=fitting(self.size, patch, "--train_resize"),
            teacher_size=fitting(self.teacher_size or self.size, teachers_patch, "--teacher_resize"))

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) of what the student and the teacher see."""
        (height, width), (teachers_height, teachers_width) = self.size, self.teacher_size or self.size
        return (height, width), (teachers_height, teachers_width)

    def taught(self, teacher: ModelIdentity) -> Taught:
        return Taught(teacher, *map(preparation, self.sizes))

    def trained_on(self, images: ViewDataset) -> dict:
        """What a page must say of the images that a student saw, as results.json and the checkpoint hold it."""
        return {"set": ", ".join(self.folders), "images": len(images)}


# Of losses by labels, which a student does not learn by.
_OF_LABELS = ("hashing", "quantization_weight", "pair_fraction", "nested_distillation", "places")


def student_config(chosen: ModelOptions, teacher: ModelConfig) -> tuple[Checkpoint | None, ModelConfig]:
    """The file of --resume, if any, and the student's configuration: descriptors of the teacher's kinds and lengths.

    Raises ValueError where the file is of other ones, and where others, or other losses, were chosen.
    """
    for name in _OF_LABELS:
        if name in chosen.fields:
            raise ValueError(f"--set {name}={chosen.fields[name]}: of a loss by labels, and a student learns without; "
                             "leave it out")
    taken: dict[str, object] = {"order": "joint", **{name: getattr(teacher, name) for name in (
        "code_bits", "float_dim", "nested_bits", "nested_floats")}}
    for name, value in taken.items():
        if chosen.fields.get(name, value) != value:
            raise ValueError(f"--set {name}={chosen.fields[name]}: a student has its teacher's descriptors, all learnt "
                             f"at once, so it is {value}; leave it out")
    return read_resume(dataclasses.replace(chosen, fields={**chosen.fields, **taken}), branches=teacher.branches)


def cuts_of(teacher: Checkpoint) -> dict[str, str]:
    """Fingerprints of a teacher that is cut to the lengths its float descriptors were trained for, by length."""
    return {str(length): fingerprint(load_model(cut_floats(teacher, length)))
            for length in teacher.config.nested_floats[:-1]}


def images_to_learn_from(data: DistillationData, *, device: torch.device) -> DataLoader:
    """Batches (images (B, 3, h, w), the same (B, 3, H, W) for the teacher) of uint8.

    Raises FileNotFoundError for a folder that is not there or holds no image.
    """
    pictures = own_pictures(data.folders, located=False)
    for warning in pictures.warnings:
        log.warning("%s", warning)
    log.info("learning from %d images: %d x %d for the student, %d x %d for the teacher", len(pictures.paths),
             *data.sizes[0], *data.sizes[1])
    return ImageLoader(ViewDataset(pictures.paths, sizes=data.sizes, seed=data.seed), num_workers=data.num_workers,
                       batch_sampler=ImageBatchSampler(len(pictures.paths), images_per_batch=data.images_per_batch,
                                                       seed=data.seed),
                       device=device, persistent_workers=data.num_workers > 0)


def teach(teacher: OwnModel, *, precision: str) -> Callable[[Tensor], Descriptors]:
    """A function of images (B, 3, H, W) uint8 that gives the teacher's descriptors, without gradient.

    precision  a key of PRECISIONS: what it computes in
    """
    network = teacher.network(dtype=PRECISIONS[precision])

    def described(images: Tensor) -> Descriptors:
        # Copies, as what was made under inference mode may not be kept for a gradient.
        return Descriptors(*(None if rows is None else rows.clone() for rows in network(normalise(images))))

    return described


def distillation_losses(found: Descriptors, taught: Descriptors) -> dict[str, Tensor]:
    """The loss of each branch by name: "float" 1 - cosine, "code" the same of codes before their sign to codes."""
    losses = {}
    if found.floating is not None and taught.floating is not None:
        losses["float"] = float_distillation_loss(found.floating, taught.floating)
    if found.relaxed is not None and taught.binary is not None:
        losses["code"] = code_distillation_loss(found.relaxed, taught.binary)
    return losses


class DistillationTraining(Training):
    """Adam on the student; the best epoch is that of the highest recall of its queries in the teacher's database.

    teacher  whose descriptors it learns to give: every file says so; cuts: as `cuts_of`
    """

    def __init__(self, *given: Any, teacher: ModelIdentity, cuts: dict[str, str], **options: Any):
        self.teacher, self.cuts = teacher, cuts
        super().__init__(*given, **options)

    def report_memory(self, model: SelaVPRpp, options: TrainingOptions, data: DistillationData) -> None:
        """Logs what a step will take, the teacher's pass apart, which keeps nothing."""
        report_step_memory(model, size=data.sizes[0], dtype=PRECISIONS[options.precision], device=options.device,
                           places_per_batch=data.images_per_batch, images_per_place=1)

    def restore(self, state: dict, source: str) -> None:
        found = state["data"]["teacher"]
        if found["fingerprint"] != self.teacher.fingerprint:
            raise ValueError(f"it learns from {ModelIdentity(found['fingerprint'], found['name'])}, and --teacher is "
                             f"{self.teacher}")

    def remaining_epochs(self, loader: DataLoader) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        for batches in super().remaining_epochs(loader):
            taught = self.data.taught(self.teacher)  # models.taught_by will read it
            self.trained_on |= {"teacher": {**taught.by._asdict(), "cuts": self.cuts}, "prepared": taught.prepared,
                                "prepared_for_teacher": taught.prepared_for_teacher}
            yield batches


class StudentEvaluator:
    """Called with a student and a set it counts recall with queries by the student and the database by its teacher,
    which is extracted at the first call, when the log tells the teacher's own recall, and stays in `folder`.

    data  whose `size` queries have; images of the database are as the set has them
    """

    def __init__(self, teacher: OwnModel, options: EvaluationOptions, folder: Path, *, data: DistillationData,
                 rerank_num: int):
        self.teacher, self.options, self.folder = teacher, options, folder
        self.size, self.taught, self.rerank_num = data.sizes[0], data.taught(teacher.identity), rerank_num
        self.branches = tuple(name for name in BRANCHES if name in teacher.model.config.branches)

    def __call__(self, student: SelaVPRpp, dataset: BenchmarkDataset) -> Evaluation:
        folder = self.folder / dataset.listing.fingerprint()[:16]
        search = Evaluator(self._retrieve, self._protocol, self.branches,
                           dataclasses.replace(self.options, index=folder))
        if not folder.exists():
            log.info("the teacher's own:")
            search(self.teacher, dataset)
        prepared = dataset.prepared[0], f"{self.taught.prepared}, {EvaluationImages.test_method}"
        seen = BenchmarkDataset(dataset.listing, transform=dataset.transform, parts=dataset.parts, prepared=prepared,
                                query_transform=evaluation_transform(self.size))
        try:
            return search(OwnModel(student, taught=self.taught), seen)
        finally:
            for left in folder.glob("queries-*"):
                shutil.rmtree(left)

    @property
    def _protocol(self) -> str:
        if self.branches == BRANCHES:
            return f"Hamming top {self.rerank_num}, then L2"
        return "flat L2" if "float" in self.branches else "Hamming"

    def _retrieve(self, found: ExtractedSet, depth: int) -> Iterator[Stage]:
        """As the evaluation script of these branches."""
        if found.codes is None:
            distances, ids = found.database.search_floats(found.floats, depth, device=found.device)
            yield ids, distances
            return
        bits, ids = found.database.search_codes(found.codes, max(depth, self.rerank_num), device=found.device)
        yield ids, bits
        if found.floats is not None:
            yield found.database.rerank(found.floats, ids, self.rerank_num, device=found.device)
