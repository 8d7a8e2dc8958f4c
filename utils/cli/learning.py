"""What the commands share that train a model: how it learns, and the records that say so."""

import argparse
import dataclasses
from collections.abc import Sequence

import torch

from ..data import EvaluationImages, TrainingData
from ..device import PRECISIONS
from ..evaluation.evaluator import EvaluationOptions
from ..run import RunOptions
from ..training.loop import TrainingOptions
from .parsing import evaluation_of, images_of, positive, positive_float, run_options, seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningCommand:
    """What every command that trains was asked to do.

    validation  names of sets, of which the last chooses the best weights; test: the name of one
    """

    images: EvaluationImages
    validation: Sequence[str]
    test: str
    training: TrainingOptions
    evaluation: EvaluationOptions
    run: RunOptions
    seed: int

    @property
    def device(self) -> torch.device:
        return self.training.device


def learning_options(parser: argparse.ArgumentParser, *, whose: str = "the", seeds: str,
                     epochs: int = TrainingOptions.epochs, patience: int = TrainingOptions.patience,
                     lr: float = TrainingOptions.lr, halved: bool = True, precision: str | None = None,
                     compiled: bool = False) -> None:
    """The group "training" of a command.

    whose      backbone it starts from; seeds: what --seed is of; halved: whether the learning rate is, now and then
    precision  the default; None: the best of the device; compiled: whether the backbone may be
    """
    training = parser.add_argument_group("training")
    training.add_argument("--foundation_model_path", metavar="FILE",
                          help=f"{whose} backbone's official file; 'random': seeded random weights; default: fetched")
    training.add_argument("--epochs_num", type=positive, default=epochs, help="epochs at most")
    training.add_argument("--patience", type=positive, default=patience,
                          help="epochs without improvement before stopping")
    training.add_argument("--lr", type=positive_float, default=lr,
                          help=f"learning rate of Adam{'' if halved else ', constant'}")
    if halved:
        training.add_argument("--lr_halving", type=positive, default=TrainingOptions.lr_halving, metavar="EPOCHS",
                              help="halves it so often")
    else:
        parser.set_defaults(lr_halving=None)
    training.add_argument("--precision", choices=PRECISIONS, default=precision,
                          help="of training" if precision else "default: the best the device has")
    if compiled:
        training.add_argument("--compile", action="store_true", help="the frozen backbone, by torch.compile")
    else:
        parser.set_defaults(compile=False)
    training.add_argument("--seed", type=seed, default=TrainingData.seed, help=seeds)


def learning_of(args: argparse.Namespace) -> dict:
    """The fields of a LearningCommand that are the same in all of them: all but `validation`."""
    training = TrainingOptions(
        device=args.device, precision=args.precision, compiled=args.compile, lr=args.lr, lr_halving=args.lr_halving,
        epochs=args.epochs_num, patience=args.patience, save_every=args.save_every, tensorboard=args.tensorboard)
    return {"images": images_of(args), "test": args.dataset_name, "training": training,
            "evaluation": evaluation_of(args), "run": run_options("logs", args), "seed": args.seed}
