"""Trains a binary branch beside a frozen float model, for Hamming retrieval and L2 re-ranking (equation 15)."""

from losses import mine_pairs, multi_similarity_loss, similarity_constrained_loss
from model import build_model, load_model
from utils import cli
from utils.data import training_loader, validation_and_test_sets
from utils.device import seed_everything
from utils.distributed import gather
from utils.evaluation import Evaluator, write_evaluation
from utils.models import read_resume
from utils.run import Run, exit_with
from utils.training import Training


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(cli.training_parser(__doc__, mode="rerank"), argv)
    checkpoint, config = read_resume(
        args.resume, **cli.model_flags(args), branches=("float", "binary"),
        also_from=("float",), required="a float model: train.py's best_model.pth or a published file")
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=config)
    seed_everything(args.seed)

    loader = training_loader(**cli.loader_options(args))
    validation_sets, test_set = validation_and_test_sets(args.val_datasets, args.dataset_name, **cli.set_options(args))
    evaluate = Evaluator(**cli.evaluation_options(args))

    # From a float model: the binary side network starts as a copy of the float one, its head at random.
    model = trained = load_model(checkpoint)
    if checkpoint.config.branches == ("float",):
        model = build_model(config, seed=args.seed)
        model.start_from_float(trained)
    model.freeze("float_branch")

    training = Training(
        model, run=run, script="train_rerank.py", pretrained=checkpoint.pretrained, **cli.training_options(args))
    if model is trained:
        training.resume(checkpoint)

    # L = L_MS(b) + lambda L_Q(h, b) with b = sign(h), straight-through: the gradient runs through both terms.
    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K pictures each
            with training.autocast():
                out = training.network(images, branches=("binary",))
            relaxed, binary, labels = gather(out.relaxed, out.binary, labels)  # the whole batch, under torchrun
            pairs = mine_pairs(binary, labels, epsilon=0.1)
            metric = multi_similarity_loss(binary, pairs, alpha=1.0, beta=50.0, base=0.0)
            quantisation = similarity_constrained_loss(relaxed, binary, pairs, fraction=args.pair_fraction)
            loss = metric + args.quantization_weight * quantisation
            training.step(loss, metric=metric, quantisation=quantisation)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, path = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, pretrained=checkpoint.pretrained, checkpoint=path)


if __name__ == "__main__":
    exit_with(main)
