"""The command lines: every option and its default stands here once; below this file there are only typed keywords."""

import argparse
import os
import sys
from pathlib import Path

from datasets import TEST_METHODS, TRAINING_SETS
from model import AGGREGATORS, BACKBONES

from ..device import PRECISIONS, best_precision, pick_device
from ..distributed import let_the_first_speak, start
from ..modes import FLAGS, SCRIPTS
from ..run import start_log
from ..search import STORES
from .refused_options import refuse_leftovers
from .variants import chosen_fields, listing


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        # argparse would print its 20 lines of usage before the one that counts.
        let_the_first_speak()
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


class _Variant(argparse.Action):
    def __call__(self, parser, namespace, value, option_string=None):
        if value == "help":
            print(listing())
            parser.exit()
        setattr(namespace, self.dest, value)


def training_parser(description: str, *, mode: str) -> argparse.ArgumentParser:
    """The options of train.py ("float"), train_hashing.py ("hashing") and train_rerank.py ("rerank")."""
    parser = _parser(description, mode)
    data = parser.add_argument_group("training data")
    data.add_argument("--training_dataset", default="gsv_cities", metavar="NAME",
                      help=f"{' or '.join(TRAINING_SETS)}, in --datasets_folder; or a folder in that layout")
    data.add_argument("--cities", nargs="+", metavar="CITY", help="default: all of the training set's")
    data.add_argument("--images_per_place", type=_positive, default=4, help="images drawn of each place")
    data.add_argument("--train_resize", type=_positive, nargs=2, default=[224, 224], metavar=("H", "W"), help="pixels")
    data.add_argument("--train_batch_size", type=_positive, default=120, help="places a batch, of all processes")
    data.add_argument("--val_datasets", nargs="+", default=["pitts30k", "msls"], metavar="NAME",
                      help="evaluated after every epoch; the last decides which weights are best")
    training = parser.add_argument_group("training")
    training.add_argument("--foundation_model_path", metavar="FILE",
                          help="official dinov2_*_pretrain.pth; 'random': seeded random weights; default: fetched")
    training.add_argument("--epochs_num", type=_positive, default=25, help="epochs at most")
    training.add_argument("--patience", type=_positive, default=12, help="epochs without improvement before stopping")
    training.add_argument("--lr", type=_positive_float, default=4e-4, help="learning rate of Adam")
    training.add_argument("--lr_halving", type=_positive, default=3, metavar="EPOCHS", help="halves it so often")
    training.add_argument("--precision", choices=PRECISIONS, help="default: the best the device has")
    training.add_argument("--compile", action="store_true", help="the frozen backbone, by torch.compile")
    training.add_argument("--seed", type=_seed, default=0, help="of weights, sampling and augmentation")
    method = parser.add_argument_group("method")
    method.add_argument("--variant", metavar="NAME", action=_Variant,
                        help="a method or ablation of the paper; 'help' lists them, and the fields of --set")
    method.add_argument("--set", metavar="FIELD=VALUE", nargs="+", default=[],
                        help="fields of the model's configuration; what is not set is as in the paper")
    parser.set_defaults(output_root="logs")
    return parser


def evaluation_parser(description: str, *, mode: str) -> argparse.ArgumentParser:
    """The options of eval.py ("float"), eval_hashing.py ("hashing") and eval_rerank.py ("rerank")."""
    parser = _parser(description, mode)
    parser.add_argument("--split", choices=("train", "val", "test"), help="of a folder; default: test")
    parser.add_argument("--file_lists", type=Path, metavar="DIR",
                        help="evaluate by the .npy lists in DIR, of images in <datasets_folder>/<dataset_name>")
    speed = parser.add_argument_group("speed and size; what the defaults give is exact")
    speed.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of describing; bf16, fp16 round")
    speed.add_argument("--compile", action="store_true", help="the backbone, by torch.compile")
    speed.add_argument("--store", choices=STORES, default="fp32", help="how the database's float descriptors are kept")
    speed.add_argument("--index", type=Path, metavar="FOLDER",
                       help="keep the descriptors there: an interrupted run goes on, a finished one is only searched")
    own = parser.add_argument_group("images of your own, instead of a data set; answers in answers.csv and .json")
    own.add_argument("--database_folder", type=Path, help="images of known places")
    own.add_argument("--queries_folder", type=Path, help="images to be found among them")
    own.add_argument("--coordinates", type=Path, metavar="CSV",
                     help="path,lat,lon[,heading] or path,utm_east,utm_north; default: from names or EXIF")
    own.add_argument("--answers", type=_positive, default=10, metavar="K", help="written for each query")
    own.add_argument("--no_labels", action="store_true", help="no coordinates: nothing is counted as right")
    parser.set_defaults(output_root="test")
    return parser


