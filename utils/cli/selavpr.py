"""The options of SelaVPR's scripts; the records that they fill hold the defaults."""

import argparse
import dataclasses
from pathlib import Path

import torch

from datasets import MININGS, TRAINING_SETS
from model import BACKBONES

from ..data import EvaluatedSet, EvaluationImages, TrainingData
from ..device import PRECISIONS, make_deterministic
from ..distributed import start
from ..evaluation.evaluator import EvaluationOptions
from ..evaluation.results import ShownOptions
from ..ranks import launched
from ..run import RunOptions, start_log
from ..selavpr.local import LocalOptions
from ..selavpr.models import SelaVPROptions
from ..selavpr.training import TripletData
from .learning import LearningCommand, learning_of, learning_options
from .parsing import (
    NO_DATA,
    Defaults,
    Parser,
    checked,
    evaluation_of,
    evaluation_options,
    images_of,
    machine_options,
    number,
    positive,
    positive_float,
    run_options,
    shown_of,
    shown_options,
    with_options,
)

SIZE = TripletData.size  # of images, in training and evaluation
share = number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelaVPRTrainingCommand(LearningCommand):
    """What train_selavpr.py was asked to do; negatives: of each query."""

    model: SelaVPROptions
    data: TripletData | TrainingData
    negatives: int
    local: LocalOptions

    @property
    def by_places(self) -> bool:
        """Whether places supervise, not coordinates."""
        return isinstance(self.data, TrainingData)

    def fitted(self, patch: int) -> "SelaVPRTrainingCommand":
        """The same with images whose sides are multiples of the backbone's patch, in pixels."""
        images, data = self.images.fitted(patch), self.data.fitted(patch)
        return dataclasses.replace(self, images=images, data=data, run=with_options(self.run, resize=images.size))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelaVPREvaluationCommand:
    """What eval_selavpr.py was asked to do."""

    model: SelaVPROptions
    chosen: EvaluatedSet
    images: EvaluationImages
    evaluation: EvaluationOptions
    local: LocalOptions
    shown: ShownOptions
    run: RunOptions
    device: torch.device

    def fitted(self, patch: int) -> "SelaVPREvaluationCommand":
        """The same with images whose sides are multiples of the backbone's patch, in pixels."""
        images = self.images.fitted(patch)
        return dataclasses.replace(self, images=images, run=with_options(self.run, resize=images.size))


def selavpr_training(description: str, argv: list[str] | None) -> SelaVPRTrainingCommand:
    """Parses the command line of train_selavpr.py. A mistake is one line and exit code 2."""
    parser = training_parser(description)
    args = _parse(parser, argv)
    for name in ("mining", "neg_samples_num", "cache_refresh_rate", "queries_per_epoch"):
        if args.training_dataset and getattr(args, name) != getattr(TripletData, name):
            parser.error(f"--{name} beside --training_dataset: places need no mining; leave one of them out")
    learning = learning_of(args)
    size = learning["images"].size
    command = SelaVPRTrainingCommand(
        model=SelaVPROptions(resume=args.resume, backbone=args.backbone, foundation=args.foundation_model_path,
                             seed=args.seed),
        data=TripletData(
            datasets_folder=args.datasets_folder, dataset_name=args.dataset_name, size=size,
            positives_m=args.train_positives_dist_threshold, mining=args.mining,
            negs_num_per_query=args.negs_num_per_query, neg_samples_num=args.neg_samples_num,
            cache_refresh_rate=args.cache_refresh_rate, queries_per_epoch=args.queries_per_epoch,
            triplets_per_batch=args.train_batch_size, batch_size=args.infer_batch_size, seed=args.seed,
            num_workers=args.num_workers) if args.training_dataset is None else TrainingData(
                training_dataset=args.training_dataset, datasets_folder=args.datasets_folder, size=size,
                places_per_batch=args.train_batch_size, seed=args.seed, num_workers=args.num_workers),
        negatives=args.negs_num_per_query,
        validation=[args.val_dataset or args.dataset_name], local=_local(args), **learning)
    if args.deterministic:
        make_deterministic()
    start_log()
    start(args.device)
    return command


