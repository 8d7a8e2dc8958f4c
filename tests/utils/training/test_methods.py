"""Every method of the paper does what it says: what must move moves, what must not stays, taps and codes are right."""

import dataclasses
import gc
import json
import re

import pytest
import torch
from paths import ROOT
from scripts import RANDOM, error_of, evaluation_options, metrics, results, run_folder, training_options

import eval as eval_float
import eval_hashing
import eval_rerank
import train
import train_hashing
import train_rerank
from model import (
    AGGREGATORS,
    BACKBONES,
    BRANCHES,
    CheckpointError,
    ModelConfig,
    SelaVPRpp,
    build_model,
    load_model,
    read_checkpoint,
)
from model.side_network import ADAPTER_STARTS
from utils.cli.variants import SETTABLE, VARIANTS, chosen_fields, listing
from utils.models import ModelOptions, model_from_foundation, read_resume

NARROW = "dinov2-narrow"
FLOAT = ("float",)


def with_method(*words: str) -> list[str]:
    return ["--set", *words]


def weights(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last_model.pth", weights_only=True)["model_state_dict"]


# --- where the adapters sit (Table VII)

TAPS = {  # of 24 blocks, written out by hand
    "none": (24, []),
    "all": (0, list(range(1, 25))),
    "every:2": (0, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24]),
    "every:3": (0, [3, 6, 9, 12, 15, 18, 21, 24]),  # equation 7: x_3l for l = 1 .. 8, from x_0
    "every:6": (0, [6, 12, 18, 24]),
    "last:16": (8, list(range(9, 25))),
    "last:12": (12, list(range(13, 25))),
    "last:8": (16, list(range(17, 25))),
    "last:4": (20, [21, 22, 23, 24]),
}


@pytest.mark.parametrize("adapter", ["multiconv", "vanilla"])
@pytest.mark.parametrize("placement", TAPS)
def test_a_side_network_refines_its_levels(placement, adapter):
    config = ModelConfig(backbone=NARROW, branches=FLOAT, placement=placement, adapter=adapter, float_dim=32)
    first, taps = TAPS[placement]
    model = build_model(config, seed=1).eval()
    images = torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        levels = list(model.backbone.stream_tokens(images))
        adapters = model.float_branch.side.adapters
        state = levels[first]
        for number, level in enumerate(taps):
            state = adapters[number](state + levels[level], (2, 3)) + state
        expected = model.float_branch.head(model.backbone.norm(state), (2, 3))
        assert torch.allclose(model(images).floating, expected, atol=1e-6)
    assert len(adapters) == len(taps)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in adapters.modules())
    assert convolutions == (5 * len(taps) if adapter == "multiconv" else 0)


@pytest.mark.parametrize(("placement", "backbone"), [
    ("every:5", NARROW), ("every:0", NARROW), ("every:-2", NARROW), ("last:25", NARROW), ("last:0", NARROW),
    ("last:", NARROW), ("half", NARROW), ("every:", NARROW), ("none:1", NARROW), ("all:2", NARROW),
    ("last:16", "dinov2-base"), ("every:5", "dinov2-base"), ("every:²", NARROW)])
def test_a_placement_that_does_not_fit(placement, backbone):
    depth = BACKBONES[backbone].depth
    with pytest.raises(ValueError, match=f"placement '{placement}' does not fit {backbone} \\({depth} blocks\\); use"):
        ModelConfig(backbone=backbone, placement=placement)


@pytest.mark.parametrize("tuning", ["partial", "partial:0", "partial:25", "last:4", "sides", "partial:²"])
def test_a_tuning_that_does_not_fit(tuning):
    with pytest.raises(ValueError, match=f"tuning '{tuning}' does not fit {NARROW} \\(24 blocks\\); use 'side'"):
        ModelConfig(backbone=NARROW, tuning=tuning)


def test_what_does_not_go_together():
    with pytest.raises(ValueError, match="placement 'all' with tuning 'full'"):
        ModelConfig(backbone=NARROW, branches=FLOAT, tuning="full", placement="all")
    with pytest.raises(ValueError, match="tuning 'selavpr' with two branches"):
        ModelConfig(backbone=NARROW, tuning="selavpr")
    assert ModelConfig(backbone=NARROW, tuning="selavpr", order="joint").placement == "none"