def _parser(description: str, mode: str) -> argparse.ArgumentParser:
    parser = _Parser(description=description, formatter_class=_Defaults, allow_abbrev=False,
                     epilog="--hashing and --rerank, as in the published commands, are accepted where they fit.")
    parser.set_defaults(mode=mode)
    model = parser.add_argument_group("model")
    model.add_argument("--backbone", choices=BACKBONES, help="default: the file's, dinov2-large without one")
    model.add_argument("--aggregation", choices=AGGREGATORS, help="default: the file's, gem without one")
    model.add_argument("--resume", type=Path, metavar="FILE", help="model file, ours or published")
    for flag in ("--hashing", "--rerank"):  # they say what the script says
        model.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("--datasets_folder", type=Path, default=os.environ.get("DATASETS_FOLDER"),
                            help="holds <name>/images/<split>/{database,queries}; or environment DATASETS_FOLDER")
    evaluation.add_argument("--dataset_name", default="pitts30k",
                            help="test set: a protocol of datasets/README.md, or a folder")
    evaluation.add_argument("--resize", type=_positive, nargs=2, default=[322, 322], metavar=("H", "W"), help="pixels")
    evaluation.add_argument("--test_method", choices=TEST_METHODS, default="hard_resize",
                            help="how queries are brought to --resize; the database is always resized to it")
    evaluation.add_argument("--infer_batch_size", type=_positive, default=16, help="images a batch")
    evaluation.add_argument("--val_positive_dist_threshold", type=_positive_float, metavar="METRES",
                            help="of right answers; default: the protocol's, 25 for a folder")
    evaluation.add_argument("--recall_values", type=_positive, nargs="+", default=[1, 5, 10, 20, 100], metavar="K",
                            help="the k of recall@k")
    if mode == "rerank":
        evaluation.add_argument("--rerank_num", type=_positive, default=100, help="candidates that are re-ranked")
    machine = parser.add_argument_group("machine and output")
    machine.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    machine.add_argument("--num_workers", type=_count, default=min(8, os.cpu_count() or 1),
                         help="loader processes, of each process under torchrun")
    machine.add_argument("--save_dir", default="default", help="name of the folder that holds the run folders")
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parses and checks what one option alone cannot tell; a mistake is one line and exit code 2.

    Starts the log, and under torchrun meets the other processes.
    """
    refuse_leftovers(sys.argv[1:] if argv is None else argv, parser.error)
    args = parser.parse_args(argv)
    for flag in ("hashing", "rerank"):
        if getattr(args, flag) and flag not in FLAGS[args.mode]:
            parser.error(f"--{flag} does not belong to this script; use "
                         f"{SCRIPTS['rerank' if args.rerank else 'hashing']}")
    own = getattr(args, "database_folder", None), getattr(args, "queries_folder", None)
    if (own[0] is None) != (own[1] is None):
        parser.error("--database_folder and --queries_folder belong together; give both")
    if own[0] is None and (getattr(args, "coordinates", None) or getattr(args, "no_labels", False)):
        parser.error("--coordinates and --no_labels are of --database_folder and --queries_folder; give these too")
    if own[0] and args.file_lists:
        parser.error("--file_lists beside --database_folder: lists are of a data set; leave one out")
    if getattr(args, "index", None) and args.index.exists() and not args.index.is_dir():
        parser.error(f"--index {args.index} is a file; expected a folder, which need not exist yet")
    if args.datasets_folder is None and own[0] is None:
        parser.error("--datasets_folder is missing (or set DATASETS_FOLDER): the folder that holds "
                     "<dataset_name>/images/<split>/{database,queries}")
    if args.resume and getattr(args, "foundation_model_path", None):
        parser.error("--foundation_model_path beside --resume: that file holds the backbone; leave the former out")
    args.datasets_folder = args.datasets_folder and Path(args.datasets_folder)
    args.recall_values = sorted(set(args.recall_values))
    try:
        args.device = pick_device(args.device)
        if "variant" in args:
            chosen_fields(args.variant, args.set)
    except ValueError as error:
        parser.error(str(error))
    args.precision = args.precision or best_precision(args.device)
    start_log()
    start(args.device)
    return args


def resolved_options(args: argparse.Namespace) -> dict:
    """Every option's value as plain JSON, for the run folder and the checkpoint."""
    plain = vars(args) | {"device": args.device.type}  # without the number of this process's GPU
    return {key: str(value) if isinstance(value, Path) else value for key, value in sorted(plain.items())}


