"""Trains a student: a small model that gives a larger one's descriptors, learnt from images without labels.

Its queries then find their places in an index that the larger model, its teacher, has made. The loss of float
descriptors is 1 - cos(student, teacher); that of codes is 1 - cos(student before its sign, the teacher's code); their
sum is learnt from one view of each image, augmented once and resized for either model.

    python -m utils.distil --teacher best_model.pth --backbone dinov2-small --images my/photographs ...
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

import tempfile
from pathlib import Path

from .. import cli
from ..data import validation_and_test_sets
from ..device import seed_everything
from ..evaluation.extraction import OwnModel
from ..evaluation.results import write_evaluation
from ..models import ModelOptions, model_for_evaluation, model_to_train
from ..run import DESCRIPTORS, Run, exit_with
from .training import (
    DistillationTraining,
    StudentEvaluator,
    cuts_of,
    distillation_losses,
    images_to_learn_from,
    student_config,
    teach,
)


def main(argv: list[str] | None = None) -> None:
    options = cli.distillation(__doc__, argv)
    taught_by, teachers_file = model_for_evaluation(ModelOptions(resume=options.teacher), branches=())
    checkpoint, config = student_config(options.model, taught_by.config)
    options = options.fitted(config.vit.patch, teachers_patch=taught_by.config.vit.patch)
    run = Run(options.run, model=config)
    seed_everything(options.seed)

    loader = images_to_learn_from(options.data, device=options.device)
    validation_sets, test_set = validation_and_test_sets(options.validation, options.test, options.images)
    teacher = OwnModel(taught_by.to(options.device))
    described_by_teacher = teach(teacher, precision=options.training.precision)

    model, origin = model_to_train(checkpoint, config, options.model)
    training = DistillationTraining(model, options.training, options.data, teacher=teacher.identity,
                                    cuts=cuts_of(teachers_file), run=run, script="utils.distil", origin=origin)
    if checkpoint is not None:
        training.resume(checkpoint)

    with tempfile.TemporaryDirectory(prefix=DESCRIPTORS, dir=run.folder) as folder:
        evaluate = StudentEvaluator(teacher, options.evaluation, Path(folder), data=options.data,
                                    rerank_num=options.rerank_num)
        for batches in training.remaining_epochs(loader):
            for images, teachers_images in batches:  # of the same views
                taught = described_by_teacher(teachers_images)
                with training.autocast():
                    found = training.network(images)
                losses = distillation_losses(found, taught)
                training.step(sum(losses.values()), **losses)
            training.end_training_pass()
            training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

        best, written = training.best_model()
        write_evaluation(run, evaluate(best, test_set), best, written, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