# --- what learns (Tables IV to VI)

def learning_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in SelaVPRpp(config).parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def millions():
    """(variant, backbone) -> parameters that learn in train.py."""
    return {(name, size): learning_parameters(
        ModelConfig(backbone=f"dinov2-{size}", branches=FLOAT, **chosen_fields(name, [])))
        for name in ("freezing", "full", "partial", "selavpr-global", "side-vanilla", "side-multiconv")
        for size in ("base", "large")}


def test_the_ratios_of_the_paper(millions):
    """Section IV-D: 8.7 % of full tuning (large), under half of partial tuning, SelaVPR under a fifth of full."""
    assert round(100 * millions["side-multiconv", "large"] / millions["full", "large"], 1) == 8.7
    for size in ("base", "large"):
        assert millions["side-multiconv", size] < millions["partial", size] / 2
        assert millions["selavpr-global", size] < millions["full", size] / 5
        assert millions["freezing", size] < millions["side-vanilla", size]


def test_parameters_that_learn_counted_by_hand(millions):
    for size, dim, depth, adapters, out in (("base", 768, 12, 12, 2048), ("large", 1024, 24, 16, 4096)):
        head = dim * dim + dim + 1 + dim * out + out
        bottleneck = 2 * dim * (dim // 2) + dim // 2 + dim
        block = 12 * dim * dim + 13 * dim + 2 * dim  # attention, MLP, two norms; two layer scales
        embedding = dim + 1370 * dim + 3 * 14 * 14 * dim + dim
        assert millions["freezing", size] == head
        assert millions["side-vanilla", size] == head + adapters * bottleneck
        assert millions["selavpr-global", size] == head + 2 * depth * bottleneck
        assert millions["partial", size] == head + 4 * block + 2 * dim
        assert millions["full", size] == head + depth * block + embedding + 2 * dim


def moved_by(main, *options, tmp_path, start: ModelConfig) -> tuple[set[str], object]:
    folder = run_folder(main, *options, "--epochs_num", 1, cwd=tmp_path)
    before, after = build_model(start, seed=0).state_dict(), weights(folder)
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}, folder


