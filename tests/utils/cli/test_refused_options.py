"""Refused options: each in one line, in both spellings; nothing that a script takes."""

import re
import shlex

import pytest

from utils.cli import options as cli
from utils.cli.refused_options import LEFTOVERS, refuse_leftovers

# The published parser's options that no script here has, with a value that it accepts.
PUBLISHED = """
--test_method five_crops
--test_method nearest_crop
--test_method maj_voting
--majority_weight 0.01
--pca_dim 512
--pca_dataset_folder pitts30k/images/train
--criterion triplet
--criterion sare_ind
--criterion sare_joint
--margin 0.1
--train_positives_dist_threshold 10
--optim adam
--optim sgd
--optim adamw
--lr_crn_net 5e-4
--brightness 0.1
--contrast 0.1
--saturation 0.1
--hue 0.1
--rand_perspective 0.5
--random_resized_crop 0.5
--random_rotation 5
--horizontal_flip
""".strip().splitlines()
FORMER = {"--quantization_weight 0.1": "--set quantization_weight=VALUE",
          "--pair_fraction 0.5": "--set pair_fraction=VALUE",
          "--train_folder sets/gsv": "--training_dataset FOLDER"}
COMMANDS = """
--datasets_folder=/sets --dataset_name=pitts30k --backbone=dinov2-large --aggregation=gem --epochs_num=25 --lr=0.0004
--patience=12 --train_batch_size=120 --resume=SelaVPRplusplus_large.pth --training_dataset=gsv_cities --hashing --rerank
--test_method central_crop --rerank_num 100 --val_positive_dist_threshold 25 --resize 322 322 --save_dir margin
--set quantization_weight=0.2 pair_fraction=0.5 --test_method=single_query --seed
"""


def said(words: list[str]) -> list[str]:
    lines = []
    refuse_leftovers(words, lines.append)
    return lines


def spellings(option: str) -> list[list[str]]:
    return [option.split(), [option.replace(" ", "=")]]


@pytest.mark.parametrize("option", PUBLISHED)
def test_published_leftovers(option):
    for words in spellings(option):
        line, = said(["--lr", "1e-4", *words, "--hashing"])
        flag, _, value = option.partition(" ")
        assert line.startswith(f"{flag} {value}: " if flag == "--test_method" else f"{flag}: ")
        assert ": in neither the paper nor its README; not built (" in line and line.endswith(")")
        assert "\n" not in line and len(line) < 160


@pytest.mark.parametrize("option", FORMER)
def test_our_own_former_options_say_what_they_are_called_now(option):
    for words in spellings(option):
        assert said(words) == [f"{option.split()[0]}: now {FORMER[option]}"]


def test_the_table_holds_nothing_else():
    tried = {flag for option in (*PUBLISHED, *FORMER) for flag in (option, option.split()[0]) if flag in LEFTOVERS}
    assert tried == LEFTOVERS.keys()


def test_each_is_said_in_its_order():
    assert [line.partition(":")[0] for line in said(["--pca_dim", "8", "--lr=1", "--optim=sgd", "--hue", "1"])] == [
        "--pca_dim", "--optim", "--hue"]
    assert said([]) == []


def test_the_first_ends_the_script(capsys):
    parser = cli.evaluation_parser("")
    with pytest.raises(SystemExit) as stop:
        refuse_leftovers(["--pca_dim", "8", "--hue", "1"], parser.error)
    line, = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert "error: --pca_dim: in neither" in line and "--hue" not in line


def options_of_the_scripts() -> set[str]:
    return {option for make in (cli.training_parser, cli.evaluation_parser)
            for action in make("", flags=("hashing", "rerank"))._actions for option in action.option_strings}


def test_what_the_scripts_take_is_not_refused():
    assert said(shlex.split(COMMANDS)) == []
    assert LEFTOVERS.keys() & options_of_the_scripts() == set()


def test_hints_name_options_that_there_are():
    hinted = {option for text in LEFTOVERS.values() for option in re.findall(r"--\w+", text)}
    assert hinted and hinted <= options_of_the_scripts()
