"""The options of SelaVPR++'s scripts; the records that they fill hold the defaults, and are all that is seen below."""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from datasets import DEFAULT_NORMALISATION, NORMALISATIONS, TRAINING_SETS
from model import AGGREGATORS, BACKBONES

from ..data import EvaluatedSet, EvaluationImages, TrainingData
from ..device import PRECISIONS, make_deterministic
from ..distributed import start
from ..evaluation.evaluator import EvaluationOptions
from ..evaluation.forecast import check_memory
from ..evaluation.results import ShownOptions
from ..hub import HubOptions
from ..models import ModelOptions
from ..ranks import launched
from ..run import RunOptions, start_log
from ..search import STORES
from .learning import LearningCommand, learning_of, learning_options
from .parsing import (
    MODEL_FILE,
    NO_DATA,
    RERANK_NUM,
    Defaults,
    Parser,
    checked,
    code_lengths,
    evaluation_of,
    evaluation_options,
    given,
    images_of,
    machine_options,
    positive,
    run_options,
    shown_of,
    shown_options,
    size_help,
    with_options,
)
from .refused_options import refuse_leftovers
from .variants import chosen_fields, listing

Flags = tuple[str, ...]  # those of the published commands that say what the script says: () or ("hashing"[, "rerank"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingCommand(LearningCommand):
    """What a training script was asked to do; rerank_num: 0 in scripts that do not re-rank."""

    model: ModelOptions
    data: TrainingData
    rerank_num: int

    def fitted(self, patch: int) -> "TrainingCommand":
        """The same with images whose sides are multiples of the backbone's patch, in pixels."""
        images, data = self.images.fitted(patch), self.data.fitted(patch)
        run = with_options(self.run, resize=images.size, train_resize=data.size)
        return dataclasses.replace(self, images=images, data=data, run=run)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationCommand:
    """What an evaluation script was asked to do.

    hub         another repository's model instead of `model`; None: `model`
    answers     how many of each query to write; None for a benchmark
    rerank_num  0 in scripts that do not re-rank
    code_bits   of the codes to search by; None: all; shortlist: how many to sort by the whole codes then, 0: none
    """

    model: ModelOptions
    hub: HubOptions | None = None
    chosen: EvaluatedSet
    images: EvaluationImages
    evaluation: EvaluationOptions
    run: RunOptions
    device: torch.device
    answers: int | None
    shown: ShownOptions
    rerank_num: int
    code_bits: int | None = None
    shortlist: int = 0

    def fitted(self, patch: int) -> "EvaluationCommand":
        """The same with images whose sides are multiples of the backbone's patch, in pixels."""
        images = self.images.fitted(patch)
        return dataclasses.replace(self, images=images, run=with_options(self.run, resize=images.size))


def training(description: str, argv: list[str] | None, *, flags: Flags = ()) -> TrainingCommand:
    """Parses the command line of a training script. A mistake is one line and exit code 2.

    Starts the log, and under torchrun meets the other processes.
    """
    parser = training_parser(description, flags=flags)
    args = _parse(parser, argv, flags)
    try:
        fields = chosen_fields(args.variant, args.set)
        places = 1 if launched() else args.train_batch_size  # of several processes at least one
        check_memory("--train_resize", args.train_resize or TrainingData.size, args.device,
                     batch=("--train_batch_size", places * args.images_per_place))
    except ValueError as error:
        parser.error(str(error))
    command = TrainingCommand(
        model=ModelOptions(resume=args.resume, backbone=args.backbone, aggregation=args.aggregation, fields=fields,
                           foundation=args.foundation_model_path, seed=args.seed),
        data=TrainingData(
            training_dataset=args.training_dataset, datasets_folder=args.datasets_folder, cities=args.cities,
            images_per_place=args.images_per_place, places_per_batch=args.train_batch_size, seed=args.seed,
            num_workers=args.num_workers, **given(size=args.train_resize)),
        validation=args.val_datasets, rerank_num=RERANK_NUM if "rerank" in flags else 0, **learning_of(args))
    if args.deterministic:
        make_deterministic()
    start_log()
    start(args.device)
    return command