# What one epoch of train.py moves, as prefixes of names; everything of these parts, nothing of the others.
TUNED = {
    "freezing": ["float_branch.head."],
    "full": ["backbone.", "float_branch.head."],
    "partial": ["backbone.blocks.3.", "backbone.blocks.2.", "backbone.norm.", "float_branch.head."],
    "selavpr-global": ["adapter", "float_branch.head."],
    "side-vanilla": ["float_branch."],
    "side-multiconv": ["float_branch."],
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", TUNED)
def test_what_moves_and_what_does_not(variant, data, tmp_path):
    fields = chosen_fields(variant, [])
    options = [*training_options(data), *RANDOM, "--variant", variant]
    if variant == "partial":  # of a model of 4 blocks
        fields["tuning"] = "partial:2"
        options += ["--set", "tuning=partial:2"]
    config = ModelConfig(backbone="dinov2-tiny", branches=FLOAT, **fields)
    moved, folder = moved_by(train.main, *options, tmp_path=tmp_path, start=config)
    assert read_checkpoint(folder / "best_model.pth").config == config

    def expected(name: str) -> bool:
        inside = any(part in name if part == "adapter" else name.startswith(part) for part in TUNED[variant])
        return inside and name != "backbone.mask_token"

    names = set(build_model(config).state_dict())
    # A convolution's bias under a BatchNorm has no effect and hardly a gradient.
    weak = {name for name in names if name.endswith("conv.bias")}
    assert moved - weak == {name for name in names if expected(name)} - weak
    costs = results(folder)["training"]
    assert costs["trainable_parameters"] == learning_parameters(config)
    assert costs["minutes_per_epoch"] == pytest.approx(metrics(folder)[0]["seconds"] / 60)
    assert costs["peak_memory_mib"] == metrics(folder)[0]["peak_memory_mib"]
    assert f"trained {costs['trainable_parameters'] / 1e6:.2f} million parameters" in (folder / "info.log").read_text()

    evaluated = run_folder(eval_float.main, *evaluation_options(data), "--resume", folder / "best_model.pth",
                           cwd=tmp_path)
    assert results(evaluated)["recalls"] == results(folder)["recalls"]
    assert results(evaluated)["model"]["config"] == config.to_dict()
    assert results(evaluated)["training"] is None


@pytest.mark.slow
def test_a_tuned_backbone_goes_on_after_a_break(data, tmp_path):
    options = [*training_options(data), *RANDOM, "--variant", "full"]
    whole = run_folder(train.main, *options, "--epochs_num", 2, cwd=tmp_path)
    half = run_folder(train.main, *options, "--epochs_num", 1, cwd=tmp_path)
    again = run_folder(train.main, *training_options(data), "--resume", half / "last_model.pth", "--epochs_num", 2,
                       cwd=tmp_path)
    ours, expected = weights(again), weights(whole)
    assert not [name for name in expected if not torch.allclose(ours[name], expected[name], atol=1e-7)]
    assert not torch.equal(weights(half)["backbone.cls_token"], expected["backbone.cls_token"])


@pytest.mark.slow
def test_bf16_trains_a_backbone_too(data, tmp_path):
    """Weights that learn are not rounded for the pass: small steps would be lost."""
    options = [*training_options(data), *RANDOM, "--variant", "full", "--precision", "bf16", "--lr", "1e-5"]
    config = ModelConfig(backbone="dinov2-tiny", branches=FLOAT, tuning="full")
    moved, _ = moved_by(train.main, *options, tmp_path=tmp_path, start=config)
    assert "backbone.blocks.0.mlp.fc1.weight" in moved


@pytest.mark.slow
def test_compile_is_for_a_frozen_backbone(data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "--compile" in error_of(train.main, *training_options(data), *RANDOM, "--variant", "full", "--compile",
                                   capsys=capsys)


def test_selavpr_starts_at_what_an_official_file_sees(tmp_path):
    plain = build_model(ModelConfig(backbone="dinov2-tiny", branches=FLOAT), seed=4).backbone
    torch.save(plain.state_dict(), tmp_path / "official.pth")
    config = ModelConfig(backbone="dinov2-tiny", branches=FLOAT, tuning="selavpr")
    model, pretrained = model_from_foundation(config, str(tmp_path / "official.pth"), seed=0)
    images = torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        for ours, expected in zip(model.backbone.stream_tokens(images), plain.stream_tokens(images), strict=True):
            assert torch.equal(ours, expected)
    assert pretrained
    assert model.backbone.blocks[0].adapter1.down.weight.count_nonzero() > 0
    torch.save({name: value for name, value in plain.state_dict().items() if "ls1" not in name}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="missing blocks.0.ls1.gamma and 3 more"):
        model_from_foundation(config, str(tmp_path / "cut.pth"), seed=0)


def test_the_adapters_start_as_asked_on_an_official_file_alone(tmp_path):
    official = build_model(ModelConfig(backbone="dinov2-tiny"), seed=4).backbone
    torch.save(official.state_dict(), tmp_path / "official.pth")
    rows = {}
    for start in ADAPTER_STARTS:
        config = ModelConfig(backbone="dinov2-tiny", **chosen_fields(None, [f"adapter_start={start}"]))
        model, _ = model_from_foundation(config, str(tmp_path / "official.pth"), seed=0)
        side = model.binary_branch.side.adapters[-1]
        rows[start] = len(side.reduce5x5.conv.weight.unique(dim=0))
        assert not side.up.weight.any()
        if start != "constant":
            with pytest.raises(ValueError, match=f"adapter_start '{start}': on random weights adapters start at rand"):
                model_from_foundation(config, "random", seed=0)
    assert rows == {"constant": 1, "gaussian": 6, "pytorch": 6}


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["gem", "boq", "salad"])
@pytest.mark.parametrize("tuning", ["side", "full", "selavpr"])
def test_recomputing_gives_the_same_gradients(tuning, aggregation):
    config = ModelConfig(backbone="dinov2-tiny", branches=FLOAT, tuning=tuning, aggregation=aggregation,
                         adapter="vanilla")
    images = torch.randn(3, 3, 126, 140, dtype=torch.float64)
    found = []
    for recompute in (True, False):
        model = build_model(config, seed=3).double().train()
        model.recompute = recompute
        torch.manual_seed(5)  # SALAD's dropout
        model(images).floating.square().mul(torch.arange(config.float_dim)).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    ours, expected = found
    assert all(value is not None for value in ours.values())
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name


# --- heads

@pytest.mark.slow
def test_the_head_in_the_contributors_page_is_a_file_and_a_line(data, tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code, = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class MeanHead" in block]
    names = {"nn": torch.nn}
    exec(code, names)
    monkeypatch.setitem(AGGREGATORS, "mean", names["MeanHead"])
    folder = run_folder(train.main, *training_options(data), *RANDOM, "--aggregation", "mean", "--epochs_num", 1,
                        cwd=tmp_path)
    evaluated = run_folder(eval_float.main, *evaluation_options(data), "--resume", folder / "best_model.pth",
                           cwd=tmp_path)
    assert results(evaluated)["recalls"] == results(folder)["recalls"]
    assert results(evaluated)["model"]["config"]["aggregation"] == "mean"


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["boq", "salad"])
def test_other_heads_train_and_evaluate(aggregation, data, tmp_path):
    size = ["--resize", "126", "126"]  # SALAD needs more than 64 patches
    options = [*size, "--train_resize", "126", "126"]
    config = ModelConfig(backbone="dinov2-tiny", branches=FLOAT, aggregation=aggregation)
    moved, folder = moved_by(train.main, *training_options(data), *options, *RANDOM, "--aggregation", aggregation,
                             tmp_path=tmp_path, start=config)
    head = {name for name in build_model(config).state_dict() if name.startswith("float_branch.head.")}
    assert not [name for name in head - moved if not name.endswith("bias")]
    both = run_folder(train_rerank.main, *training_options(data), *options, "--resume", folder / "best_model.pth",
                      "--epochs_num", 1, cwd=tmp_path)
    assert results(both)["bytes_per_image"] == {"binary": 64, "float": 4 * config.float_dim}
    again = run_folder(eval_rerank.main, *evaluation_options(data), *size, "--resume", both / "best_model.pth",
                       cwd=tmp_path)
    assert results(again)["recalls"] == results(both)["recalls"]


@pytest.mark.slow
def test_an_image_that_is_too_small_for_salad(data, capsys, memory_measured, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = error_of(train.main, *training_options(data), *RANDOM, "--aggregation", "salad", capsys=capsys)
    assert message == "SALAD needs more than 64 patches, got 16 (4 x 4); use images larger than 112 x 112"
    gc.collect()  # torch 2.6 keeps the hooks of a checkpoint inside which an error was raised as long as the error


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["dinov2-tiny-reg", "dinov2-tiny-giant"])
def test_registers_and_swiglu_in_every_script(backbone, data, tmp_path, monkeypatch):
    more = {"registers": 4} if backbone.endswith("reg") else {"swiglu": 128}
    monkeypatch.setitem(BACKBONES, backbone, BACKBONES["dinov2-tiny"]._replace(**more))
    options = [*training_options(data), "--epochs_num", 1]
    first = run_folder(train.main, *options, "--backbone", backbone, "--foundation_model_path", "random", cwd=tmp_path)
    both = run_folder(train_rerank.main, *options, "--resume", first / "best_model.pth", cwd=tmp_path)
    again = run_folder(eval_rerank.main, *evaluation_options(data), "--resume", both / "best_model.pth", cwd=tmp_path)
    assert results(again)["recalls"] == results(both)["recalls"]
    names = weights(both)
    assert ("backbone.register_tokens" in names) == backbone.endswith("reg")
    assert ("backbone.blocks.0.mlp.w12.weight" in names) == backbone.endswith("giant")


# --- how codes are learnt (Table XI)

@pytest.fixture(scope="module")
def hashing_runs(data, tmp_path_factory):
    return {name: run_folder(train_hashing.main, *training_options(data), *RANDOM, "--epochs_num", 1, "--variant", name,
                             "--set", "code_bits=40", cwd=tmp_path_factory.mktemp("hashing"))
            for name in ("direct", "lc", "sc", "ste", "sc-ste")}


@pytest.mark.slow
def test_every_hashing_method_learns_otherwise(hashing_runs):
    heads = {name: weights(folder)["binary_branch.head.expand.weight"] for name, folder in hashing_runs.items()}
    for name, head in heads.items():
        assert not [other for other in heads if other != name and torch.equal(head, heads[other])]
        config = read_checkpoint(hashing_runs[name] / "best_model.pth").config
        assert {"hashing": config.hashing} == chosen_fields(name, [])
    for name, folder in hashing_runs.items():
        record, = metrics(folder)
        assert (record["quantization"] == 0) == (name in ("direct", "ste"))
        assert record["loss"] == pytest.approx(record["metric"] + 0.1 * record["quantization"], rel=1e-5)


@pytest.mark.slow
def test_codes_have_the_stated_length(hashing_runs, data, tmp_path):
    file = hashing_runs["sc"] / "best_model.pth"
    found = results(run_folder(eval_hashing.main, *evaluation_options(data), "--resume", file, cwd=tmp_path))
    assert found["bytes_per_image"]["binary"] == 5
    with torch.no_grad():
        out = load_model(file)(torch.randn(2, 3, 28, 28))
    assert out.relaxed.shape == out.binary.shape == (2, 40)
    assert set(out.binary.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.slow
def test_the_weight_of_the_quantization_loss_is_that_of_the_configuration(data, tmp_path):
    folder = run_folder(train_hashing.main, *training_options(data), *RANDOM, "--epochs_num", 1,
                        "--set", "quantization_weight=0.7", "pair_fraction=0.5", cwd=tmp_path)
    record, = metrics(folder)
    assert record["loss"] == pytest.approx(record["metric"] + 0.7 * record["quantization"], rel=1e-5)
    saved = read_checkpoint(folder / "best_model.pth").config
    assert (saved.quantization_weight, saved.pair_fraction) == (0.7, 0.5)
    assert json.loads((folder / "config.json").read_text())["model"]["quantization_weight"] == 0.7


# --- which branch comes first (section III-C)

@pytest.fixture(scope="module")
def orders(data, float_run, rerank_run, tmp_path_factory):
    """Run folder of each order, and that of the model with one branch that it began with."""
    binary = run_folder(train_hashing.main, *training_options(data), *RANDOM, "--epochs_num", 1,
                        cwd=tmp_path_factory.mktemp("binary"))
    after_binary = run_folder(train_rerank.main, *training_options(data), "--resume", binary / "best_model.pth",
                              "--epochs_num", 1, "--set", "float_dim=96", cwd=tmp_path_factory.mktemp("binary_float"))
    joint = run_folder(train_rerank.main, *training_options(data), *RANDOM, "--variant", "joint", "--epochs_num", 1,
                       cwd=tmp_path_factory.mktemp("joint"))
    return {"float-binary": (rerank_run, float_run), "binary-float": (after_binary, binary), "joint": (joint, None)}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["float-binary", "binary-float", "joint"])
def test_every_order_gives_a_model_with_one_interface(order, orders, data, tmp_path):
    folder, _ = orders[order]
    config = read_checkpoint(folder / "best_model.pth").config
    assert (config.order, config.branches) == (order, BRANCHES)
    for main in (eval_float.main, eval_hashing.main, eval_rerank.main):
        run_folder(main, *evaluation_options(data), "--resume", folder / "best_model.pth", cwd=tmp_path)
    found = results(folder)
    assert found["protocol"] == "Hamming top 100, then L2"
    assert found["bytes_per_image"] == {"binary": 64, "float": 4 * (96 if order == "binary-float" else 512)}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["float-binary", "binary-float"])
