"""SelaVPR's files in both directions, every file that must be refused, and torch.hub."""

import sys

import numpy as np
import pytest
import torch
from fill import batch, fill
from paths import ROOT
from published import filled_weights

from model import (
    CheckpointError,
    ModelConfig,
    SelaVPR,
    SelaVPRConfig,
    build_model,
    build_selavpr,
    find_released_selavpr,
    load_foundation,
    load_model,
    load_selavpr,
    published_selavpr_state_dict,
    published_state_dict,
    read_selavpr,
    save_checkpoint,
    save_selavpr,
    selavpr_fingerprint,
)
from model.selavpr import checkpoint as files

TINY = SelaVPRConfig(backbone="dinov2-tiny")


def weights_of(config: SelaVPRConfig) -> dict:
    """Published-format weights that depend on names and shapes only."""
    with torch.device("meta"):
        published = published_selavpr_state_dict(SelaVPR(config))
    return fill({name: tuple(value.shape) for name, value in published.items()})


@pytest.fixture(scope="module")
def weights():
    return weights_of(TINY)


def write(content, path):
    torch.save(content, path)
    return path


def assert_refused(path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        load_selavpr(path)
    assert "\n" not in str(error.value) and path.name in str(error.value)


# What loads


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("backbone", ["dinov2-tiny", pytest.param("dinov2-small-reg", marks=pytest.mark.slow)])
def test_published_format_loads_and_ours_exports_to_it(tmp_path, backbone, prefix):
    config = SelaVPRConfig(backbone=backbone)
    weights = weights_of(config)
    named = {prefix + name: value for name, value in weights.items()}
    bare = load_selavpr(write(named, tmp_path / "bare.pth"))
    training_file = {"epoch_num": 3, "model_state_dict": named, "optimizer_state_dict": {"state": {}},
                     "recalls": np.array([90.8, 96.4]), "best_r5": np.float64(96.4), "not_improved_num": 0}
    trained = load_selavpr(write(training_file, tmp_path / "training.pth"))
    for model in (bare, trained):
        assert model.config == config and not model.training
        exported = published_selavpr_state_dict(model)
        assert exported.keys() == weights.keys()
        assert all(torch.equal(exported[name], value) for name, value in weights.items())
    assert selavpr_fingerprint(bare) == selavpr_fingerprint(trained)
    checkpoint = read_selavpr(tmp_path / "training.pth")
    assert (checkpoint.pretrained, checkpoint.training, checkpoint.licence) == (None, None, "Apache-2.0")


@pytest.mark.parametrize("backbone", ["dinov2-tiny", "deit-tiny"])
def test_our_file_carries_its_configuration(tmp_path, backbone):
    model, path = build_selavpr(SelaVPRConfig(backbone=backbone), seed=1).eval(), tmp_path / "ours.pth"
    save_selavpr(model, path, pretrained=True, training={"epoch": 2, "script": "train_selavpr.py", "earlier": []})
    checkpoint = read_selavpr(path)
    assert checkpoint.config == model.config
    assert checkpoint.pretrained is True and checkpoint.licence == "Apache-2.0"
    assert checkpoint.training["epoch"] == 2 and checkpoint.trainings[0]["script"] == "train_selavpr.py"
    assert torch.load(path, weights_only=True)["licence"] == "Apache-2.0"
    assert [file.name for file in tmp_path.iterdir()] == ["ours.pth"]
    loaded = load_selavpr(path)
    assert not loaded.training and selavpr_fingerprint(loaded) == selavpr_fingerprint(model)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad}
    patch = model.config.vit.patch
    images = batch(range(2), 2 * patch, 3 * patch)
    with torch.no_grad():
        for found, expected in zip(loaded(images), model(images), strict=True):
            assert torch.equal(found, expected)
    save_selavpr(model, path, pretrained=False)
    assert read_selavpr(path).licence is None


def test_fingerprint_changes_with_any_weight(weights, tmp_path):
    model = load_selavpr(write(weights, tmp_path / "model.pth"))
    before = selavpr_fingerprint(model)
    for name, parameter in model.named_parameters():
        if name in ("pool.p", "backbone.blocks.2.adapter1.up.bias", "local_adapt.upconv2.weight", "backbone.cls_token"):
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.view(-1)[0] += 1e-3
                assert selavpr_fingerprint(model) != before, name
                parameter.copy_(kept)
    assert selavpr_fingerprint(model) == before


