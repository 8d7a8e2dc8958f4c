"""What the commands of both models share: groups of options, their checks, and the records that they fill."""

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import TEST_METHODS

from .. import errors
from ..data import EvaluatedSet, EvaluationImages
from ..device import best_precision, pick_device
from ..distributed import let_the_first_speak
from ..evaluation.evaluator import EvaluationOptions
from ..evaluation.forecast import check_memory
from ..evaluation.results import ShownOptions
from ..report import check_libraries
from ..run import RunOptions
from ..training.curves import load_tensorboard
from ..training.loop import TrainingOptions


def checked(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """Sorts the recall values and picks device and precision; what the options ask for must be there, memory too."""
    if getattr(args, "foundation_model_path", None) and args.resume:
        parser.error("--foundation_model_path beside --resume: that file holds the backbone; leave the former out")
    args.recall_values = sorted(set(args.recall_values))
    try:
        args.device = pick_device(args.device)
        if getattr(args, "tensorboard", False):
            load_tensorboard()
        check_memory("--resize", args.resize or EvaluationImages.size, args.device,
                     batch=("--infer_batch_size", args.infer_batch_size))
    except ValueError as error:
        parser.error(str(error))
    args.precision = args.precision or best_precision(args.device)
    return args


MODEL_FILE = "model file, ours or published, or a folder or OWNER/REPO[@REVISION] of the Hugging Face hub"
RERANK_NUM = 100  # candidates; the paper's
NO_DATA = ("--datasets_folder is missing (or set DATASETS_FOLDER): the folder that holds "
           "<dataset_name>/images/<split>/{database,queries}")


def images_of(args: argparse.Namespace) -> EvaluationImages:
    """What evaluation_options say of images."""
    return EvaluationImages(datasets_folder=args.datasets_folder, test_method=args.test_method,
                            threshold_m=args.val_positive_dist_threshold, **given(size=args.resize))


def shown_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> ShownOptions:
    """What shown_options say, for which a drawing library must be there."""
    if args.save_only_wrong_preds and not args.num_preds_to_save:
        parser.error("--save_only_wrong_preds is of --num_preds_to_save; give both, or leave it out")
    if args.save_only_wrong_preds and getattr(args, "no_labels", False):
        parser.error("--save_only_wrong_preds beside --no_labels: nothing is known to be wrong; leave one out")
    try:
        if args.report:
            check_libraries()
    except ValueError as error:
        parser.error(str(error))
    return ShownOptions(report=args.report, panels=args.num_preds_to_save, only_wrong=args.save_only_wrong_preds)


def code_lengths(parser: argparse.ArgumentParser, words: Sequence[int] | None, *, rerank_num: int
                 ) -> tuple[int | None, int]:
    """Of --code_bits N [M]: N, None without it, and M, 0 without. rerank_num: candidates of a later stage."""
    bits, shortlist, *more = [*(words or [None]), 0]
    if len(more) > 1:
        parser.error(f"--code_bits {' '.join(map(str, words))}: expected N, or N and M")
    if shortlist and shortlist < rerank_num:
        parser.error(f"--code_bits {bits} {shortlist}: float descriptors re-rank {rerank_num} candidates, so the "
                     f"second number must be at least {rerank_num}")
    return bits, shortlist


def evaluation_of(args: argparse.Namespace, **more: Any) -> EvaluationOptions:
    """What evaluation_options say of extracting and counting, and more fields."""
    return EvaluationOptions(recall_values=args.recall_values, batch_size=args.infer_batch_size,
                             num_workers=args.num_workers, device=args.device, **more)


def given(**values: object) -> dict:
    """Those that are not None, whose place a record's default takes."""
    return {name: value for name, value in values.items() if value is not None}


def run_options(root: str, args: argparse.Namespace) -> RunOptions:
    """With every option's value as plain JSON, for the run folder and the checkpoint."""
    plain = vars(args) | {"device": args.device.type}  # without the number of this process's GPU
    return RunOptions(root=Path(root), name=args.save_dir, options={
        key: str(value) if isinstance(value, Path) else value for key, value in sorted(plain.items())})


def with_options(run: RunOptions, **sizes: Sequence[int]) -> RunOptions:
    """The same with image sizes as they are used."""
    return dataclasses.replace(run, options=run.options | {name: [*size] for name, size in sizes.items()})


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults that are values."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(errors.Parser):
    """Of several processes the first tells a mistake."""

    def error(self, message: str):
        let_the_first_speak()
        super().error(message)


def evaluation_options(parser: argparse.ArgumentParser, *, size: Sequence[int] = EvaluationImages.size,
                       rerank: bool = False, training: bool = False, sized: bool = True) -> None:
    """Of every script. size: of images, (H, W) in pixels; rerank, training: whether it re-ranks, whether it trains;
    sized: False: other options say how large images are."""
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--datasets_folder", type=Path, default=os.environ.get("DATASETS_FOLDER"),
                            help="holds <name>/images/<split>/{database,queries}; or environment DATASETS_FOLDER")
    evaluation.add_argument("--dataset_name", default=EvaluatedSet.name,
                            help="test set: a protocol of datasets/README.md, or a folder")
    if sized:
        evaluation.add_argument("--resize", type=positive, nargs=2, metavar=("H", "W"), help=size_help(size))
    else:
        parser.set_defaults(resize=None)
    if training:
        parser.set_defaults(test_method=EvaluationImages.test_method, recall_values=[*EvaluationOptions.recall_values])
    else:
        evaluation.add_argument("--test_method", choices=TEST_METHODS, default=EvaluationImages.test_method,
                                help="how queries are brought to --resize; the database is always resized to it")
        evaluation.add_argument("--recall_values", type=positive, nargs="+", metavar="K",
                                default=[*EvaluationOptions.recall_values], help="the k of recall@k")
    evaluation.add_argument("--infer_batch_size", type=positive, default=EvaluationOptions.batch_size,
                            help="images a batch")
    evaluation.add_argument("--val_positive_dist_threshold", type=positive_float, metavar="METRES",
                            help="of right answers; default: the protocol's, 25 for a folder")
    if rerank:
        evaluation.add_argument("--rerank_num", type=positive, default=RERANK_NUM, help="candidates that are re-ranked")


