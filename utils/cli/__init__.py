"""The command lines of the scripts: `training` and `evaluation` parse one into typed records."""

from .options import EvaluationCommand, TrainingCommand, evaluation, evaluation_parser, training, training_parser

__all__ = ["EvaluationCommand", "TrainingCommand", "evaluation", "evaluation_parser", "training", "training_parser"]