@pytest.mark.parametrize("backbone", ["dinov2-tiny", "deit-tiny"])
def test_an_official_file_fills_the_backbone_and_leaves_the_rest(tmp_path, backbone):
    model = build_selavpr(SelaVPRConfig(backbone=backbone), seed=1)
    official = {name: torch.randn_like(value) for name, value in model.backbone.state_dict().items()
                if ".adapter" not in name}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert load_foundation(model, write(official, tmp_path / "official.pth")) == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, official.get(name.removeprefix("backbone."), before[name]))
    write({**official, "surplus": torch.ones(1)}, tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match=rf"official.pth \(into {backbone}\) does not fit: unexpected surplus"):
        load_foundation(model, tmp_path / "official.pth")


# What is refused


def test_files_of_the_other_model_are_refused_by_name(tmp_path, weights):
    other = ModelConfig(backbone="dinov2-tiny")
    published = write({f"module.{name}": value for name, value in filled_weights(other).items()}, tmp_path / "pp.pth")
    assert_refused(published, r"a SelaVPR\+\+ model \(it has .*\), expected a SelaVPR one")
    float_only = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=0)
    write(published_state_dict(float_only), tmp_path / "float.pth")
    assert_refused(tmp_path / "float.pth", r"a SelaVPR\+\+ model \(it has .*\), expected a SelaVPR one")
    save_checkpoint(float_only, tmp_path / "ours.pth", pretrained=False)
    assert_refused(tmp_path / "ours.pth", r"a SelaVPR\+\+ model, expected a SelaVPR one")

    with pytest.raises(CheckpointError, match=r"a SelaVPR model \(it has LocalAdapt\), expected a SelaVPR\+\+ one"):
        load_model(write(weights, tmp_path / "published.pth"))
    save_selavpr(build_selavpr(TINY, seed=0), tmp_path / "own.pth", pretrained=False)
    with pytest.raises(CheckpointError, match=r"own.pth: a SelaVPR model, expected a SelaVPR\+\+ one"):
        load_model(tmp_path / "own.pth")


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: w.pop("aggregation.1.p"), "does not fit: missing pool.p"),
    (lambda w: w.pop("LocalAdapt.upconv2.bias"), "does not fit: missing local_adapt.upconv2.bias"),
    (lambda w: w.pop("backbone.blocks.1.adapter2.D_fc1.weight"), "missing backbone.blocks.1.adapter2.down.weight"),
    (lambda w: w.update(surplus=torch.ones(1)), "does not fit: unexpected surplus"),
    (lambda w: w.update({"LocalAdapt.upconv1.weight": torch.ones(768, 256, 3, 3)}),
     r"another size of model: local_adapt.upconv1.weight is \(768, 256, 3, 3\), expected \(192, 256, 3, 3\)"),
    (lambda w: w.update({"backbone.cls_token": torch.ones(1, 1, 200)}), "no known backbone is 200 wide and 4 blocks"),
    (lambda w: w.update({"backbone.register_tokens": torch.ones(1, 4, 192)}), "4 blocks deep, with 4 registers; known"),
    (lambda w: w.pop("backbone.cls_token"), r"not a SelaVPR model \(no backbone.cls_token\)$"),
    (lambda w: w.update({"module.aggregation.1.p": torch.ones(1)}), "the same weight under two names"),
    (lambda w: w.update(cls_token=w.pop("backbone.cls_token")), "a backbone's file belongs to --foundation_model_path"),
])
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, weights, change, message):
    changed = dict(weights)
    change(changed)
    assert_refused(write(changed, tmp_path / "model.pth"), message)


def test_our_files_with_another_version_or_configuration_are_refused(tmp_path):
    path = tmp_path / "ours.pth"
    save_selavpr(build_selavpr(TINY, seed=0), path, pretrained=False)
    content = torch.load(path, weights_only=True)
    assert_refused(write({**content, "version": 7}, path), "format version 7, this project reads 1")
    assert_refused(write({**content, "config": {"backbone": "dinov2-tiny", "rings": 9}}, path),
                   r"its model configuration cannot be used: .* unknown fields \['rings'\]")
    assert_refused(write({**content, "config": {"backbone": "resnet50"}}, path), "unknown backbone 'resnet50'")