def test_the_branch_that_was_trained_first_stays(order, orders):
    folder, first = orders[order]
    done, new = order.split("-")
    before, after = weights(first), weights(folder)
    kept = [name for name in before if name.startswith((f"{done}_branch.", "backbone."))]
    assert not [name for name in kept if not torch.equal(after[name], before[name])]
    side = [name for name in before if name.startswith(f"{done}_branch.side.") and not name.endswith("conv.bias")]
    assert side
    assert not [name for name in side if torch.equal(after[name.replace(done, new, 1)], before[name])]
    fresh = build_model(read_checkpoint(folder / "last_model.pth").config, seed=0).state_dict()
    assert not torch.equal(after[f"{new}_branch.head.expand.weight"], fresh[f"{new}_branch.head.expand.weight"])


@pytest.mark.slow
def test_both_branches_learn_at_once(orders):
    folder, _ = orders["joint"]
    fresh, after = build_model(read_checkpoint(folder / "last_model.pth").config, seed=0).state_dict(), weights(folder)
    learnt = [name for name in fresh if "_branch." in name and not name.endswith("conv.bias")]
    assert not [name for name in learnt if torch.equal(fresh[name], after[name])]
    assert not [name for name in fresh if name.startswith("backbone.") and not torch.equal(fresh[name], after[name])]
    record, = metrics(folder)
    parts = record["metric"] + 0.1 * record["quantization"] + record["float_metric"]
    assert record["loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["binary-float", "joint"])
def test_an_order_goes_on_after_a_break(order, orders, data, tmp_path):
    folder, _ = orders[order]
    again = run_folder(train_rerank.main, *training_options(data), "--resume", folder / "last_model.pth",
                       "--epochs_num", 2, cwd=tmp_path)
    before, after = weights(folder), weights(again)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"float_branch"} | ({"binary_branch"} if order == "joint" else set())
    assert read_checkpoint(again / "last_model.pth").config.order == order
    assert [record["epoch"] for record in metrics(again)] == [1, 2]