def shown_options(parser: argparse.ArgumentParser) -> None:
    """Of every evaluation script."""
    shown = parser.add_argument_group("to look at, in the run folder")
    shown.add_argument("--report", action="store_true", help="a page to open in a browser: report.html")
    shown.add_argument("--num_preds_to_save", type=count, default=ShownOptions.panels, metavar="N",
                       help="a picture of each query and its first N predictions: preds/*.jpg")
    shown.add_argument("--save_only_wrong_preds", action="store_true",
                       help="these only of queries whose first prediction is wrong")


def machine_options(parser: argparse.ArgumentParser, *, training: bool = False) -> None:
    """Of every script."""
    machine = parser.add_argument_group("machine and output")
    machine.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    machine.add_argument("--num_workers", type=count, default=min(8, os.cpu_count() or 1),
                         help="loader processes, of each process under torchrun")
    machine.add_argument("--save_dir", default="default", help="name of the folder that holds the run folders")
    if training:
        machine.add_argument("--save_every", type=positive_float, default=TrainingOptions.save_every, metavar="MINUTES",
                             help="between states written within an epoch")
        machine.add_argument("--tensorboard", action="store_true",
                             help="write the figures of curves.png for TensorBoard, too; needs that installed")
        machine.add_argument("--deterministic", action="store_true",
                             help="equal results in every run on a GPU too, at some cost; on a CPU they always are")


def size_help(size: Sequence[int]) -> str:
    """Of an option that is an image size."""
    height, width = size
    return f"pixels, moved to the nearest multiples of the backbone's patch; default: {height} {width}"


def number(kind: type, accept: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """The `type` of an option, whose value is such a number."""
    def parsed(text: str) -> float:
        with contextlib.suppress(ValueError):
            if accept(value := kind(text)):
                return value
        shown = text if len(text) < 60 else f"{text[:50]}..."
        raise argparse.ArgumentTypeError(f"{shown!r} is not {expected}")

    return parsed


# Above, libraries meet numbers that they cannot hold; so many processes would only exhaust the machine.
positive = number(int, lambda value: 1 <= value < 2**31, "a whole number of at least 1, below 2^31")
count = number(int, lambda value: 0 <= value <= 1024, "a whole number of at least 0, at most 1024")
seed = number(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")
positive_float = number(float, lambda value: 0 < value < float("inf"), "a positive number")