def test_another_family_is_not_exported():
    with torch.device("meta"):
        model = SelaVPR(SelaVPRConfig(backbone="dinov3-small"))
    with pytest.raises(CheckpointError, match="dinov3-small: the published format knows DINOv2 alone; save_selavpr ke"):
        published_selavpr_state_dict(model)


# torch.hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch.hub's folder of checkpoints, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("backbone", "weights", "name", "page"), [
    ("dinov2-large", "msls", "SelaVPR_msls.pth", "1vy05l0JTEgr6n8iSoz_P_yjWfEzFPAkV"),
    ("dinov2-large", "pitts30k", "SelaVPR_pitts30k.pth", "1LKTZZRHfMH3dY3UPagCt2TIlMN5LguGO"),
    ("dinov2-large-reg", "msls", "SelaVPR_reg4_msls.pth", "16Qkr6MGe3k0kYtFfw3YLQXZFn4c9YvJk")])
def test_a_file_that_is_not_there_is_asked_for(cache, backbone, weights, name, page):
    with pytest.raises(CheckpointError) as error:
        find_released_selavpr(backbone, weights)
    assert str(error.value) == (f"{name} is not in {cache}: open https://drive.google.com/file/d/{page}/view in a "
                                f"browser and save the file as {cache / name}")


@pytest.mark.parametrize("asked", [("dinov2-base", "msls"), ("dinov2-large", "sf"), ("dinov2-large-reg", "pitts30k")])
def test_what_is_not_published_is_one_line(cache, asked):
    with pytest.raises(ValueError, match=f"no SelaVPR is published for {' '.join(asked)}; published are: dinov2-large "
                                         "msls; dinov2-large pitts30k; dinov2-large-reg msls"):
        find_released_selavpr(*asked)


def test_a_page_saved_in_place_of_the_file_and_another_model_are_refused(cache, monkeypatch, weights):
    (cache / "SelaVPR_msls.pth").write_text("<!DOCTYPE html><title>Google Drive - virus scan warning</title>")
    with pytest.raises(CheckpointError, match="SelaVPR_msls.pth: not a readable torch checkpoint"):
        find_released_selavpr("dinov2-large", "msls")
    write(weights, cache / "SelaVPR_msls.pth")
    with pytest.raises(CheckpointError, match="SelaVPR_msls.pth: holds a model on dinov2-tiny, expected dinov2-large"):
        find_released_selavpr("dinov2-large", "msls")
    monkeypatch.setitem(files.RELEASED_SELAVPR, ("dinov2-tiny", "msls"), ("SelaVPR_msls.pth", "nowhere"))
    found = find_released_selavpr("dinov2-tiny", "msls")
    assert found.config == TINY and found.pretrained is True


def test_hub_gives_the_published_pair(cache, monkeypatch, weights):
    options = {"source": "local", "trust_repo": True}
    torch.manual_seed(5)
    model = torch.hub.load(str(ROOT), "SelaVPR", backbone="dinov2-tiny", pretrained=False, **options)
    torch.manual_seed(5)
    again = torch.hub.load(str(ROOT), "SelaVPR", backbone="dinov2-tiny", pretrained=False, **options)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    package = next(module for name, module in sys.modules.items()
                   if name.startswith("selavprpp_") and name.endswith(".selavpr.checkpoint"))
    monkeypatch.setitem(package.RELEASED_SELAVPR, ("dinov2-tiny", "pitts30k"), ("tiny.pth", "nowhere"))
    with pytest.raises(ValueError, match="tiny.pth is not in .*: open nowhere in a browser and save the file as "):
        torch.hub.load(str(ROOT), "SelaVPR", backbone="dinov2-tiny", weights="pitts30k", **options)
    path = write({"model_state_dict": {f"module.{name}": value for name, value in weights.items()}}, cache / "tiny.pth")
    model = torch.hub.load(str(ROOT), "SelaVPR", backbone="dinov2-tiny", weights="pitts30k", **options)
    assert not any(module.training for module in model.modules())
    images = batch(range(2), 42, 28)
    with torch.no_grad():
        outputs, expected = model(images), load_selavpr(path)(images)
    assert type(outputs) is tuple and [tuple(part.shape) for part in outputs] == [(2, 9, 5, 128), (2, 192)]
    assert torch.equal(outputs[0], expected.local) and torch.equal(outputs[1], expected.floating)
