"""Trains a binary branch beside a frozen float model, for Hamming retrieval and L2 re-ranking (equation 15).

Or, as the file of --resume and --variant have it, the float branch beside a binary model, or both at once.
"""

from losses import HASHING, mine_pairs, multi_similarity_loss
from model import BRANCHES
from utils.cli import options as cli
from utils.data import training_loader, validation_and_test_sets
from utils.device import seed_everything
from utils.distributed import gather
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.results import write_evaluation
from utils.models import model_to_train, read_resume
from utils.run import Run, exit_with
from utils.training.loop import Training


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(cli.training_parser(__doc__, mode="rerank"), argv)
    checkpoint, config = read_resume(args.resume, **cli.method_options(args), branches=BRANCHES)
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=config)
    seed_everything(args.seed)

    loader = training_loader(**cli.loader_options(args))
    validation_sets, test_set = validation_and_test_sets(args.val_datasets, args.dataset_name, **cli.set_options(args))
    evaluate = Evaluator(**cli.evaluation_options(args), folder=run.folder)

    # From a model with one branch: the other side network starts as a copy of the trained one, its head at random; the
    # trained branch stays as it is. Without a file (--variant joint) both start as in train.py and learn together.
    model, pretrained = model_to_train(checkpoint, config, foundation=args.foundation_model_path, seed=args.seed)
    model.freeze(*(f"{name}_branch" for name in BRANCHES if name not in config.learning))
    training = Training(model, run=run, script="train_rerank.py", pretrained=pretrained, **cli.training_options(args))
    if checkpoint is not None and checkpoint.config.branches == BRANCHES:
        training.resume(checkpoint)

    # L = L_MS(b) + lambda L_Q(h, b), b = sign(h), straight-through: the gradient runs through both terms (but see
    # train_hashing.py for the other methods of Table XI); L = L_MS(f) for float descriptors f.
    method = HASHING[config.hashing]
    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K images each
            with training.autocast():
                out = training.network(images, branches=config.learning)
            floating, relaxed, binary, labels = gather(out.floating, out.relaxed, out.binary, labels)
            loss, parts = 0.0, {}
            if "binary" in config.learning:
                codes = binary if method.straight_through else binary.detach()
                described = codes if method.straight_through else relaxed
                pairs = mine_pairs(described, labels, epsilon=0.1)
                metric = multi_similarity_loss(described, pairs, alpha=1.0, beta=50.0, base=0.0)
                quantization = method.quantization(relaxed, codes, pairs, fraction=config.pair_fraction)
                loss = metric + config.quantization_weight * quantization
                parts |= {"metric": metric, "quantization": quantization}
            if "float" in config.learning:
                pairs = mine_pairs(floating, labels, epsilon=0.1)
                float_metric = multi_similarity_loss(floating, pairs, alpha=1.0, beta=50.0, base=0.0)
                loss = loss + float_metric
                parts |= {"float_metric": float_metric}
            training.step(loss, **parts)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, path = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, pretrained=pretrained, checkpoint=path,
                     selected_by=training.selected_by, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
