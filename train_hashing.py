"""Trains the binary branch alone: compact codes for retrieval by Hamming distance (equation 15)."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

from eval_hashing import evaluator
from losses import (
    ablated_hashing_losses,
    code_prefixes,
    distillation_loss,
    mine_pairs,
    multi_similarity_loss,
    similarity_constrained_loss,
)
from utils import cli
from utils.data import training_loader, validation_and_test_sets
from utils.device import seed_everything
from utils.distributed import gather
from utils.evaluation.results import write_evaluation
from utils.models import model_to_train, read_resume
from utils.run import Run, exit_with
from utils.training.places import PlaceTraining


def main(argv: list[str] | None = None) -> None:
    options = cli.training(__doc__, argv, flags=("hashing",))
    checkpoint, config = read_resume(options.model, branches=("binary",))
    options = options.fitted(config.vit.patch)
    run = Run(options.run, model=config)
    seed_everything(options.seed)

    loader = training_loader(options.data, device=options.device, places=config.places)
    validation_sets, test_set = validation_and_test_sets(options.validation, options.test, options.images)
    evaluate = evaluator(options.evaluation, run.folder)

    # A frozen backbone and a side network whose adapters start at zero, so that y_l = x_0 (random ones at random).
    model, origin = model_to_train(checkpoint, config, options.model)
    training = PlaceTraining(model, options.training, options.data, run=run, script="train_hashing.py",
                             origin=origin)
    if checkpoint is not None:
        training.resume(checkpoint)

    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K images each
            with training.autocast():
                out = training.network(images, branches=("binary",))
            relaxed, binary, labels = gather(out.relaxed, out.binary, labels)  # the whole batch, under torchrun
            training.seen(relaxed, labels)
            terms = []
            for h, b in code_prefixes(relaxed, binary, config.code_lengths):  # the whole code, or nested ones too
                if config.hashing == "sc+ste":  # L = L_MS(b) + lambda L_Q(h, b), b = sign(h), the gradient through both
                    pairs = mine_pairs(b, labels, epsilon=0.1)
                    metric = multi_similarity_loss(b, pairs, alpha=1.0, beta=50.0, base=0.0)
                    quantization = similarity_constrained_loss(h, b, pairs, fraction=config.pair_fraction)
                else:  # the other methods of Table XI
                    metric, quantization = ablated_hashing_losses(config.hashing, h, b, labels,
                                                                  fraction=config.pair_fraction)
                terms.append((metric, quantization))
            metric, quantization = map(sum, zip(*terms, strict=True))
            loss, parts = metric + config.quantization_weight * quantization, {}
            if config.nested_distillation:
                parts["distillation"] = distillation_loss(relaxed, config.code_lengths)
                loss = loss + config.nested_distillation * parts["distillation"]
            training.step(loss, metric=metric, quantization=quantization, **parts)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, written = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, written, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
