"""Codes and float descriptors that learn to be cut, by the scripts."""

import dataclasses
import json

import pytest
import torch
from scripts import RANDOM, error_of, metrics, run_folder, training_options

import train
import train_hashing
import train_rerank
from model import BRANCHES, load_model, read_checkpoint
from utils.models import ModelOptions, read_resume

NESTED = ("nested_bits=64,128,512", "nested_floats=128,512", "nested_distillation=0.5")


@pytest.fixture(scope="module")
def both(data, tmp_path_factory):
    """Run folders of two branches that learn at once, nested and not."""
    return [run_folder(train_rerank.main, *training_options(data), *RANDOM, "--epochs_num", 1, "--set", "order=joint",
                       *words, cwd=tmp_path_factory.mktemp("nested")) for words in (NESTED, ())]


def head(folder, branch: str) -> torch.Tensor:
    return load_model(folder / "last_model.pth").branch(branch).head.expand.weight.detach()


@pytest.mark.slow
def test_both_branches_learn_otherwise_and_the_file_says_so(both):
    nested, plain = both
    for branch in BRANCHES:
        assert not torch.equal(head(nested, branch), head(plain, branch))
    config = read_checkpoint(nested / "best_model.pth").config
    assert (config.nested_bits, config.nested_floats, config.nested_distillation) == ((64, 128, 512), (128, 512), 0.5)
    assert json.loads((nested / "config.json").read_text())["model"]["nested_bits"] == [64, 128, 512]
    assert read_checkpoint(plain / "best_model.pth").config == dataclasses.replace(
        config, nested_bits=(), nested_floats=(), nested_distillation=0)


@pytest.mark.slow
def test_the_losses_of_all_lengths_are_summed(both):
    (record,), (alone,) = (metrics(folder) for folder in both)
    parts = ("metric", "float_metric", "distillation", "float_distillation")
    loss = sum(weight * record[part] for weight, part in zip((1, 1, 0.5, 0.5), parts, strict=True))
    assert record["loss"] == pytest.approx(loss + 0.1 * record["quantization"], rel=1e-5)
    assert min(record[part] for part in parts) > 0
    assert record["metric"] > 2 * alone["metric"] and record["float_metric"] > 1.5 * alone["float_metric"]
    assert not {"distillation", "float_distillation"} & alone.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("script", "branch", "words"), [
    (train, "float", ("recompute=true", "nested_floats=128,512", "nested_distillation=9")),
    (train_hashing, "binary", ("hashing=direct", "nested_bits=64,512", "nested_distillation=9"))])
def test_one_branch_alone(script, branch, words, data, tmp_path):
    nested, plain = (run_folder(script.main, *training_options(data), *RANDOM, "--epochs_num", 1, "--set",
                                *words[:count], cwd=tmp_path) for count in (3, 1))
    assert not torch.equal(head(nested, branch), head(plain, branch))
    (record,), (alone,) = metrics(nested), metrics(plain)
    assert record["distillation"] > 0
    assert record["loss"] - 9 * record["distillation"] > 1.5 * alone["loss"]
    if branch == "binary":
        assert record["loss"] == pytest.approx(record["metric"] + 9 * record["distillation"], rel=1e-5)


def test_lengths_may_change_where_the_branch_learns(float_run, rerank_run, data, capsys, monkeypatch, tmp_path):
    def chosen(folder, branches, **fields):
        return read_resume(ModelOptions(resume=folder / "last_model.pth", fields=fields), branches=branches)[1]

    assert chosen(float_run, ("float",), nested_floats=(64, 512)).float_lengths == (64, 512)
    assert chosen(float_run, BRANCHES, nested_bits=(64, 512)).code_lengths == (64, 512)
    assert chosen(rerank_run, BRANCHES, nested_bits=(64, 512), nested_distillation=1.0).code_lengths == (64, 512)
    monkeypatch.chdir(tmp_path)
    for folder in (float_run, rerank_run):  # whose float branch is done
        message = error_of(train_rerank.main, *training_options(data), "--resume", folder / "last_model.pth", "--set",
                           "nested_floats=64,512", capsys=capsys)
        assert message.startswith(f"nested_floats (64, 512) contradicts {folder / 'last_model.pth'}, which holds ();")
