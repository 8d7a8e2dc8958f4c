"""Trains the float branch: a side network and head on the frozen backbone, multi-similarity loss (equation 16)."""

from losses import mine_pairs, multi_similarity_loss
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
    args = cli.parse(cli.training_parser(__doc__, mode="float"), argv)
    checkpoint, config = read_resume(args.resume, **cli.method_options(args), branches=("float",))
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=config)
    seed_everything(args.seed)

    loader = training_loader(**cli.loader_options(args))
    validation_sets, test_set = validation_and_test_sets(args.val_datasets, args.dataset_name, **cli.set_options(args))
    evaluate = Evaluator(**cli.evaluation_options(args), folder=run.folder)

    # A frozen DINOv2 and a side network whose adapters start at zero, so that y_l = x_0 (on random weights at random).
    # Under --variant full, partial or selavpr-global it is the backbone itself that learns.
    model, pretrained = model_to_train(checkpoint, config, foundation=args.foundation_model_path, seed=args.seed)
    training = Training(model, run=run, script="train.py", pretrained=pretrained, **cli.training_options(args))
    if checkpoint is not None:
        training.resume(checkpoint)

    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K images each
            with training.autocast():
                descriptors = training.network(images, branches=("float",)).floating
            descriptors, labels = gather(descriptors, labels)  # the whole batch, under torchrun
            pairs = mine_pairs(descriptors, labels, epsilon=0.1)
            loss = multi_similarity_loss(descriptors, pairs, alpha=1.0, beta=50.0, base=0.0)
            training.step(loss)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, path = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, pretrained=pretrained, checkpoint=path,
                     selected_by=training.selected_by, training=training.costs())


if __name__ == "__main__":
    exit_with(main)