@pytest.mark.slow
def test_a_float_head_of_any_kind_beside_a_binary_model(orders):
    _, binary = orders["binary-float"]
    checkpoint, config = read_resume(ModelOptions(resume=binary / "best_model.pth", aggregation="boq"),
                                     branches=BRANCHES)
    assert (config.aggregation, config.float_dim, config.order) == ("boq", 12288, "binary-float")
    assert checkpoint.config.branches == ("binary",)


# --- --variant and --set

def test_help_lists_every_variant_and_field(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--variant", "help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert shown == listing() + "\n"
    words = shown.split()
    assert [name for name in (*VARIANTS, *SETTABLE) if name not in words] == []
    assert "(default: " in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_every_variant_fits_a_backbone_and_every_field_can_be_set():
    for variant in VARIANTS:
        fields = chosen_fields(variant, [])
        assert fields
        config = ModelConfig(backbone=NARROW, branches=FLOAT if "tuning" in fields else BRANCHES, **fields)
        assert {name: getattr(config, name) for name in fields} == fields
    assert set(SETTABLE) == {field.name for field in dataclasses.fields(ModelConfig)} - {
        "backbone", "branches", "aggregation"}
    words = ["tuning=side", "placement=last:2", "adapter=multiconv", "adapter_start=gaussian", "reduction_dim=3",
             "float_dim=96", "code_bits=64", "hashing=ste", "quantization_weight=0.25", "pair_fraction=0.5",
             "order=joint", "places=hard", "recompute=false", "nested_bits=8,64", "nested_floats=24,48,96",
             "nested_distillation=0.5"]
    assert {word.split("=")[0] for word in words} == set(SETTABLE)
    config = ModelConfig(backbone=NARROW, **chosen_fields(None, words))
    assert (config.float_dim, config.code_bits, config.quantization_weight) == (96, 64, 0.25)
    assert (config.adapter_start, config.reduction_dim) == ("gaussian", 3)
    assert (config.code_lengths, config.float_lengths, config.nested_distillation) == ((8, 64), (24, 48, 96), 0.5)
    assert chosen_fields(None, ["nested_bits="]) == {"nested_bits": ()}  # to go on without
    assert config.recompute is build_model(config).recompute is False
    assert chosen_fields("ste", ["hashing=lc"]) == {"hashing": "lc"}  # a word outranks the variant
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(("options", "expected"), [
    ("--variant lora", "unknown variant 'lora'; choose one of freezing, full,"),
    ("--set colour=red", "--set 'colour=red': expected field=value with a field of tuning, placement,"),
    ("--set hashing", "--set 'hashing': expected field=value"),
    ("--set backbone=dinov2-base", "--set 'backbone=dinov2-base': expected"),
    ("--set code_bits=many", "--set 'code_bits=many': code_bits is a whole number"),
    ("--set quantization_weight=a", "quantization_weight is a number"),
    ("--set recompute=no", "recompute is true or false"),
    ("--set quantization_weight=-1", "quantization_weight -1.0 must be a number of at least 0"),
    ("--set pair_fraction=1.5", "pair_fraction 1.5 must be above 0 and at most 1"),
    ("--set nested_floats=1.5", "nested_floats is whole numbers, as 64,128,256, or nothing"),
    ("--set nested_floats=256,128,512", "nested_floats (256, 128, 512) must be two or more ascending whole"),
    ("--set nested_bits=64,512", "nested_bits (64, 512): this model has no binary branch; leave them out"),
    ("--set nested_distillation=1", "nested_distillation 1.0 needs nested_bits or nested_floats"),
    ("--aggregation boq --set nested_floats=64,12288", "(64, 12288): the descriptor of boq cannot be cut"),
    ("--set code_bits=100", "code_bits 100 must be a positive multiple of 8"),
    ("--set hashing=lsh", "unknown hashing 'lsh'; choose one of direct, lc, lc-error, sc, ste, sc+ste"),
    ("--variant every-3", "placement 'every:3' does not fit dinov2-tiny (4 blocks)"),
    ("--aggregation salad --set float_dim=512", "float_dim 512: the descriptor of salad has 8448"),
])
def test_wrong_choices(options, expected, data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert expected in error_of(train.main, *training_options(data), *RANDOM, *options.split(), capsys=capsys)
    assert list(tmp_path.iterdir()) == []  # no run folder for a mistake


@pytest.mark.slow
def test_choices_that_contradict_the_file(orders, float_run, data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = float_run / "best_model.pth"

    def refused(main, file, *options):
        return error_of(main, *training_options(data), "--resume", file, *options, capsys=capsys)

    assert refused(train.main, file, "--variant", "freezing") == (
        f"placement 'none' contradicts {file}, which holds all; leave it out, or give another file")
    assert "adapter 'vanilla' contradicts" in refused(train_rerank.main, file, "--set", "adapter=vanilla")
    for script in (train.main, train_rerank.main):  # the adapters started long ago, and the other branch copies them
        assert "adapter_start 'pytorch' contradicts" in refused(script, file, "--set", "adapter_start=pytorch")
        assert "reduction_dim 1 contradicts" in refused(script, file, "--set", "reduction_dim=1")
    assert "float_dim 96 contradicts" in refused(train_rerank.main, file, "--set", "float_dim=96")
    assert "order 'joint' starts from a foundation model: leave --resume out" in refused(
        train_rerank.main, file, "--variant", "joint")
    assert "order 'binary-float' starts from the other branch's file" in refused(
        train_rerank.main, file, "--variant", "binary-float")
    joint = orders["joint"][0] / "best_model.pth"
    assert "order 'float-binary' contradicts" in refused(train_rerank.main, joint, "--variant", "float-binary")


def test_a_loss_may_change_when_going_on(rerank_run, caplog, monkeypatch):
    monkeypatch.setattr("utils.models.log.propagate", True)
    _, config = read_resume(ModelOptions(resume=rerank_run / "last_model.pth", fields={"hashing": "ste"}),
                            branches=BRANCHES)
    assert config.hashing == "ste"
    assert "hashing was sc+ste in" in caplog.text
