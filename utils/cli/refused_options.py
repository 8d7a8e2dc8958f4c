"""Options that are refused with a word on why: the published parser's leftovers, and our own former ones."""

from collections.abc import Callable, Sequence
from itertools import zip_longest

from datasets import TEST_METHODS


def _not_built(*options: str, hint: str) -> dict[str, str]:
    return dict.fromkeys(options, f"in neither the paper nor its README; not built ({hint})")


# An option, or an option with one of its values -> why not, and what to use instead.
LEFTOVERS = {
    **_not_built("--test_method five_crops", "--test_method nearest_crop", "--test_method maj_voting",
                 hint=f"there are {', '.join(TEST_METHODS)}"),
    **_not_built("--majority_weight", hint="it belongs to maj_voting"),
    **_not_built("--pca_dim", "--pca_dataset_folder", hint="descriptor dimension: --set float_dim=N"),
    **_not_built("--criterion", hint="the metric loss is the multi-similarity loss"),
    **_not_built("--margin", hint="the metric loss is the multi-similarity loss, which has none"),
    **_not_built("--train_positives_dist_threshold",
                 hint="training places come as such; for evaluation: --val_positive_dist_threshold"),
    **_not_built("--optim", hint="Adam is the optimiser"),
    **_not_built("--lr_crn_net", hint="there is no such network; learning rate: --lr"),
    **_not_built("--brightness", "--contrast", "--saturation", "--hue", "--rand_perspective", "--random_resized_crop",
                 "--random_rotation", "--horizontal_flip", hint="RandAugment augments the training images"),
    "--quantization_weight": "now --set quantization_weight=VALUE",
    "--pair_fraction": "now --set pair_fraction=VALUE",
    "--train_folder": "now --training_dataset FOLDER",
}


def refuse_leftovers(argv: Sequence[str], error: Callable[[str], object]) -> None:
    """Calls `error` (argparse's, which ends the script) with one line for each of LEFTOVERS among the words `argv`."""
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        for found in (option, f"{option} {value if equals else following}"):
            if found in LEFTOVERS:
                error(f"{found}: {LEFTOVERS[found]}")
