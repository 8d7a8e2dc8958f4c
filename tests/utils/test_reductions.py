"""What adapters' reductions hold: against np.unique, np.linalg.svd and loops; ours and published files."""

import json
import math

import numpy as np
import pytest
import torch
from scripts import error_of

from model import Checkpoint, ModelConfig, build_model, published_state_dict, read_checkpoint, save_checkpoint
from utils import reductions
from utils.reductions import measure

TINY = ModelConfig(backbone="dinov2-tiny")
RANDOM = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
START = np.full((6, 96), 1e-5, np.float32)  # as published
ONE_OFF, NEARLY, TWO_OFF, ZERO = START.copy(), START.copy(), START.copy(), np.zeros((6, 96), np.float32)
ONE_OFF[2, 5] *= 1.5
NEARLY[4] *= 1 + 5e-7
TWO_OFF[[1, 3]] *= 2
NEGATIVE_ZERO = ZERO.copy()
NEGATIVE_ZERO[1] = -0.0


def oracle(weight, near):
    """Rows by np.unique; of those far from each other by loops; singular values by np.linalg.svd."""
    weight = weight.astype(np.float64)
    singular = np.linalg.svd(weight, compute_uv=False)
    shares = [value / singular.sum() for value in singular if value > 0]
    kept = []
    for row in weight.tolist():
        if not any(all(abs(a - b) <= near * np.abs(weight).max() for a, b in zip(row, other, strict=True))
                   for other in kept):
            kept.append(row)
    return {"distinct": len(np.unique(weight, axis=0)), "distinct_close": len(kept), "largest": singular[0],
            "second": singular[1] / singular[0] if singular[0] else 0,
            "effective_rank": math.exp(-sum(p * math.log(p) for p in shares)) if shares else 0}


@pytest.mark.parametrize(("weight", "distinct", "close"), [
    (START, 1, 1), (ONE_OFF, 2, 2), (NEARLY, 2, 1), (TWO_OFF, 2, 2), (RANDOM, 6, 6), (ZERO, 1, 1),
    (NEGATIVE_ZERO, 1, 1)])
def test_a_reduction_is_measured(weight, distinct, close):
    found = measure(torch.from_numpy(weight), branch="float", block=1, before="3x3")
    expected = oracle(weight, 1e-6)
    assert (found.distinct, found.distinct_close, found.shape) == (distinct, close, (6, 96))
    assert (expected["distinct"], expected["distinct_close"]) == (distinct, close)
    for name in ("largest", "second", "effective_rank"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name


def test_equal_rows_have_rank_one_and_orthogonal_ones_their_number():
    def rank(weight):
        return measure(weight, branch="float", block=1, before="3x3").effective_rank

    assert rank(torch.full((24, 384), 1e-5)) == pytest.approx(1, abs=1e-6)
    assert rank(3 * torch.eye(24, 384)) == pytest.approx(24)
    assert rank(torch.eye(24, 384, dtype=torch.bfloat16)) == pytest.approx(24)
    assert measure(torch.ones(1, 5), branch="float", block=1, before="3x3").second == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model at the published start but for one row, ours and published; whose binary branch is random."""
    folder = tmp_path_factory.mktemp("files")
    model = build_model(TINY, seed=0)
    model.branch("float").side.initialise()
    with torch.no_grad():
        model.branch("float").side.adapters[2].reduce5x5.conv.weight[3] += 1
    save_checkpoint(model, folder / "ours.pth", pretrained=False)
    published = {f"module.{name}": value for name, value in published_state_dict(model).items()}
    torch.save({"model_state_dict": published}, folder / "published.pth")
    return folder


def test_ours_and_published_files_are_read(files, capsys):
    paths = [str(files / name) for name in ("ours.pth", "published.pth")]
    reductions.main([*paths, "--json", str(files / "found.json")])
    found = json.loads((files / "found.json").read_text())
    assert list(found) == paths and found[paths[0]] == found[paths[1]]
    rows = found[paths[0]]
    assert [(row["branch"], row["block"], row["before"]) for row in rows] == [
        (branch, block, before) for branch in ("float", "binary") for block in range(1, 5) for before in ("3x3", "5x5")]
    assert [row["distinct"] for row in rows] == [1, 1, 1, 1, 1, 2, 1, 1] + 8 * [6]
    state = read_checkpoint(paths[0]).state_dict
    for row in rows:
        name = f"{row['branch']}_branch.side.adapters.{row['block'] - 1}.reduce{row['before']}.conv.weight"
        expected = oracle(state[name].flatten(1).numpy(), 1e-6)
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-12)
    said = capsys.readouterr().out
    table = [line for line in said.splitlines() if line.startswith("| float") or line.startswith("| binary")]
    assert len(table) == 2 * 16 and table[:16] == table[16:]
    assert table[5].split("|")[1:6] == [" float  ", "     3 ", " 5x5    ", "    6x96 ", "             2 "]
    assert len({len(line) for line in said.splitlines() if line.startswith("|")}) == 1
    assert said.count("float: 8 reductions of 48 channels in all, 9 distinct, 9 of them 1e-6 apart; all rows equal in "
                      "7; effective rank 1.00 to ") == 2
    assert "binary: 8 reductions of 48 channels in all, 48 distinct, 48 of them 1e-6 apart; all rows equal in 0" in said


def test_blocks_are_those_whose_tokens_the_adapters_take():
    config = ModelConfig(backbone="dinov2-tiny", branches=("binary",), placement="last:2")
    found = list(reductions.reductions(Checkpoint(config, build_model(config, seed=0).state_dict())))
    assert [(one.branch, one.block) for one in found] == [("binary", 3), ("binary", 3), ("binary", 4), ("binary", 4)]


@pytest.mark.parametrize(("fields", "said"), [
    ({"adapter": "vanilla"}, "no MultiConv adapter in it (placement 'all', adapter 'vanilla')"),
    ({"placement": "none"}, "no MultiConv adapter in it (placement 'none', adapter 'multiconv')")])
def test_a_model_without_reductions_is_one_line(fields, said, tmp_path, capsys):
    path = tmp_path / "model.pth"
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",), **fields)), path,
                    pretrained=False)
    assert error_of(reductions.main, path, capsys=capsys) == f"{path}: {said}; expected a model with them"


def test_what_cannot_be_read_is_one_line(files, tmp_path, capsys):
    assert "no checkpoint file at nowhere.pth" in error_of(reductions.main, "nowhere.pth", capsys=capsys)
    assert "--json" in error_of(reductions.main, files / "ours.pth", "--json", tmp_path, capsys=capsys)
    name = "float_branch.side.adapters.1.reduce3x3.conv.weight"
    whole = read_checkpoint(files / "ours.pth")
    for value, said in ((None, "missing"), (torch.full((6, 96, 1, 1), math.nan), "not finite")):
        state = {**whole.state_dict, name: value}
        if value is None:
            del state[name]
        path = tmp_path / "model.pth"
        torch.save({"format": "selavprpp", "version": 1, "config": whole.config.to_dict(), "model_state_dict": state},
                   path)
        with pytest.raises(ValueError, match=rf"model\.pth: {name} is {said}; expected a whole model"):
            list(reductions.reductions(read_checkpoint(path)))
