"""The plumbing of a training: data, precision, optimiser, best model, early stopping, going on after a break."""

import dataclasses
import json
import logging
import shutil
import signal
import statistics
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets import normalise
from model import Checkpoint, build_model, load_model, read_checkpoint, save_checkpoint
from model.layers.processor import quicken_attention

from .. import distributed
from ..device import PRECISIONS, random_states, restore_random_states, warm_up_compiled
from ..evaluation.evaluator import Evaluation
from ..evaluation.forecast import check_disk
from ..files import temporary_path
from ..models import Origin
from ..ranks import is_first, progress
from ..run import Run, deferred, interrupted_afterwards
from .curves import METRICS, Curves
from .epoch import EpochMeter
from .memory import report_step_memory
from .state import (
    BEST,
    LAST,
    NO_SCORE,
    as_one_line,
    best_beside,
    check_state,
    earlier_metrics,
    identity,
    remove_left_behind,
)

log = logging.getLogger("selavprpp")

# What a resumed run is rightly called without, or with another value: the file holds or decides it.
NEVER = 2**62  # epochs
LONG_S = 60.0  # of steps that a break in the validation behind them should not cost
OPTIONS_OF_A_START = {"aggregation", "backbone", "foundation_model_path", "hashing", "rerank", "resume", "save_dir",
                      "set", "tensorboard", "variant"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Adam's learning rate, halved every `lr_halving` epochs (None: constant); at most `epochs`, ended after `patience`
    without gain.

    precision   a key of PRECISIONS; compiled: the frozen backbone, by torch.compile
    save_every  minutes between states that are written within an epoch
    tensorboard writes the figures of curves.png for TensorBoard, too
    """

    device: torch.device
    precision: str
    compiled: bool = False
    lr: float = 4e-4
    lr_halving: int | None = 3
    epochs: int = 25
    patience: int = 12
    save_every: float = 30.0
    tensorboard: bool = False


class ModelFiles(NamedTuple):
    """How models of a kind are made and written: functions of `model`."""

    build: Callable[[Any], nn.Module]
    read: Callable[[Path], Checkpoint]
    load: Callable[[Checkpoint], nn.Module]
    save: Callable[..., None]


class Training:
    """Optimiser, schedule, precision and record of one training; the loop itself stands in the script.

    After every epoch last_model.pth is written, with all that resuming needs, and copied to best_model.pth when the
    score is the best so far. Between two steps it is written every `save_every` minutes and at SIGTERM, which ends the
    training then; and behind the last step, before validation, where the epoch's steps took over a minute.

    network     what a training step calls instead of the model: of several processes, each has a share of a batch's
                images, and all take the same step
    files       of the model's kind
    score_name  what `score` is, in words
    """

    files = ModelFiles(build_model, read_checkpoint, load_model, save_checkpoint)
    score_name = "R@1+R@5"

    def __init__(self, model: Any, options: TrainingOptions, data: Any, *, run: Run, script: str, origin: Origin):
        device = options.device
        self.report_memory(model, options, data)
        self.model = model.to(device)
        if device.type == "cpu":
            quicken_attention(model)
        self.network = distributed.wrap(self.model)
        self.run, self.script, self.device = run, script, device
        self.precision, self.compiled, self.warm = options.precision, options.compiled, False
        self.epochs, self.patience, self.data, self.origin = options.epochs, options.patience, data, origin
        self.save_every_s, self.saved_at = 60 * options.save_every, time.perf_counter()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(trainable, lr=options.lr, fused=True)
        self.schedule = torch.optim.lr_scheduler.StepLR(
            self.optimiser, step_size=options.lr_halving or NEVER, gamma=0.5)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.epoch, self.best_score, self.epochs_without_gain = 0, NO_SCORE, 0
        # Which file is the best so far, told in every file: who wrote it, and after which epoch.
        self.identity, self.best = uuid.uuid4().hex, None
        self.trained_on: dict = {}  # what a page must say of the places, once there are some
        self.validation: dict[str, Any] = {"validation": {}, "selected_by": None}  # of the last epoch
        self.last_score: tuple[float, float] | None = None  # likewise
        self.within_epoch: dict = {}  # where a resumed run stood inside its epoch
        self.meter = EpochMeter(device, epoch=1, last_good=None)
        self._check_disk(trainable)
        self.curves = Curves(run.folder, tensorboard=options.tensorboard) if is_first() else None
        log.info("device %s, precision %s, processes %d; %.2f million parameters, %.2f trained", device, self.precision,
                 distributed.processes(), sum(parameter.numel() for parameter in model.parameters()) / 1e6,
                 sum(parameter.numel() for parameter in trainable) / 1e6)

    def _check_disk(self, trainable: Sequence[nn.Parameter]) -> None:
        """ValueError where the run folder's disk lacks the room of last_model.pth, best_model.pth and a half of one."""
        moments = 2 * sum(p.numel() * p.element_size() for p in trainable)
        needed = 3 * (moments + sum(t.numel() * t.element_size() for t in self.model.state_dict().values()))
        if is_first():
            check_disk(self.run.folder, needed, what="checkpoints",
                       advice="free some space, or start in another folder")

    def report_memory(self, model: Any, options: TrainingOptions, data: Any) -> None:
        """Logs what a step will take."""
        report_step_memory(model, size=tuple(data.size), dtype=PRECISIONS[options.precision], device=options.device,
                           places_per_batch=data.places_per_batch, images_per_place=data.images_per_place)

    def more_state(self) -> dict:
        """What resuming needs beside the rest, by names of its own."""
        return {}

    def more_metrics(self) -> dict:
        """What metrics.jsonl tells of the present epoch beside the rest."""
        return {}

    def restore(self, state: dict, source: str) -> None:
        """Takes up what `more_state` gave, from the training state of the file `source`."""

    def score(self, evaluation: Evaluation) -> tuple[float, float]:
        """What chooses the best epoch; the second decides where the first is equal."""
        return evaluation.score()

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on where a file of this script stopped; one without a training state starts at epoch 0."""
        state = checkpoint.training
        if state is None:
            log.info("weights of %s loaded; it holds no training state: starting at epoch 0", checkpoint.source)
            return
        with as_one_line(checkpoint.source):
            check_state(state, script=self.script, options=self.run.options, optimiser=self.optimiser,
                        schedule=self.schedule.state_dict(), scaler=self.scaler.state_dict(),
                        random=random_states(self.device))
            self._take_up(state, checkpoint.source)
        folder = Path(checkpoint.source).parent
        found = distributed.first_decides(lambda: best_beside(checkpoint, self.files.read))
        if found is None and state["epoch"] and self.within_epoch:
            log.warning("no best_model.pth beside %s: that of the coming epochs will be the best", checkpoint.source)
            self.best_score = (-1.0, 0.0)
        elif found is None and state["epoch"]:
            log.warning("no best_model.pth beside %s: the best so far is taken to be that file itself",
                        checkpoint.source)
            found, self.best_score = (Path(checkpoint.source), identity(state)), tuple(state["score"])
        if found:
            self.best = found[1]
        if is_first():
            if found:
                _copy(found[0], self.run.folder / BEST)
            earlier = earlier_metrics(folder / METRICS, self.epoch) if (folder / METRICS).is_file() else ""
            if earlier:
                (self.run.folder / METRICS).write_text(earlier)
            # For whoever goes on with the newest folder, should this run end before its first epoch does.
            self.files.save(self.model, self.run.folder / LAST, pretrained=self.origin.pretrained, training={
                **state, "run": self.identity, "best": self.best, "best_score": self.best_score,
                "options": self.run.options})
            remove_left_behind(folder)
            Run.resumable = self.run.folder
            if self.curves and earlier:
                self.curves.refresh()
        steps = f" and {self.within_epoch['steps']} steps" if self.within_epoch else ""
        best_score = f" (best score {self.best_score[0]:.1f})" if self.epoch else ""
        log.info("going on with %s after %d epochs%s%s", checkpoint.source, self.epoch, steps, best_score)

    def _take_up(self, state: dict, source: str) -> None:
        for name in sorted(self.run.options.keys() & state["options"].keys() - OPTIONS_OF_A_START):
            before, now = state["options"][name], self.run.options[name]
            if before != now:
                log.warning("option %s was %s in the resumed run and is %s now%s", name, before, now,
                            "; the schedule stays as it was" if name in ("lr", "lr_halving") else "")
        for group in state["optimiser"]["param_groups"]:
            group["fused"] = True  # not so in files of earlier versions
        self.optimiser.load_state_dict(state["optimiser"])
        own = self.schedule.state_dict()  # what else a file holds would become attributes
        self.schedule.load_state_dict({name: value for name, value in state["schedule"].items() if name in own})
        if state["scaler"]:  # empty unless it was fp16
            self.scaler.load_state_dict(state["scaler"])
        restore_random_states(state["random"], self.device)
        self.epoch, self.epochs_without_gain = state["epoch"], state["epochs_without_gain"]
        self.best_score, self.last_score = tuple(state["best_score"]), state["score"]
        self.within_epoch = state.get("within_epoch") or {}
        self.validation = {name: state.get(name) for name in self.validation}
        self.restore(state, source)

    def remaining_epochs(self, loader: DataLoader) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """Yields, epoch by epoch, the epoch's batches on the device; ends at the last or when patience is spent."""
        self.trained_on = self.data.trained_on(loader.dataset)
        while self.epoch < self.epochs:
            if self.epochs_without_gain >= self.patience:
                log.info("stopping: no gain in %d epochs", self.patience)
                return
            earlier, self.within_epoch = self.within_epoch, {}
            last_good = self.run.folder / "last_model.pth" if self.epoch else None
            self.meter = EpochMeter(self.device, epoch=self.epoch + 1, last_good=last_good, earlier=earlier)
            self.begin_epoch(loader, done=earlier.get("steps", 0))
            self.model.train()
            yield self._batches(loader)

    def begin_epoch(self, loader: DataLoader, *, done: int) -> None:
        """Has the loader give this epoch's batches behind the first `done`."""
        loader.batch_sampler.set_epoch(self.epoch, done=done)

    def _batches(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        # In bf16 the frozen weights need not be held, and converted in every step, in fp32; fp16 lacks their range.
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        bar = {"initial": self.meter.steps, "total": self.meter.steps + len(loader)}
        batches = iter(progress(loader, f"epoch {self.epoch + 1}/{self.epochs}", **bar))
        with deferred(signal.SIGTERM) as asked:
            while True:
                with self.model.backbone.rounded(dtype, compiled=self.compiled):
                    for images, labels in batches:
                        images = normalise(images.to(self.device, non_blocking=True))
                        self.meter.images += len(images)
                        if self.compiled and not self.warm:
                            self._warm_up(images)
                        yield images, labels.to(self.device, non_blocking=True)
                        due = is_first() and time.perf_counter() - self.saved_at > self.save_every_s
                        if _ends(asked) or due:
                            break
                    else:
                        if not _ends(asked):
                            return
                self._save_within_epoch()  # the exact weights, which are the model's again
                if asked:
                    distributed.total(0)  # nobody ends before it is written
                    return

    def _save_within_epoch(self) -> None:
        self.meter.check_losses()
        self.within_epoch = self.meter.state()
        if is_first():
            self._save(better=False)
        log.info("epoch %d: state after %d steps written", self.epoch + 1, self.meter.steps)
        self.within_epoch = {}

    def _warm_up(self, images: Tensor) -> None:
        def run() -> None:
            with self.autocast():
                for _ in self.model.backbone.stream_tokens(images):
                    pass

        warm_up_compiled(run, self.device)
        self.warm = True

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32")

    def step(self, loss: Tensor, **parts: Tensor) -> None:
        """Backward and optimiser step; the loss and its named parts are averaged over the epoch for the log.

        Nothing in it waits for a GPU, neither does fp16's scaler: a fused optimiser itself skips what overflowed.
        """
        with interrupted_afterwards():
            self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.meter.add({"loss": loss, **parts})

    def end_training_pass(self) -> None:
        """Notes the time, images and memory of the epoch's batches; to be called before validation."""
        if time.perf_counter() - max(self.saved_at, self.meter.started) > LONG_S:
            self._save_within_epoch()
        self.meter.stop()

    def end_epoch(self, evaluations: Sequence[Evaluation]) -> None:
        """Records the epoch, whose score is that of the last validation set, and writes the checkpoints."""
        self.last_score = score = self.score(evaluations[-1])
        listings = [evaluation.listing for evaluation in evaluations]
        self.validation = {"selected_by": listings[-1].label, "validation": {
            listing.label: {"files_sha256": listing.fingerprint(), "warnings": list(listing.warnings)}
            for listing in listings}}
        better = score > self.best_score
        self.best_score = max(score, self.best_score)
        self.epochs_without_gain = 0 if better else self.epochs_without_gain + 1
        lr = self.optimiser.param_groups[0]["lr"]
        with warnings.catch_warnings():  # torch misses the optimiser's call where a run resumes behind the last step
            warnings.filterwarnings("ignore", "Detected call of .lr_scheduler.step")
            self.schedule.step()
        self.epoch += 1
        losses, seconds, memory_mib = self.meter.losses(), self.meter.seconds, self.meter.memory_mib
        record = {"epoch": self.epoch, **losses, "lr": lr, "images_per_second": self.meter.images / seconds,
                  "peak_memory_mib": memory_mib, "seconds": seconds,
                  "recalls": {evaluation.listing.name: evaluation.recalls() for evaluation in evaluations},
                  "score": score[0], "best_score": self.best_score[0], "first_stage_score": score[1],
                  **self.more_metrics()}
        if is_first():
            self.run.add_metrics(record)
            self._save(better)
        log.info("epoch %d/%d: %s, lr %.1e, %.1f images/s, peak memory %.0f MiB, %s %s %.1f (%s)", self.epoch,
                 self.epochs, ", ".join(f"{name} {value:.4f}" for name, value in losses.items()), lr,
                 record["images_per_second"], memory_mib, listings[-1].label, self.score_name, score[0],
                 "best so far" if better else f"best {self.best_score[0]:.1f}, {self.epochs_without_gain} without gain")
        if self.curves:
            self.curves.refresh()

    def _save(self, better: bool) -> None:
        last, best = self.run.folder / LAST, self.run.folder / BEST
        if better:
            self.best = [self.identity, self.epoch]
        # The best is written first: stopped between the two, last_model.pth cannot claim a best that is not there.
        self.files.save(self.model, best if better else last, pretrained=self.origin.pretrained, training={
            "script": self.script, "earlier": [*self.origin.trainings], "data": self.trained_on,
            "precision": self.precision, **self.validation, "run": self.identity, "best": self.best,
            "options": self.run.options, "epoch": self.epoch, "within_epoch": self.within_epoch,
            "score": self.last_score, "best_score": self.best_score, "epochs_without_gain": self.epochs_without_gain,
            "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(), "random": random_states(self.device), **self.more_state()})
        if better:
            _copy(best, last)
        self.saved_at, Run.resumable = time.perf_counter(), self.run.folder

    def costs(self) -> dict[str, float | None]:
        """What the paper's Tables IV to VI and Figure 7 compare: parameters that learn, the highest memory of an epoch,
        and an epoch's time without validation; of all epochs of this training, those before a break included."""
        metrics = self.run.folder / METRICS
        epochs = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
        costs = {"trainable_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                 "peak_memory_mib": max((epoch["peak_memory_mib"] for epoch in epochs), default=None),
                 "minutes_per_epoch": statistics.mean(epoch["seconds"] for epoch in epochs) / 60 if epochs else None}
        if epochs:
            log.info("trained %.2f million parameters, peak memory %.0f MiB, %.2f minutes an epoch",
                     costs["trainable_parameters"] / 1e6, costs["peak_memory_mib"], costs["minutes_per_epoch"])
        return costs

    def best_model(self) -> tuple[Any, Checkpoint]:
        """The model with the best validation score, on the device in eval mode, and what its file says."""
        checkpoint = self.files.read(self.run.folder / "best_model.pth") if is_first() else None
        model = self.files.load(checkpoint) if checkpoint else self.files.build(self.model.config)
        model = model.to(self.device).eval()
        distributed.broadcast_weights(model)  # only the first process need see the run folder
        return model, distributed.broadcast(checkpoint and dataclasses.replace(checkpoint, state_dict={}))


def _ends(asked: list[int]) -> bool:
    """Whether one of the processes was asked to end; then all are."""
    if distributed.largest(len(asked)) and not asked:  # in this order: every process takes part
        asked.append(signal.SIGTERM)
    return bool(asked)


def _copy(source: Path, target: Path) -> None:
    with temporary_path(target, synced=True) as temporary:
        shutil.copyfile(source, temporary)
