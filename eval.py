"""Evaluates float descriptors: exhaustive L2 search, recall@k."""

from utils.cli import options as cli
from utils.data import evaluated_set
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.results import write_evaluation
from utils.models import model_for_evaluation
from utils.run import Run, exit_with


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(cli.evaluation_parser(__doc__, mode="float"), argv)
    dataset = evaluated_set(**cli.evaluated_options(args))
    model, checkpoint = model_for_evaluation(args.resume, **cli.model_flags(args), branches=("float",))
    run = Run(args.output_root, args.save_dir, options=cli.resolved_options(args), model=model.config)
    evaluate = Evaluator(**cli.evaluation_options(args), **cli.descriptor_options(args), folder=run.folder)
    evaluation = evaluate(model.to(args.device), dataset)
    write_evaluation(run, evaluation, model, pretrained=checkpoint.pretrained, checkpoint=checkpoint.source,
                     selected_by=checkpoint.selected_by, answers=args.answers if args.database_folder else None)


if __name__ == "__main__":
    exit_with(main)
