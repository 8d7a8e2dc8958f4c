"""Evaluates two-stage retrieval: the top candidates by Hamming distance, re-ranked by L2; recall@k of both stages."""

from utils import cli
from utils.data import benchmark_set
from utils.evaluation import Evaluator, write_evaluation
from utils.models import model_for_evaluation
from utils.run import Run, exit_with


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(cli.evaluation_parser(__doc__, mode="rerank"), argv)
    dataset = benchmark_set(
        args.dataset_name, datasets_folder=args.datasets_folder, split=args.split, size=args.resize,
        threshold_m=args.val_positive_dist_threshold)
    model, checkpoint = model_for_evaluation(
        args.resume, backbone=args.backbone, aggregation=args.aggregation, branches=("float", "binary"))
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=model.config)
    evaluate = Evaluator(
        mode="rerank", recall_values=args.recall_values, rerank_num=args.rerank_num,
        batch_size=args.infer_batch_size,
        num_workers=args.num_workers)
    evaluation = evaluate(model.to(args.device), dataset)
    write_evaluation(run, evaluation, model, pretrained=checkpoint.pretrained, checkpoint=checkpoint.source)


if __name__ == "__main__":
    exit_with(main)