def selavpr_evaluation(description: str, argv: list[str] | None) -> SelaVPREvaluationCommand:
    """Parses the command line of eval_selavpr.py."""
    parser = evaluation_parser(description)
    args = _parse(parser, argv)
    command = SelaVPREvaluationCommand(
        model=SelaVPROptions(resume=args.resume, backbone=args.backbone, weights=args.weights),
        chosen=EvaluatedSet(name=args.dataset_name, split=args.split, file_lists=args.file_lists),
        images=images_of(args),
        evaluation=evaluation_of(args, precision=args.precision, index=args.index, resumable=True),
        local=dataclasses.replace(_local(args), recompute=args.recompute), shown=shown_of(parser, args),
        run=run_options("test", args), device=args.device)
    start_log()
    start(args.device)
    return command


def _parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    args = parser.parse_args(argv)
    if args.datasets_folder is None:
        parser.error(NO_DATA)
    if launched():
        parser.error("torchrun: SelaVPR's scripts run in one process; start them with python")
    args.resize = args.resize or [*SIZE]
    return checked(parser, args)


def _local(args: argparse.Namespace) -> LocalOptions:
    return LocalOptions(rerank_num=args.rerank_num, weight=args.global_weight, precision=args.matching)


def training_parser(description: str) -> argparse.ArgumentParser:
    """The options of train_selavpr.py."""
    parser = _parser(description, training=True)
    data = parser.add_argument_group("training data: <dataset_name>/images/train")
    data.add_argument("--val_dataset", metavar="NAME", help="its val split chooses; default: that of --dataset_name")
    data.add_argument("--train_positives_dist_threshold", type=positive_float, default=TripletData.positives_m,
                      metavar="METRES", help="positives lie within it; negatives beyond 25 m")
    data.add_argument("--mining", choices=MININGS, default=TripletData.mining, help="where negatives come from")
    for name, says in (("negs_num_per_query", "negatives in a triplet"),
                       ("neg_samples_num", "database images drawn, from which they are chosen"),
                       ("cache_refresh_rate", "queries mined at a time"),
                       ("queries_per_epoch", "a multiple of these")):
        data.add_argument(f"--{name}", type=positive, default=getattr(TripletData, name), help=says)
    data.add_argument("--train_batch_size", type=positive, default=TripletData.triplets_per_batch,
                      help="queries a batch, or places")
    data.add_argument("--training_dataset", metavar="NAME",
                      help=f"learn from places instead: {' or '.join(TRAINING_SETS)}, or a folder in that layout; "
                           "without mining")
    learning_options(parser, seeds="of weights and mining", epochs=50, patience=3, lr=1e-5, halved=False,
                     precision="fp32")
    return parser


def evaluation_parser(description: str) -> argparse.ArgumentParser:
    """The options of eval_selavpr.py."""
    parser = _parser(description)
    parser.add_argument("--weights", choices=("msls", "pitts30k"), default=SelaVPROptions.weights,
                        help="without --resume: what the published model was trained on")
    parser.add_argument("--split", choices=("train", "val", "test"), help="of a folder; default: test")
    parser.add_argument("--file_lists", type=Path, metavar="DIR",
                        help="evaluate by the .npy lists in DIR, of images in <datasets_folder>/<dataset_name>")
    parser.add_argument("--precision", choices=PRECISIONS, default=EvaluationOptions.precision, help="of extracting")
    parser.add_argument("--index", type=Path, metavar="FOLDER",
                        help="keep descriptors and local features there: a later run with them only searches")
    parser.add_argument("--recompute", action="store_true",
                        help="extract local features when they are asked for: no disk, more time")
    shown_options(parser)
    return parser


def _parser(description: str, *, training: bool = False) -> argparse.ArgumentParser:
    parser = Parser(description=description, formatter_class=Defaults, allow_abbrev=False)
    model = parser.add_argument_group("model")
    model.add_argument("--backbone", choices=BACKBONES, help="default: the file's, dinov2-large without one")
    folder = "; or a training's run folder, to go on" if training else ""
    model.add_argument("--resume", type=Path, metavar="FILE", help=f"SelaVPR file, ours or published{folder}")
    evaluation_options(parser, size=SIZE, rerank=True, training=training)
    local = parser.add_argument_group("re-ranking")
    if training:  # chooses the best epoch by the published order
        parser.set_defaults(global_weight=LocalOptions.weight)
    else:
        local.add_argument("--global_weight", type=share, default=LocalOptions.weight, metavar="0..1",
                           help="of the global descriptors' cosine beside the share of matched features")
    local.add_argument("--matching", choices=("fp32", "bf16"), default=LocalOptions.precision,
                       help="what local features are compared in")
    machine_options(parser, training=training)
    return parser