# What the options are called below the scripts: typed keywords of the functions named.

def model_flags(args: argparse.Namespace) -> dict:
    """For utils.models: what --resume's file must agree with."""
    return {"backbone": args.backbone, "aggregation": args.aggregation}


def method_options(args: argparse.Namespace) -> dict:
    """For utils.models.read_resume: the model to train."""
    return {"backbone": args.backbone, "aggregation": args.aggregation,
            "fields": chosen_fields(args.variant, args.set)}


def set_options(args: argparse.Namespace) -> dict:
    """For utils.data: where benchmark sets lie and how they are read."""
    return {"datasets_folder": args.datasets_folder, "size": args.resize,
            "threshold_m": args.val_positive_dist_threshold, "test_method": args.test_method}


def evaluated_options(args: argparse.Namespace) -> dict:
    """For utils.data.evaluated_set."""
    own = {"database_folder": args.database_folder, "queries_folder": args.queries_folder,
           "coordinates": args.coordinates, "labels": not args.no_labels}
    return {"datasets_folder": args.datasets_folder, "size": args.resize, "test_method": args.test_method,
            "threshold_m": args.val_positive_dist_threshold, "name": args.dataset_name, "split": args.split,
            "file_lists": args.file_lists, "own": own if args.database_folder else None}


def evaluation_options(args: argparse.Namespace) -> dict:
    """For utils.evaluation.evaluator.Evaluator."""
    return {"mode": args.mode, "recall_values": args.recall_values, "batch_size": args.infer_batch_size,
            "num_workers": args.num_workers, "rerank_num": args.rerank_num if args.mode == "rerank" else None,
            "device": args.device}


def descriptor_options(args: argparse.Namespace) -> dict:
    """For utils.evaluation.evaluator.Evaluator: how descriptors are made and kept, where a script does nothing else."""
    return {"precision": args.precision, "compiled": args.compile, "store": args.store, "index": args.index,
            "resumable": True}


def loader_options(args: argparse.Namespace) -> dict:
    """For utils.training.loop.training_loader."""
    return {"training_dataset": args.training_dataset, "datasets_folder": args.datasets_folder,
            "cities": args.cities, "images_per_place": args.images_per_place, "size": args.train_resize,
            "places_per_batch": args.train_batch_size, "seed": args.seed, "num_workers": args.num_workers,
            "device": args.device}


def training_options(args: argparse.Namespace) -> dict:
    """For utils.training.loop.Training."""
    return {"device": args.device, "precision": args.precision, "compiled": args.compile, "lr": args.lr,
            "lr_halving": args.lr_halving, "epochs": args.epochs_num, "patience": args.patience,
            "size": args.train_resize, "places_per_batch": args.train_batch_size,
            "images_per_place": args.images_per_place}


def _number(text: str, kind: type, accept, expected: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not accept(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def _count(text: str) -> int:
    return _number(text, int, lambda value: value >= 0, "a whole number of at least 0")


def _seed(text: str) -> int:
    return _number(text, int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2^32 - 1")


def _positive_float(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a positive number")
