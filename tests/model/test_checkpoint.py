"""Checkpoints in both directions, and every file that must be refused."""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fill import batch
from paths import ROOT
from published import PUBLISHED, filled_weights, model_of, published_shapes
from torch.nn.functional import normalize

from model import (
    Checkpoint,
    CheckpointError,
    ModelConfig,
    SelaVPRpp,
    build_model,
    cut_floats,
    fingerprint,
    load_foundation,
    load_model,
    load_weights,
    published_state_dict,
    read_checkpoint,
    save_checkpoint,
)

TINY = ModelConfig(backbone="dinov2-tiny")
ODD = ModelConfig(backbone="dinov2-tiny", branches=("float",), placement="last:3", float_dim=40)


@pytest.fixture(scope="module")
def weights():
    return filled_weights(TINY)


def write(content, path: Path, **options) -> Path:
    torch.save(content, path, **options)
    return path


def run_python(code: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, text=True, timeout=120,
                          capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def assert_refused(path, message: str) -> str:
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    text = str(error.value)
    assert "\n" not in text
    assert path.name in text
    return text


# What loads

@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("config", [TINY, ODD, ModelConfig(backbone="dinov2-tiny", branches=("binary",), code_bits=64)],
                         ids=["both", "float", "binary"])
def test_published_format_loads_and_ours_exports_to_it(tmp_path, config, prefix):
    weights = filled_weights(config)
    published = {prefix + name: value for name, value in weights.items()}
    direct = build_model(config, seed=1)
    result = direct.load_state_dict(published)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert list(published) == [prefix + name for name in weights]  # the caller's dictionary is left alone
    from_bare = load_model(write(published, tmp_path / "bare.pth"))
    from_training_file = load_model(write({"epoch_num": 3, "model_state_dict": published}, tmp_path / "training.pth"))
    for model in (direct, from_bare, from_training_file):
        assert model.config == config
        exported = published_state_dict(model)
        assert exported.keys() == weights.keys()
        assert all(torch.equal(exported[name], value) for name, value in weights.items())
    again = load_model(write(published_state_dict(direct), tmp_path / "exported.pth"))
    assert fingerprint(again) == fingerprint(direct) == fingerprint(from_bare)


def test_our_file_carries_its_configuration(tmp_path):
    model = model_of(filled_weights(ODD))
    path = tmp_path / "ours.pth"
    save_checkpoint(model, path, pretrained=False, training={"epoch": 2, "best": 31.5})
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == ODD
    assert checkpoint.pretrained is False
    assert checkpoint.training == {"epoch": 2, "best": 31.5}
    assert [file.name for file in tmp_path.iterdir()] == ["ours.pth"]
    loaded = load_model(path)
    assert not loaded.training
    assert fingerprint(loaded) == fingerprint(model)
    assert not any(parameter.requires_grad for parameter in loaded.backbone.parameters())
    assert all(parameter.requires_grad for parameter in loaded.float_branch.parameters())
    images = batch(range(2), 42, 28)
    with torch.no_grad():
        assert torch.equal(loaded(images).floating, model(images).floating)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write({"old": torch.ones(1)}, tmp_path / "model.pth")

    def fail(content, target):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(build_model(ODD), path, pretrained=False)
    assert torch.load(path)["old"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_fingerprint_changes_with_any_weight_or_statistic(weights):
    model = model_of(weights)
    before = fingerprint(model)
    assert fingerprint(model_of(weights)) == before
    model.float_branch.side.adapters[0].conv1x1.bn.num_batches_tracked += 1
    assert fingerprint(model) != before
    model.float_branch.side.adapters[0].conv1x1.bn.num_batches_tracked -= 1
    assert fingerprint(model) == before
    with torch.no_grad():
        model.binary_branch.head.expand.bias[-1] += 1e-6
    assert fingerprint(model) != before


def test_names_tell_the_width_of_the_reductions(tmp_path):
    model = build_model(ModelConfig(backbone="dinov2-tiny", reduction_dim=2), seed=0)
    assert load_model(write(published_state_dict(model), tmp_path / "narrow.pth")).config == model.config


def test_a_model_that_names_do_not_tell_is_not_exported_and_has_a_fingerprint_of_its_own(tmp_path):
    """Adapters after every 2nd block have the names of those after the last ones: equal weights, other descriptors."""
    config = {"backbone": "dinov2-tiny", "branches": ("float",)}
    apart, last, bare = (build_model(ModelConfig(**config, placement=placement), seed=0)
                         for placement in ("every:2", "last:2", "none"))
    assert last.load_state_dict(apart.state_dict()) and apart.config.taps != last.config.taps
    images = batch(range(2), 42, 28)
    with torch.no_grad():
        assert not torch.allclose(apart.eval()(images).floating, last.eval()(images).floating, atol=1e-3)
    assert fingerprint(apart) != fingerprint(last)
    assert load_model(write(published_state_dict(last), tmp_path / "last.pth")).config == last.config
    for model, placement in ((apart, "every:2"), (bare, "none")):
        with pytest.raises(CheckpointError, match=f"dinov2-tiny with placement '{placement}' cannot be told from the "
                                                  "published names, .*; save_checkpoint keeps it"):
            published_state_dict(model)
        save_checkpoint(model, tmp_path / "ours.pth", pretrained=False)
        assert fingerprint(load_model(tmp_path / "ours.pth")) == fingerprint(model)


def test_official_foundation_file_loads_strictly_by_its_own_names(tmp_path):
    official = {name.removeprefix("backbone."): value for name, value in filled_weights(ODD).items()
                if name.startswith("backbone.") and "adapters" not in name}
    expected = {name.removeprefix("backbone.") for name in published_shapes("base/float/gem")
                if name.startswith("backbone.") and "adapters" not in name}
    assert {name for name in official if "blocks" not in name} == {name for name in expected if "blocks" not in name}
    model = build_model(TINY, seed=0)
    adapters = model.float_branch.side.adapters[0].down.weight.clone()
    load_foundation(model, write(official, tmp_path / "dinov2_tiny_pretrain.pth"))
    assert all(torch.equal(model.backbone.state_dict()[name], value) for name, value in official.items())
    assert torch.equal(model.float_branch.side.adapters[0].down.weight, adapters)
    for content, message in (
        ({name: value for name, value in official.items() if name != "norm.bias"}, "missing norm.bias"),
        ({**official, "register_tokens": torch.zeros(1)}, "unexpected register_tokens"),
        ({**official, "cls_token": torch.zeros(1, 1, 384)}, "another size"),
        ({"weight": torch.zeros(1)}, "not a DINOv2 file"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            load_foundation(model, write(content, tmp_path / "wrong.pth"))
        assert "\n" not in str(error.value)
    assert_refused(write(official, tmp_path / "dinov2.pth"), "--foundation_model_path")


# Published training files hold NumPy values; the model needs torch alone

@pytest.fixture(params=["numpy 2 names", "numpy 1 names"])
def training_file(request, tmp_path, weights):
    """What the published training scripts write: DataParallel names, NumPy recalls, Adam's state."""
    model = build_model(TINY, seed=0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=4e-4)
    sum(part.sum() for part in model(torch.zeros(2, 3, 28, 28)) if part is not None).backward()
    optimiser.step()
    path = tmp_path / "last_model.pth"
    # The older file format, whose bytes can be edited: NumPy 1 pickled arrays under another module name.
    write({"epoch_num": 3, "model_state_dict": {f"module.{name}": value for name, value in weights.items()},
           "optimizer_state_dict": optimiser.state_dict(), "recalls": np.array([81.2, 90.5, 93.0, 97.1]),
           "best_r5": np.float64(171.7), "counts": np.arange(3), "not_improved_num": 0,
           "flag": np.bool_(True), "half": np.float32(0.5)},
          path, _use_new_zipfile_serialization=request.param == "numpy 2 names" and np.__version__ >= "2")
    if request.param == "numpy 1 names":
        path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


@pytest.mark.slow
def test_published_training_file_loads_where_numpy_cannot_be_imported(training_file, weights):
    code = """
import sys
for name in ("numpy", "torchvision", "faiss", "PIL", "tqdm", "sklearn", "utm"):
    sys.modules[name] = None  # importing it raises ImportError
import model
print(model.fingerprint(model.load_model(sys.argv[1])))
"""
    result = run_python(code, training_file)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == fingerprint(model_of(weights))


def test_published_training_file_loads_beside_numpy(training_file, weights):
    assert fingerprint(load_model(training_file)) == fingerprint(model_of(weights))
    with pytest.raises(pickle.UnpicklingError):  # the stubs are allowed in our reader only
        torch.load(training_file, weights_only=True)


@pytest.mark.slow
def test_importing_the_package_does_nothing_and_needs_torch_alone():
    code = """
import sys, torch.utils.checkpoint
state, threads, before = torch.get_rng_state(), torch.get_num_threads(), set(sys.modules)
import model
new = {name.split(".")[0] for name in set(sys.modules) - before}
outside = {name for name in new if name != "model" and name not in sys.stdlib_module_names}
assert not outside, outside
assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads()
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


# What is refused

def test_a_missing_or_unexpected_key_is_refused(tmp_path, weights):
    less = {name: value for name, value in weights.items() if name not in ("linear2.bias", "backbone.norm.bias")}
    text = assert_refused(write(less, tmp_path / "less.pth"), "does not fit: missing")
    assert "backbone.norm.bias and 1 more" in text
    more = {**weights, "linear5.weight": torch.zeros(2)}
    assert_refused(write(more, tmp_path / "more.pth"), "does not fit: unexpected linear5.weight$")
    wide = {**weights, "linear1.weight": torch.zeros(3, 192)}
    assert_refused(write(wide, tmp_path / "wide.pth"), r"head.project.weight is \(3, 192\), expected \(192, 192\)")
    with pytest.raises(RuntimeError, match="linear5"):
        build_model(TINY).load_state_dict(more)
    with pytest.raises(RuntimeError, match="Missing"):
        build_model(TINY).load_state_dict(less)


def test_a_weight_given_twice_is_refused(tmp_path, weights):
    twice = {**weights, "module.linear1.bias": torch.zeros(192)}
    assert_refused(write(twice, tmp_path / "twice.pth"), "under two names")


def test_a_base_file_does_not_go_into_a_large_model(tmp_path):
    shapes = published_shapes("base/float/gem")
    base = {f"module.{name}": torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    with torch.device("meta"):
        large = build_model(ModelConfig(backbone="dinov2-large", branches=("float",)))
    checkpoint = read_checkpoint(write(base, tmp_path / "base.pth"))
    assert checkpoint.config == ModelConfig(backbone="dinov2-base", branches=("float",))
    message = r"another size of model: .* is \(1, 1, 768\), expected \(1, 1, 1024\)"
    with pytest.raises(CheckpointError, match=message):
        load_weights(large, checkpoint.state_dict, checkpoint.source)
    # A file of ours whose configuration says large but whose weights are base.
    content = {"format": "selavprpp", "version": 1, "config": large.config.to_dict(), "model_state_dict": base}
    assert_refused(write(content, tmp_path / "liar.pth"), message)


@pytest.mark.parametrize("key", list(PUBLISHED))
def test_the_configuration_of_every_published_file_is_recognised(tmp_path, key):
    backbone, mode = key.split("/")[:2]
    branches = {"float": ("float",), "hashing": ("binary",), "rerank": ("float", "binary")}[mode]
    content = {name: torch.zeros(()).expand(shape) for name, shape in published_shapes(key).items()}
    config = read_checkpoint(write(content, tmp_path / "model.pth")).config
    assert config == ModelConfig(backbone=f"dinov2-{backbone}", branches=branches)


def test_files_that_are_no_checkpoint_are_refused(tmp_path, weights):
    whole = write(weights, tmp_path / "whole.pth").read_bytes()
    legacy = write(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False).read_bytes()
    for name, content in {
        "empty.pth": b"", "text.pth": b"a web page, perhaps\n" * 50, "html.pth": b"<!DOCTYPE html><html></html>",
        "zeros.pth": bytes(4096), "image.jpg": b"\xff\xd8\xff\xe0" + bytes(range(256)),
        "pickle.pth": pickle.dumps({"a": 1}, protocol=2), "zip.pth": b"PK\x05\x06" + bytes(18),
        **{f"cut{i}.pth": whole[: len(whole) * i // 8] for i in range(1, 8)}, "cut.pth": whole[:-1],
        **{f"cut-legacy{i}.pth": legacy[: len(legacy) * i // 8] for i in range(1, 8)}, "short.pth": legacy[:5000],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert_refused(path, "not a readable torch checkpoint|holds no state dict")
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_model(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        load_model(tmp_path)


@pytest.mark.parametrize(("content", "message"), [
    (torch.zeros(3), "holds a Tensor, expected a dictionary"),
    ([torch.zeros(3)], "holds a list"),
    ({}, "not a SelaVPR\\+\\+ model"),
    ({"epoch": 3}, "holds no state dict"),
    ({3: torch.zeros(3)}, "holds no state dict"),
    ({"model_state_dict": torch.zeros(3)}, "holds no state dict"),
    ({"fc.weight": torch.zeros(3)}, "not a SelaVPR\\+\\+ model"),
    ({"backbone.cls_token": torch.zeros(1, 1, 100)}, "no known backbone is 100 wide and 0 blocks deep"),
])
def test_a_torch_file_of_something_else_is_refused(tmp_path, content, message):
    assert_refused(write(content, tmp_path / "other.pth"), message)


def test_a_backbone_without_branches_and_another_aggregation_are_refused(tmp_path, weights):
    bare = {name: value for name, value in weights.items() if "adapters" not in name and name.startswith("backbone")}
    assert_refused(write(bare, tmp_path / "bare.pth"), "neither a float nor a binary branch")
    boq = {name: value for name, value in weights.items() if not name.startswith(("linear2", "aggregation.1"))}
    boq["aggregation.proj_c.weight"] = torch.zeros(384, 192, 3, 3)
    assert_refused(write(boq, tmp_path / "boq.pth"), "no GeM head")


@pytest.mark.parametrize(("field", "value", "message"), [
    ("version", 99, "format version 99, this project reads 1"),
    ("version", None, "format version None"),
    ("config", {"backbone": "dinov9-large"}, "unknown backbone 'dinov9-large'"),
    ("config", {**TINY.to_dict(), "registers": 4}, "unknown fields"),
    ("config", None, "its model configuration cannot be used"),
    ("config", {}, "backbone"),
])
def test_a_file_of_ours_that_this_version_cannot_read_is_refused(tmp_path, weights, field, value, message):
    path = tmp_path / "ours.pth"
    save_checkpoint(model_of(weights), path, pretrained=False)
    content = torch.load(path)
    content[field] = value
    assert_refused(write(content, path), message)


class Evil:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


class Foreign:
    """A class of some other project, harmless but unknown."""


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_its_code_never_runs(tmp_path, weights, legacy):
    proof = tmp_path / "proof"
    for evil, name in (
        (Evil(os.system, f"touch {proof}"), r"(posix|nt)\.system"),
        (Evil(open, str(proof), "w"), "open"),
        (Evil(eval, f"open({str(proof)!r}, 'w')"), "eval"),
    ):
        content = {"model_state_dict": weights, "recalls": evil}
        path = write(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not legacy)
        assert_refused(path, f"refused, it asks to run .*{name}")
        assert not proof.exists()
    torch.load(path, weights_only=False)  # the trap works where nothing guards against it
    assert proof.exists()


def test_a_pickle_of_a_foreign_class_is_refused(tmp_path, weights):
    path = write({"model_state_dict": weights, "extra": Foreign()}, tmp_path / "foreign.pth")
    assert_refused(path, "refused, it asks to run .*Foreign")


def test_a_mapped_file_gives_the_same_model_without_a_copy(tmp_path):
    save_checkpoint(model := build_model(TINY, seed=3), tmp_path / "a.pth", pretrained=False)
    checkpoint = read_checkpoint(tmp_path / "a.pth", mapped=True)
    shared, own = load_model(checkpoint, shared=True), load_model(checkpoint)
    assert fingerprint(shared) == fingerprint(own) == fingerprint(model)
    held = checkpoint.state_dict["backbone.cls_token"].data_ptr()
    assert shared.backbone.cls_token.data_ptr() == held != own.backbone.cls_token.data_ptr()
    assert [p.requires_grad for p in shared.parameters()] == [p.requires_grad for p in build_model(TINY).parameters()]


@pytest.mark.slow
def test_loading_imports_no_compiler(tmp_path):
    """torch's for "meta" tensors, with sympy and torch.distributed, takes longer than reading a base model."""
    save_checkpoint(build_model(TINY, seed=3), tmp_path / "a.pth", pretrained=False)
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from model import load_model; "
              f"load_model({str(tmp_path / 'a.pth')!r}); print(*sys.modules)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"sympy", "torch._dynamo", "torch.fx.experimental.symbolic_shapes"} & {*done.stdout.split()}


# --- a shorter float descriptor

def test_a_cut_model_gives_the_first_dimensions(tmp_path):
    config = ModelConfig(backbone="dinov2-tiny", nested_floats=(16, 64, 512), code_bits=64)
    model = build_model(config, seed=0).eval()
    save_checkpoint(model, tmp_path / "whole.pth", pretrained=False, training={"script": "train.py"})
    checkpoint = read_checkpoint(tmp_path / "whole.pth")
    images = torch.randn(3, 3, 28, 42)
    with torch.no_grad():
        whole = model(images)
    for length, nested in ((16, ()), (64, (16, 64)), (100, ()), (512, (16, 64, 512))):
        cut = cut_floats(checkpoint, length)
        assert cut.config == dataclasses.replace(config, float_dim=length, nested_floats=nested)
        assert cut.training is None and cut.trainings == checkpoint.trainings != []
        save_checkpoint(load_model(cut), tmp_path / "cut.pth", pretrained=cut.pretrained, history=cut.history)
        assert read_checkpoint(tmp_path / "cut.pth").trainings == checkpoint.trainings
        with torch.no_grad():
            out = load_model(tmp_path / "cut.pth")(images)
        assert torch.allclose(out.floating, normalize(whole.floating[:, :length], dim=1), atol=1e-6)
        assert torch.equal(out.binary, whole.binary)
        assert (fingerprint(load_model(cut)) == fingerprint(model)) == (length == 512)


@pytest.mark.parametrize(("fields", "length", "message"), [
    ({}, 513, "float_dim 513: expected 1 to the 512 dimensions of state dict"), ({}, 0, "float_dim 0: expected 1"),
    ({"branches": ("binary",)}, 8, "a float descriptor that it does not have cannot be cut"),
    ({"aggregation": "salad"}, 8, "a float descriptor of salad cannot be cut"),
    ({"aggregation": "boq"}, 8, "a float descriptor of boq cannot be cut")])
def test_a_model_that_cannot_be_cut(fields, length, message):
    with torch.device("meta"):
        model = SelaVPRpp(ModelConfig(backbone="dinov2-tiny", **fields))
    with pytest.raises(CheckpointError, match=message):
        cut_floats(Checkpoint(model.config, model.state_dict()), length)
