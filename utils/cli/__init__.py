"""The command lines of the scripts: `training` and `evaluation` parse one into typed records."""

from .distil import DistillationCommand, distillation, distillation_parser
from .options import EvaluationCommand, TrainingCommand, evaluation, evaluation_parser, training, training_parser
from .selavpr import SelaVPREvaluationCommand, SelaVPRTrainingCommand, selavpr_evaluation, selavpr_training

__all__ = ["DistillationCommand", "EvaluationCommand", "SelaVPREvaluationCommand", "SelaVPRTrainingCommand",
           "TrainingCommand", "distillation", "distillation_parser", "evaluation", "evaluation_parser",
           "selavpr_evaluation", "selavpr_training", "training", "training_parser"]
