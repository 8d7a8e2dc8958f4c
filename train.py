"""Trains the float branch: a side network and head on the frozen backbone, multi-similarity loss (equation 16)."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

from eval import evaluator
from losses import distillation_loss, float_prefixes, mine_pairs, multi_similarity_loss
from utils import cli
from utils.data import training_loader, validation_and_test_sets
from utils.device import seed_everything
from utils.distributed import gather
from utils.evaluation.results import write_evaluation
from utils.models import model_to_train, read_resume
from utils.run import Run, exit_with
from utils.training.places import PlaceTraining


def main(argv: list[str] | None = None) -> None:
    options = cli.training(__doc__, argv)
    checkpoint, config = read_resume(options.model, branches=("float",))
    options = options.fitted(config.vit.patch)
    run = Run(options.run, model=config)
    seed_everything(options.seed)

    loader = training_loader(options.data, device=options.device, places=config.places)
    validation_sets, test_set = validation_and_test_sets(options.validation, options.test, options.images)
    evaluate = evaluator(options.evaluation, run.folder)

    # A frozen backbone and a side network whose adapters start at zero, so that y_l = x_0 (random ones at random).
    # Under --variant full, partial or selavpr-global it is the backbone itself that learns.
    model, origin = model_to_train(checkpoint, config, options.model)
    training = PlaceTraining(model, options.training, options.data, run=run, script="train.py", origin=origin)
    if checkpoint is not None:
        training.resume(checkpoint)

    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K images each
            with training.autocast():
                descriptors = training.network(images, branches=("float",)).floating
            descriptors, labels = gather(descriptors, labels)  # the whole batch, under torchrun
            training.seen(descriptors, labels)
            loss, parts = 0.0, {}
            for f in float_prefixes(descriptors, config.float_lengths):  # the whole descriptor, or nested ones too
                pairs = mine_pairs(f, labels, epsilon=0.1)
                loss = loss + multi_similarity_loss(f, pairs, alpha=1.0, beta=50.0, base=0.0)
            if config.nested_distillation:
                parts["distillation"] = distillation_loss(descriptors, config.float_lengths)
                loss = loss + config.nested_distillation * parts["distillation"]
            training.step(loss, **parts)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, written = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, written, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