def evaluation(description: str, argv: list[str] | None, *, flags: Flags = (),
               parser: argparse.ArgumentParser | None = None) -> EvaluationCommand:
    """Parses the command line of an evaluation script, as `training` does.

    parser  `evaluation_parser`'s with more options, whose values are among those of the run; None: that alone
    """
    parser = parser or evaluation_parser(description, flags=flags)
    args = _parse(parser, argv, flags)
    images, hub = images_of(args), None
    rerank_num = args.rerank_num if "rerank" in flags else 0
    code_bits, shortlist = code_lengths(parser, args.code_bits if flags else None, rerank_num=rerank_num)
    if not flags and args.hub:
        try:
            hub = HubOptions.of(args.hub, normalisation=args.normalise or DEFAULT_NORMALISATION)
        except ValueError as error:
            parser.error(str(error))
        images = dataclasses.replace(images, normalisation=hub.normalisation)
    command = EvaluationCommand(
        model=ModelOptions(resume=args.resume, backbone=args.backbone, aggregation=args.aggregation,
                           float_dim=None if flags == ("hashing",) else args.float_dim), hub=hub,
        chosen=EvaluatedSet(
            name=args.dataset_name, split=args.split, file_lists=args.file_lists, coordinates=args.coordinates,
            database_folder=args.database_folder, queries_folder=args.queries_folder, labels=not args.no_labels),
        evaluation=evaluation_of(args, precision=args.precision, compiled=args.compile, store=args.store,
                                 index=args.index, resumable=True),
        images=images, run=with_options(run_options("test", args), resize=images.size), device=args.device,
        answers=args.answers if args.database_folder else None, shown=shown_of(parser, args),
        rerank_num=rerank_num, code_bits=code_bits, shortlist=shortlist)
    start_log()
    start(args.device)
    return command


def _parse(parser: argparse.ArgumentParser, argv: list[str] | None, flags: Flags) -> argparse.Namespace:
    """Checks what one option alone cannot tell."""
    refuse_leftovers(sys.argv[1:] if argv is None else argv, parser.error)
    args = parser.parse_args(argv)
    if getattr(args, "variant", None) == "help":
        print(listing())
        parser.exit()
    for flag in ("hashing", "rerank"):
        if getattr(args, flag) and flag not in flags:
            fitting = "rerank" if args.rerank else "hashing"
            parser.error(f"--{flag} does not belong to this script; use train_{fitting}.py or eval_{fitting}.py")
    own = getattr(args, "database_folder", None), getattr(args, "queries_folder", None)
    if (own[0] is None) != (own[1] is None):
        parser.error("--database_folder and --queries_folder belong together; give both")
    if own[0] is None and (getattr(args, "coordinates", None) or getattr(args, "no_labels", False)):
        parser.error("--coordinates and --no_labels are of --database_folder and --queries_folder; give these too")
    if own[0] and args.file_lists:
        parser.error("--file_lists beside --database_folder: lists are of a data set; leave one out")
    if getattr(args, "index", None) and args.index.exists() and not args.index.is_dir():
        parser.error(f"--index {args.index} is a file; expected a folder, which need not exist yet")
    for name in ("backbone", "aggregation", "resume", "compile", "float_dim") if getattr(args, "hub", None) else ():
        if getattr(args, name):
            parser.error(f"--{name} beside --hub: it is of our own models; leave one of them out")
    if getattr(args, "normalise", None) and not args.hub:
        parser.error("--normalise is of --hub: our own models know one normalisation; leave it out")
    if args.datasets_folder is None and own[0] is None:
        parser.error(NO_DATA)
    return checked(parser, args)


def training_parser(description: str, *, flags: Flags = ()) -> argparse.ArgumentParser:
    """The options of train.py, train_hashing.py and train_rerank.py."""
    parser = _parser(description, flags, training=True)
    data = parser.add_argument_group("training data")
    data.add_argument("--training_dataset", default=TrainingData.training_dataset, metavar="NAME",
                      help=f"{' or '.join(TRAINING_SETS)}, in --datasets_folder; or a folder in that layout")
    data.add_argument("--cities", nargs="+", metavar="CITY", help="default: all of the training set's")
    data.add_argument("--images_per_place", type=positive, default=TrainingData.images_per_place,
                      help="images drawn of each place")
    data.add_argument("--train_resize", type=positive, nargs=2, metavar=("H", "W"), help=size_help(TrainingData.size))
    data.add_argument("--train_batch_size", type=positive, default=TrainingData.places_per_batch,
                      help="places a batch, of all processes")
    data.add_argument("--val_datasets", nargs="+", default=["pitts30k", "msls"], metavar="NAME",
                      help="evaluated every epoch (msls: its 740 queries); the last decides which weights are best")
    learning_options(parser, seeds="of weights, sampling and augmentation", compiled=True)
    method = parser.add_argument_group("method")
    method.add_argument("--variant", metavar="NAME",
                        help="a method or ablation of the paper; 'help' lists them, and the fields of --set")
    method.add_argument("--set", metavar="FIELD=VALUE", nargs="+", default=[],
                        help="fields of the model's configuration; what is not set is as in the paper")
    return parser


