"""Trains the float branch: a side network and head on the frozen backbone, multi-similarity loss (equation 16)."""

from losses import mine_pairs, multi_similarity_loss
from model import load_model
from utils import cli
from utils.data import validation_and_test_sets
from utils.device import seed_everything
from utils.evaluation import Evaluator, write_evaluation
from utils.models import model_from_foundation, read_resume
from utils.run import Run, exit_with
from utils.training import Training, training_loader


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(cli.training_parser(__doc__, mode="float"), argv)
    checkpoint, config = read_resume(
        args.resume, backbone=args.backbone, aggregation=args.aggregation, branches=("float",))
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=config)
    seed_everything(args.seed)

    loader = training_loader(
        training_dataset=args.training_dataset, datasets_folder=args.datasets_folder, train_folder=args.train_folder,
        cities=args.cities, images_per_place=args.images_per_place, size=args.train_resize,
        places_per_batch=args.train_batch_size, seed=args.seed, num_workers=args.num_workers, device=args.device)
    validation_sets, test_set = validation_and_test_sets(
        args.val_datasets, args.dataset_name, datasets_folder=args.datasets_folder, size=args.resize,
        threshold_m=args.val_positive_dist_threshold)
    evaluate = Evaluator(
        mode="float", recall_values=args.recall_values, batch_size=args.infer_batch_size,
        num_workers=args.num_workers)

    # A frozen DINOv2 and a side network whose adapters give zero at the start, so that y_l = x_0.
    if checkpoint is None:
        model, pretrained = model_from_foundation(config, args.foundation_model_path, seed=args.seed)
    else:
        model, pretrained = load_model(checkpoint), checkpoint.pretrained

    training = Training(
        model, run=run, script="train.py", device=args.device, precision=args.precision, lr=args.lr,
        lr_halving=args.lr_halving, epochs=args.epochs_num, patience=args.patience, pretrained=pretrained)
    if checkpoint is not None:
        training.resume(checkpoint)

    for batches in training.remaining_epochs(loader):
        for images, labels in batches:  # P places with K pictures each
            with training.autocast():
                descriptors = model(images, branches=("float",)).floating
            pairs = mine_pairs(descriptors, labels, epsilon=0.1)
            loss = multi_similarity_loss(descriptors, pairs, alpha=1.0, beta=50.0, base=0.0)
            training.step(loss)
        training.end_training_pass()
        training.end_epoch([evaluate(model, dataset) for dataset in validation_sets])

    best, path = training.best_model()
    write_evaluation(run, evaluate(best, test_set), best, pretrained=pretrained, checkpoint=path)


if __name__ == "__main__":
    exit_with(main)
