"""The options of `python -m utils.distil`; the records that they fill hold the defaults."""

import argparse
import dataclasses
from pathlib import Path

from model import AGGREGATORS, BACKBONES

from ..device import make_deterministic
from ..distil.training import DistillationData
from ..evaluation.forecast import check_memory
from ..models import ModelOptions
from ..ranks import launched
from ..run import start_log
from .learning import LearningCommand, learning_of, learning_options
from .parsing import (
    MODEL_FILE,
    NO_DATA,
    RERANK_NUM,
    Defaults,
    Parser,
    checked,
    evaluation_options,
    machine_options,
    positive,
    size_help,
    with_options,
)
from .variants import chosen_fields

BACKBONE = "dinov2-small"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationCommand(LearningCommand):
    """What `python -m utils.distil` was asked to do; teacher: a model file."""

    teacher: Path
    model: ModelOptions
    data: DistillationData
    rerank_num: int

    def fitted(self, patch: int, *, teachers_patch: int) -> "DistillationCommand":
        """The same with images whose sides are multiples of either backbone's patch, in pixels."""
        data = self.data.fitted(patch, teachers_patch=teachers_patch)
        student, teacher = data.sizes
        return dataclasses.replace(
            self, data=data, images=dataclasses.replace(self.images, size=teacher, multiple=teachers_patch),
            run=with_options(self.run, train_resize=student, teacher_resize=teacher))


def distillation(description: str, argv: list[str] | None) -> DistillationCommand:
    """Parses the command line. A mistake is one line and exit code 2."""
    parser = distillation_parser(description)
    args = parser.parse_args(argv)
    if args.datasets_folder is None:
        parser.error(NO_DATA)
    if launched():
        parser.error("torchrun: a student is trained in one process; start it with python")
    args = checked(parser, args)
    size = args.train_resize or DistillationData.size
    try:
        fields = chosen_fields(None, args.set)
        for option, seen in (("--train_resize", size), ("--teacher_resize", args.teacher_resize or size)):
            check_memory(option, seen, args.device, batch=("--train_batch_size", args.train_batch_size))
    except ValueError as error:
        parser.error(str(error))
    command = DistillationCommand(
        teacher=args.teacher,
        model=ModelOptions(resume=args.resume, backbone=args.backbone or (None if args.resume else BACKBONE),
                           aggregation=args.aggregation, fields=fields, foundation=args.foundation_model_path,
                           seed=args.seed),
        data=DistillationData(
            folders=args.images, size=size, teacher_size=args.teacher_resize, images_per_batch=args.train_batch_size,
            seed=args.seed, num_workers=args.num_workers),
        validation=args.val_datasets, rerank_num=RERANK_NUM, **learning_of(args))
    if args.deterministic:
        make_deterministic()
    start_log()
    return command


def distillation_parser(description: str) -> argparse.ArgumentParser:
    """The options of `python -m utils.distil`."""
    parser = Parser(prog="python -m utils.distil", description=description, formatter_class=Defaults,
                    allow_abbrev=False)
    model = parser.add_argument_group("models")
    model.add_argument("--teacher", type=Path, required=True, metavar="FILE", help=f"it: {MODEL_FILE}")
    model.add_argument("--backbone", choices=BACKBONES, help=f"the student's; default: the file's, {BACKBONE} without")
    model.add_argument("--aggregation", choices=AGGREGATORS, help="the student's; default: the file's, gem without one")
    model.add_argument("--set", metavar="FIELD=VALUE", nargs="+", default=[],
                       help="fields of the student's configuration, as train.py --variant help lists them")
    model.add_argument("--resume", type=Path, metavar="FOLDER", help="a run folder of this command, or a file in it")
    data = parser.add_argument_group("training data")
    data.add_argument("--images", nargs="+", required=True, metavar="FOLDER",
                      help="to learn from, with all below; no labels, no coordinates")
    data.add_argument("--train_resize", type=positive, nargs=2, metavar=("H", "W"),
                      help=f"what the student sees: {size_help(DistillationData.size)}")
    data.add_argument("--teacher_resize", type=positive, nargs=2, metavar=("H", "W"),
                      help="what the teacher sees, as in the index to query; default: --train_resize")
    data.add_argument("--train_batch_size", type=positive, default=DistillationData.images_per_batch,
                      help="images a batch")
    data.add_argument("--val_datasets", nargs="+", default=["pitts30k", "msls"], metavar="NAME",
                      help="evaluated every epoch: database by the teacher, queries by the student; the last decides")
    learning_options(parser, whose="the student's", seeds="of weights, sampling and augmentation")
    evaluation_options(parser, training=True, sized=False)
    machine_options(parser, training=True)
    return parser
