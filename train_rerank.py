"""Trains a binary branch beside a frozen float model, for Hamming retrieval and L2 re-ranking (equation 15).

Or, as the file of --resume and --variant have it, the float branch beside a binary model, or both at once.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

from eval_rerank import evaluator
from losses import (
    ablated_hashing_losses,
    code_prefixes,
    distillation_loss,
    float_prefixes,
    mine_pairs,
    multi_similarity_loss,
    similarity_constrained_loss,
)
from model import BRANCHES
from utils import cli
from utils.data import training_loader, validation_and_test_sets
from utils.device import seed_everything
from utils.distributed import gather
from utils.evaluation.results import write_evaluation
from utils.models import model_to_train, read_resume
from utils.run import Run, exit_with
from utils.training.places import PlaceTraining


def main(argv: list[str] | None = None) -> None:
    options = cli.training(__doc__, argv, flags=("hashing", "rerank"))
    checkpoint, config = read_resume(options.model, branches=BRANCHES)
    options = options.fitted(config.vit.patch)
    run = Run(options.run, model=config)
    seed_everything(options.seed)

    loader = training_loader(options.data, device=options.device, places=config.places)
    validation_sets, test_set = validation_and_test_sets(options.validation, options.test, options.images)
    evaluate = evaluator(options.evaluation, run.folder, rerank_num=options.rerank_num)

    # From a model with one branch: the other side network starts as a copy of the trained one, its head at random; the
    # trained branch stays as it is. Without a file (--variant joint) both start as in train.py and learn together.
    model, origin = model_to_train(checkpoint, config, options.model)
    model.freeze(*(f"{name}_branch" for name in BRANCHES if name not in config.learning))
    training = PlaceTraining(model, options.training, options.data, run=run, script="train_rerank.py",
                             origin=origin)
    if checkpoint is not None and checkpoint.config.branches == BRANCHES:
        training.resume(checkpoint)

    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K images each
            with training.autocast():
                out = training.network(images, branches=config.learning)
            floating, relaxed, binary, labels = gather(out.floating, out.relaxed, out.binary, labels)
            training.seen(floating if relaxed is None else relaxed, labels)
            loss, parts = 0.0, {}
            if "binary" in config.learning:
                terms = []
                for h, b in code_prefixes(relaxed, binary, config.code_lengths):  # the whole code, or nested ones too
                    if config.hashing == "sc+ste":  # L = L_MS(b) + lambda L_Q(h, b), b = sign(h), gradient through both
                        pairs = mine_pairs(b, labels, epsilon=0.1)
                        metric = multi_similarity_loss(b, pairs, alpha=1.0, beta=50.0, base=0.0)
                        quantization = similarity_constrained_loss(h, b, pairs, fraction=config.pair_fraction)
                    else:  # the other methods of Table XI
                        metric, quantization = ablated_hashing_losses(config.hashing, h, b, labels,
                                                                      fraction=config.pair_fraction)
                    terms.append((metric, quantization))
                metric, quantization = map(sum, zip(*terms, strict=True))
                loss = metric + config.quantization_weight * quantization
                parts |= {"metric": metric, "quantization": quantization}
                if config.nested_distillation:
                    parts["distillation"] = distillation_loss(relaxed, config.code_lengths)
                    loss = loss + config.nested_distillation * parts["distillation"]
            if "float" in config.learning:
                float_metric = 0.0
                for f in float_prefixes(floating, config.float_lengths):  # the same of the descriptor
                    pairs = mine_pairs(f, labels, epsilon=0.1)
                    float_metric = float_metric + multi_similarity_loss(f, pairs, alpha=1.0, beta=50.0, base=0.0)
                loss = loss + float_metric
                parts |= {"float_metric": float_metric}
                if config.nested_distillation:
                    parts["float_distillation"] = distillation_loss(floating, config.float_lengths)
                    loss = loss + config.nested_distillation * parts["float_distillation"]
            training.step(loss, **parts)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, written = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, written, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
