"""The plumbing of a training: data, precision, optimiser, best model, early stopping, going on after a break."""

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets import TRAINING_SETS, CityBatchSampler, PlaceDataset, collate_places, training_transform
from model import Checkpoint, CheckpointError, SelaVPRpp, load_model, save_checkpoint

from .data import patch_size
from .device import PRECISIONS, peak_memory_mib, random_states, restore_random_states, synchronise
from .evaluation import Evaluation
from .run import Run, progress, temporary_path

log = logging.getLogger("selavprpp")

# What a resumed run is rightly called without, or with another value: the file holds or decides it.
OPTIONS_OF_A_START = {"aggregation", "backbone", "foundation_model_path", "hashing", "rerank", "resume", "save_dir"}


def training_loader(*, training_dataset: str, datasets_folder: Path, train_folder: Path | None,
                    cities: Sequence[str] | None, images_per_place: int, size: Sequence[int], places_per_batch: int,
                    seed: int, num_workers: int, device: torch.device) -> DataLoader:
    """Batches (pictures (P*K, 3, H, W), labels (P*K,)) of P places with K pictures each, mostly of one city."""
    dataset = PlaceDataset(
        train_folder or datasets_folder / training_dataset, cities=cities or TRAINING_SETS[training_dataset],
        images_per_place=images_per_place, seed=seed,
        transform=training_transform(patch_size(size, "--train_resize")))
    if dataset.missing_cities:
        log.warning("training goes on without %d absent cities: %s", len(dataset.missing_cities),
                    " ".join(dataset.missing_cities))
    log.info("training on %s: %d places, %d pictures, %d cities; %d places with fewer than %d pictures left out",
             dataset.folder, dataset.n_places, dataset.n_images, len(dataset.cities), dataset.dropped_places,
             images_per_place)
    sampler = CityBatchSampler(dataset, places_per_batch=places_per_batch, seed=seed)
    # A generator of its own: otherwise starting workers would draw from torch's global one, and what the losses
    # draw there would depend on the number of workers.
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_places,
                      generator=torch.Generator(),
                      pin_memory=device.type == "cuda", persistent_workers=num_workers > 0)


