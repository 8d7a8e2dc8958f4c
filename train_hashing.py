"""Trains the binary branch alone: compact codes for retrieval by Hamming distance (equation 15)."""

from losses import HASHING, mine_pairs, multi_similarity_loss
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
    args = cli.parse(cli.training_parser(__doc__, mode="hashing"), argv)
    checkpoint, config = read_resume(args.resume, **cli.method_options(args), branches=("binary",))
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=config)
    seed_everything(args.seed)

    loader = training_loader(**cli.loader_options(args))
    validation_sets, test_set = validation_and_test_sets(args.val_datasets, args.dataset_name, **cli.set_options(args))
    evaluate = Evaluator(**cli.evaluation_options(args), folder=run.folder)

    # A frozen DINOv2 and a side network whose adapters start at zero, so that y_l = x_0 (on random weights at random).
    model, pretrained = model_to_train(checkpoint, config, foundation=args.foundation_model_path, seed=args.seed)
    training = Training(model, run=run, script="train_hashing.py", pretrained=pretrained, **cli.training_options(args))
    if checkpoint is not None:
        training.resume(checkpoint)

    # The paper's: L = L_MS(b) + lambda L_Q(h, b), b = sign(h), straight-through, with the gradient through both terms.
    # Without straight-through estimation (Table XI) codes are constants, and the metric loss sees h.
    method = HASHING[config.hashing]
    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K images each
            with training.autocast():
                out = training.network(images, branches=("binary",))
            relaxed, binary, labels = gather(out.relaxed, out.binary, labels)  # the whole batch, under torchrun
            codes = binary if method.straight_through else binary.detach()
            described = codes if method.straight_through else relaxed
            pairs = mine_pairs(described, labels, epsilon=0.1)
            metric = multi_similarity_loss(described, pairs, alpha=1.0, beta=50.0, base=0.0)
            quantization = method.quantization(relaxed, codes, pairs, fraction=config.pair_fraction)
            loss = metric + config.quantization_weight * quantization
            training.step(loss, metric=metric, quantization=quantization)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, path = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, pretrained=pretrained, checkpoint=path,
                     selected_by=training.selected_by, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
