"""Trains SelaVPR: adapters inside the frozen backbone by triplets of global descriptors and of local features, mined
with coordinates alone as supervision; or, by --training_dataset, found among the places of a batch."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

from eval_selavpr import LocalEvaluator
from losses import batch_triplets, local_feature_loss, triplet_loss
from utils import cli
from utils.data import validation_and_test_sets
from utils.device import seed_everything
from utils.evaluation.results import write_evaluation
from utils.run import Run, exit_with
from utils.selavpr.local import SelaVPRExtractor
from utils.selavpr.models import read_selavpr_resume, selavpr_to_train
from utils.selavpr.training import SelaVPRTraining, batches_to_learn_from


def main(argv: list[str] | None = None) -> None:
    options = cli.selavpr_training(__doc__, argv)
    checkpoint, config = read_selavpr_resume(options.model)
    options = options.fitted(config.vit.patch)
    run = Run(options.run, model=config)
    seed_everything(options.seed)

    loader = batches_to_learn_from(options.data, device=options.training.device)
    (validation_set,), test_set = validation_and_test_sets(options.validation, options.test, options.images)
    evaluate = LocalEvaluator(options.evaluation, options.local, run.folder)

    # A frozen backbone whose adapters give 0 at the start, so that training begins with what the backbone sees.
    model, origin = selavpr_to_train(checkpoint, config, options.model)
    training = SelaVPRTraining(model, options.training, options.data, negatives=options.negatives, run=run,
                               script="train_selavpr.py", origin=origin)
    if checkpoint is not None:
        training.resume(checkpoint)

    for batches in training.remaining_epochs(loader):
        for images, triplets in batches:  # B queries, each with its positive and k negatives; (B * k, 3) rows of images
            with training.autocast():
                found = training.network(images)
            if options.by_places:  # P places with K images each, and their labels
                triplets = batch_triplets(found.floating, triplets, negatives=options.negatives)
            # The published code divides the sums over triplets by their number.
            on_global = triplet_loss(*(found.floating[rows] for rows in triplets.T), margin=0.1) / len(triplets)
            on_local = local_feature_loss(*(found.local[rows] for rows in triplets.T)) / len(triplets)
            training.step(on_global + on_local, triplet=on_global, local=on_local)
        training.end_training_pass()
        training.end_epoch([evaluate(model, validation_set)])

    best, written = training.best_model()
    extractor = SelaVPRExtractor(best)
    write_evaluation(run, evaluate(extractor, test_set), extractor, written, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