def evaluation_parser(description: str, *, flags: Flags = ()) -> argparse.ArgumentParser:
    """The options of eval.py, eval_hashing.py and eval_rerank.py."""
    parser = _parser(description, flags)
    parser.add_argument("--split", choices=("train", "val", "test"), help="of a folder; default: test")
    parser.add_argument("--file_lists", type=Path, metavar="DIR",
                        help="evaluate by the .npy lists in DIR, of images in <datasets_folder>/<dataset_name>")
    speed = parser.add_argument_group("speed and size; what the defaults give is exact")
    speed.add_argument("--precision", choices=PRECISIONS, default=EvaluationOptions.precision,
                       help="of extracting; bf16, fp16 round")
    speed.add_argument("--compile", action="store_true", help="the backbone, by torch.compile")
    speed.add_argument("--store", choices=STORES, default=EvaluationOptions.store,
                       help="how the database's float descriptors are kept")
    speed.add_argument("--index", type=Path, metavar="FOLDER",
                       help="keep the descriptors there: an interrupted run resumes, a finished one is only searched")
    if "rerank" in flags:
        speed.add_argument("--code_bits", type=positive, nargs="+", metavar=("N", "M"),
                           help="search by the codes' first N bits; given M, sort the best M by whole codes then")
    elif flags:
        speed.add_argument("--code_bits", type=positive, nargs=1, metavar="N", help="search by the codes' first N bits")
    if flags != ("hashing",):
        speed.add_argument("--float_dim", type=positive, metavar="N", help="the float descriptors' first N dimensions")
    own = parser.add_argument_group("images of your own, instead of a data set; answers in answers.csv and .json")
    own.add_argument("--database_folder", type=Path, help="images of known places")
    own.add_argument("--queries_folder", type=Path, help="images to be found among them")
    own.add_argument("--coordinates", type=Path, metavar="CSV",
                     help="path,lat,lon[,heading] or path,utm_east,utm_north; default: from names or EXIF")
    own.add_argument("--answers", type=positive, default=10, metavar="K", help="written for each query")
    own.add_argument("--no_labels", action="store_true", help="no coordinates: nothing is counted as right")
    shown_options(parser)
    if not flags:
        hub = parser.add_argument_group("another repository's model, instead of ours")
        hub.add_argument("--hub", nargs="+", metavar=("OWNER/REPO:ENTRY", "KEY=VALUE"),
                         help="torch.hub entry that gives (n, D) descriptors, or ./FOLDER:ENTRY, and its arguments; "
                              "runs that repository's code as yours: only what you trust. --resize is not rounded")
        hub.add_argument("--normalise", choices=NORMALISATIONS, help=f"its images; default: {DEFAULT_NORMALISATION}")
    return parser


def _parser(description: str, flags: Flags, *, training: bool = False) -> argparse.ArgumentParser:
    parser = Parser(description=description, formatter_class=Defaults, allow_abbrev=False,
                     epilog="--hashing and --rerank, as in the published commands, are accepted where they fit.")
    model = parser.add_argument_group("model")
    model.add_argument("--backbone", choices=BACKBONES, help="default: the file's, dinov2-large without one")
    model.add_argument("--aggregation", choices=AGGREGATORS, help="default: the file's, gem without one")
    folder = "; or a training's run folder, to go on" if training else ""
    model.add_argument("--resume", type=Path, metavar="FILE", help=f"{MODEL_FILE}{folder}")
    for flag in ("--hashing", "--rerank"):  # they say what the script says
        model.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    evaluation_options(parser, rerank="rerank" in flags and not training, training=training)
    machine_options(parser, training=training)
    return parser