class Training:
    """Optimiser, schedule, precision and record of one training; the loop itself stands in the script.

    Adam over the trainable parameters, the learning rate halved every `lr_halving` epochs. After every epoch
    last_model.pth is written, with all that is needed to go on, and copied to best_model.pth when the score is the best
    so far.
    """

    def __init__(self, model: SelaVPRpp, *, run: Run, script: str, device: torch.device, precision: str,
                 lr: float, lr_halving: int, epochs: int, patience: int, pretrained: bool | None):
        self.model = model.to(device)
        self.run, self.script, self.device = run, script, device
        self.precision = precision
        self.epochs, self.patience, self.pretrained = epochs, patience, pretrained
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.Adam(trainable, lr=lr)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimiser, step_size=lr_halving, gamma=0.5)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.epoch, self.best_score, self.epochs_without_gain = 0, (float("-inf"), 0.0), 0
        self._start_epoch()
        log.info("device %s, precision %s; %.2f million parameters, %.2f trained", device, self.precision,
                 sum(parameter.numel() for parameter in model.parameters()) / 1e6,
                 sum(parameter.numel() for parameter in trainable) / 1e6)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on where a file of this script stopped; one without a training state starts at epoch 0."""
        state = checkpoint.training
        if state is None:
            log.info("weights of %s loaded; it holds no training state: starting at epoch 0", checkpoint.source)
            return
        if state["script"] != self.script:
            raise CheckpointError(f"{checkpoint.source}: written by {state['script']}, this is {self.script}")
        for name in sorted(set(self.run.options) - OPTIONS_OF_A_START):
            before, now = state["options"].get(name), self.run.options[name]
            if before != now:
                log.warning("option %s was %s in the resumed run and is %s now%s", name, before, now,
                            "; the schedule goes on as it was" if name in ("lr", "lr_halving") else "")
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty unless it was fp16
            self.scaler.load_state_dict(state["scaler"])
        restore_random_states(state["random"], self.device)
        self.epoch, self.epochs_without_gain = state["epoch"], state["epochs_without_gain"]
        self.best_score = state["best_score"]
        folder = Path(checkpoint.source).parent
        best = folder / "best_model.pth"
        if not best.is_file():
            log.warning("no best_model.pth beside %s: the best so far is taken to be that file itself",
                        checkpoint.source)
            best, self.best_score = Path(checkpoint.source), state["score"]
        _copy(best, self.run.folder / "best_model.pth")
        if (folder / "metrics.jsonl").is_file():
            earlier = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:self.epoch]
            (self.run.folder / "metrics.jsonl").write_text("".join(earlier))
        log.info("going on with %s after %d epochs (best score %.1f)", checkpoint.source, self.epoch,
                 self.best_score[0])

    def remaining_epochs(self, loader: DataLoader) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """Yields, epoch by epoch, the epoch's batches on the device; ends at the last or when patience is spent."""
        while self.epoch < self.epochs:
            if self.epochs_without_gain >= self.patience:
                log.info("stopping: no gain in %d epochs", self.patience)
                return
            loader.batch_sampler.set_epoch(self.epoch)
            self.model.train()
            self._start_epoch()
            yield self._batches(loader)

    def _batches(self, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in progress(loader, f"epoch {self.epoch + 1}/{self.epochs}"):
            self.pictures += len(images)
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=self.precision != "fp32")

    def step(self, loss: Tensor, **parts: Tensor) -> None:
        """Backward and optimiser step; the loss and its named parts are averaged over the epoch for the log."""
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.steps += 1
        for name, value in {"loss": loss, **parts}.items():
            self.sums[name] = self.sums[name] + value.detach()

    def end_training_pass(self) -> None:
        """Notes the time and memory that the epoch's batches took; to be called before validation."""
        synchronise(self.device)
        self.memory_mib = peak_memory_mib(self.device)
        self.seconds = time.perf_counter() - self.started
        for name, total in self.sums.items():
            if not torch.isfinite(total):
                raise ValueError(f"epoch {self.epoch + 1}: the {name} is no longer finite; lower --lr or use "
                                 f"--precision fp32 (the last good state is {self.run.folder / 'last_model.pth'})")

    def end_epoch(self, evaluations: Sequence[Evaluation]) -> None:
        """Records the epoch, whose score is R@1 + R@5 of the last validation set, and writes the checkpoints."""
        score = evaluations[-1].score()
        deciding = evaluations[-1].dataset.display_name
        better = score > self.best_score
        self.best_score = max(score, self.best_score)
        self.epochs_without_gain = 0 if better else self.epochs_without_gain + 1
        lr = self.optimiser.param_groups[0]["lr"]
        self.schedule.step()
        self.epoch += 1
        losses = {name: total.item() / self.steps for name, total in self.sums.items()}
        shown_memory = "unknown" if self.memory_mib is None else f"{self.memory_mib:.0f} MiB"
        record = {"epoch": self.epoch, **losses, "lr": lr, "pictures_per_second": self.pictures / self.seconds,
                  "peak_memory_mib": self.memory_mib, "seconds": self.seconds,
                  "recalls": {evaluation.dataset.display_name: evaluation.recalls() for evaluation in evaluations},
                  "score": score[0], "best_score": self.best_score[0], "first_stage_score": score[1]}
        self.run.add_metrics(record)
        last, best = self.run.folder / "last_model.pth", self.run.folder / "best_model.pth"
        # The best is written first: stopped between the two, last_model.pth cannot claim a best that is not there.
        save_checkpoint(self.model, best if better else last, pretrained=self.pretrained, training={
            "script": self.script, "options": self.run.options, "epoch": self.epoch, "score": score,
            "best_score": self.best_score, "epochs_without_gain": self.epochs_without_gain,
            "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(), "random": random_states(self.device)})
        if better:
            _copy(best, last)
        log.info("epoch %d/%d: %s, lr %.1e, %.1f pictures/s, peak memory %s, %s R@1+R@5 %.1f (%s)", self.epoch,
                 self.epochs, ", ".join(f"{name} {value:.4f}" for name, value in losses.items()), lr,
                 record["pictures_per_second"], shown_memory, deciding, score[0],
                 "best so far" if better else f"best {self.best_score[0]:.1f}, {self.epochs_without_gain} without gain")

    def best_model(self) -> tuple[SelaVPRpp, Path]:
        """The model with the best validation score, on the device in eval mode, and its file."""
        path = self.run.folder / "best_model.pth"
        return load_model(path).to(self.device), path

    def _start_epoch(self) -> None:
        self.started = time.perf_counter()
        self.sums: dict[str, Tensor | float] = defaultdict(float)
        self.steps = self.pictures = 0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)


def _copy(source: Path, target: Path) -> None:
    with temporary_path(target) as temporary:
        shutil.copyfile(source, temporary)
