"""SelaVPR's network: the published code's values, the heads by naive loops, what learns, every backbone."""

import copy

import numpy as np
import pytest
import torch
from fill import batch, fill, image
from paths import DATA
from torch.nn import functional as F

from losses import local_feature_loss, mutual_nearest, triplet_loss
from model import (
    BACKBONES,
    SelaVPR,
    SelaVPRConfig,
    build_selavpr,
    published_selavpr_state_dict,
    selavpr_fingerprint,
)
from model.selavpr.published_names import to_own_names, to_published_names

GOLDEN = np.load(DATA / "golden_selavpr.npz")
TOKENS = np.load(DATA / "golden_selavpr_global.npz")
# dinov3-small and dinov2-small-reg have registers; weights of both take about a second.
SMALL = ["dinov2-tiny", "deit-tiny", *(pytest.param(name, marks=pytest.mark.slow)
                                       for name in ("dinov2-small-reg", "dinov3-small", "dinov2-narrow"))]


def filled(backbone: str, known: dict | None = None) -> SelaVPR:
    """Filled by published names; weights that are `known` already are shared."""
    with torch.device("meta"):
        model = SelaVPR(SelaVPRConfig(backbone=backbone))
    shapes = {to_published_names(name): tuple(value.shape) for name, value in model.state_dict().items()}
    weights = {to_own_names(name): value for name, value in fill(
        {name: shape for name, shape in shapes.items() if to_own_names(name) not in (known or {})}).items()}
    weights |= {name: value for name, value in (known or {}).items() if name not in weights}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    model.load_state_dict(weights, assign=True)  # which forgets what learns
    for name, p in model.named_parameters():
        p.requires_grad_(name in learning)
    return model.eval()


@pytest.fixture(scope="module")
def large():
    return filled("dinov2-large")


def assert_descriptors(outputs, tag: str) -> None:
    """Image 0 alone is recorded."""
    floating, local = (part[:1].numpy() for part in outputs)
    assert floating.shape == (1, 1024) and local.shape == (1, 61, 61, 128)
    for found, part in ((floating, "global"), (local[:, ::8, ::8, :16], "local"),
                        (local[:, -3:, -3:, -8:], "local_tail")):
        assert np.abs(found - GOLDEN[f"{tag}.{part}"]).max() <= 1e-5, (tag, part)
    assert np.abs(local.sum((1, 2)) - GOLDEN[f"{tag}.local_channel_sum"]).max() <= 0.01  # of 3721


@pytest.mark.slow
def test_large_equals_the_published_code(large):
    """Outputs, and on the way to them tokens 0 to 3 and the last two, 16 channels; then the mutual pairs."""
    assert selavpr_fingerprint(large) == GOLDEN["fingerprint"][0]
    found, first = {}, large.backbone.blocks[0]
    hooks = [module.register_forward_hook(lambda module, inputs, output, name=name: found.update({name: output}))
             for name, module in {
                 "block0.attn": first.attn, "block0.adapter1": first.adapter1, "block0.mlp": first.mlp,
                 "block0.adapter2": first.adapter2, "block0": first, "block11": large.backbone.blocks[11],
                 "block23": large.backbone.blocks[23], "norm": large.backbone.norm, "gem": large.pool,
                 "upconv1": large.local_adapt.upconv1, "upconv2": large.local_adapt.upconv2}.items()]
    first_input = first.register_forward_pre_hook(lambda module, inputs: found.update({"x0": inputs[0]}))
    with torch.no_grad():
        outputs = large(batch(range(2), 224, 224))
    for hook in (*hooks, first_input):
        hook.remove()
    assert_descriptors(outputs, "eval")
    found["block0.adapter1"] = found["block0.attn"] + found["block0.adapter1"]  # recorded with its inner skip
    found["x_norm_patchtokens"] = found["norm"][:, 1:]
    for part in TOKENS:
        tokens = torch.cat([found[part][0, :4, :16], found[part][0, -2:, :16]]).numpy()
        assert np.abs(tokens - TOKENS[part]).max() <= 1e-5 * np.abs(TOKENS[part]).max(), part
    for value, part in ((found["gem"], "gem"), (F.relu(found["upconv1"])[:, :16, :3, :3], "upconv1_relu"),
                        (found["upconv2"][:, :16, :3, :3], "upconv2")):
        assert np.abs(value[:1].numpy() - GOLDEN[f"mid.{part}"]).max() <= 1e-5, part
    local = outputs.local
    assert mutual_nearest(local[:1].expand(2, -1, -1, -1), local).mutual.sum(dim=1).tolist() == pytest.approx(
        GOLDEN["eval.mutual_counts"], abs=2)


@pytest.mark.slow
def test_large_with_registers_and_at_the_start_of_training_equals_the_published_code(large):
    registers = filled("dinov2-large-reg", large.state_dict())
    assert selavpr_fingerprint(registers) == GOLDEN["fingerprint"][1]
    images, adapters = batch([0], 224, 224), {}
    with torch.no_grad():
        assert_descriptors(registers(images), "reg")
        for name, value in large.state_dict().items():
            if ".up." in name:
                adapters[name] = value.clone()
        large.initialise_adapters()
        assert_descriptors(large(images), "init")
    large.load_state_dict(adapters, strict=False)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch finds no CUDA device")])])
def test_training_steps_equal_the_published_code(large, steps, monkeypatch):
    """A query, a positive and two negatives: losses and gradients; and steps of Adam, a minute on a processor."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # which rounds convolutions to 11 bits
    query = 0.75 * image(3000, 224, 224) + 0.55 * image(3001, 224, 224)
    images = torch.stack([query, 0.65 * image(3000, 224, 224) + 0.65 * image(3002, 224, 224),
                          0.9 * query + 0.3 * image(3003, 224, 224), 0.75 * query + 0.4 * image(3020, 224, 224)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, images = copy.deepcopy(large).to(device).train(), images.to(device)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    assert len(GOLDEN["train.losses"]) == 3
    for step, expected in enumerate(GOLDEN["train.losses"][:steps]):
        floating, local = model(images)
        global_loss = sum(triplet_loss(floating[:1], floating[1:2], floating[k:k + 1]) for k in (2, 3)) / 2
        local_loss = sum(local_feature_loss(local[:1], local[1:2], local[k:k + 1]) for k in (2, 3)) / 2
        loss = global_loss + local_loss
        assert [part.item() for part in (loss, global_loss, local_loss)] == pytest.approx(expected, rel=1e-4)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            mutual = mutual_nearest(local[:1].expand(4, -1, -1, -1), local).mutual.sum(dim=1)
            assert mutual.tolist() == pytest.approx(GOLDEN["train.mutual_counts"], abs=2)
            assert np.abs(floating.detach().cpu().numpy() - GOLDEN["train.global"]).max() <= 1e-5
            assert_published_gradients(model)
        optimiser.step()


def assert_published_gradients(model: SelaVPR) -> None:
    gradients = {to_published_names(name): p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    assert sorted(gradients) == sorted(GOLDEN["train.parameters"])
    for i, name in enumerate(GOLDEN["train.parameters"]):
        norm = GOLDEN["train.grad_norm"][i]
        tolerance = max(1e-3, 20 * GOLDEN["train.grad_rel_noise"][i]) * norm
        assert abs(gradients[name].norm().item() - norm) <= tolerance, name
        head = gradients[name].flatten()[:8].numpy()
        assert np.abs(head - GOLDEN["train.grad_head"][i][:len(head)]).max() <= 3 * tolerance, name


# The heads, by naive loops.


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.sqrt((vector**2).sum())


def naive_global(patches: np.ndarray, p: float) -> np.ndarray:
    """(rows, columns, C) -> (C,)."""
    total, (rows, columns, _) = 0, patches.shape
    for i in range(rows):
        for j in range(columns):
            total = total + np.maximum(unit(patches[i, j]), 1e-6)**p
    return unit((total / (rows * columns))**(1 / p))


def naive_upconv(patches: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(rows, columns, C) -> (2 rows - 1, 2 columns - 1, D): every input location is stamped onto 3 x 3 of the output,
    two apart; a border of one is cut off."""
    rows, columns, _ = patches.shape
    out = np.zeros((2 * rows + 1, 2 * columns + 1, weight.shape[1]))
    for i in range(rows):
        for j in range(columns):
            for y in range(3):
                for x in range(3):
                    out[2 * i + y, 2 * j + x] += patches[i, j] @ weight[:, :, y, x]
    return out[1:-1, 1:-1] + bias


def naive_heads(model: SelaVPR, tokens: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    before = len(tokens) - grid[0] * grid[1]  # the class token, and registers
    patches = tokens[before:].reshape(*grid, -1)
    hidden = np.maximum(naive_upconv(patches, *(state[f"local_adapt.upconv1.{w}"] for w in ("weight", "bias"))), 0)
    dense = naive_upconv(hidden, *(state[f"local_adapt.upconv2.{w}"] for w in ("weight", "bias")))
    return naive_global(patches, state["pool.p"].item()), np.stack([[unit(f) for f in row] for row in dense])


@pytest.mark.parametrize(("backbone", "size"), [
    pytest.param("dinov2-tiny", (112, 448), marks=pytest.mark.slow), ("dinov2-tiny", (28, 70)),
    ("dinov2-tiny", (70, 28)), ("dinov2-narrow", (14, 14))])
def test_heads_of_any_shape_equal_naive_loops(backbone, size):
    """112 x 448 is what the published code, whose grid is 16 x 16, takes and scrambles."""
    model = filled(backbone).double()
    model.pool.p.data.fill_(2.5)
    images = batch([0], *size).double()
    grid = size[0] // 14, size[1] // 14
    with torch.no_grad():
        floating, local = model(images)
        *_, tokens = model.backbone.stream_tokens(images)
        expected = naive_heads(model, model.backbone.norm(tokens)[0].numpy(), grid)
    assert local.shape == (1, 4 * grid[0] - 3, 4 * grid[1] - 3, 128)
    assert floating.dtype == local.dtype == torch.float32
    assert np.abs(floating[0].numpy() - expected[0]).max() <= 1e-6
    assert np.abs(local[0].numpy() - expected[1]).max() <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(1, (448, 448)), (2, (112, 112)), (3, (322, 322)), (2, (224, 308))])
def test_a_descriptor_an_image_whatever_their_size(count, size):
    """The published code gives four for one image of 448 x 448, and errors for the others."""
    model = filled("dinov2-tiny")
    images = batch(range(count), *size)
    with torch.no_grad():
        floating, local = model(images)
        alone = model(images[-1:])
    assert floating.shape == (count, 192)
    assert local.shape == (count, size[0] // 14 * 4 - 3, size[1] // 14 * 4 - 3, 128)
    for part in (floating, local):
        assert torch.allclose(part.norm(dim=-1), torch.ones(part.shape[:-1]))
    assert (alone.floating - floating[-1:]).abs().max() <= 1e-5 and (alone.local - local[-1:]).abs().max() <= 1e-5


@pytest.mark.parametrize("backbone", SMALL)
def test_tokens_before_the_patches_do_not_count_in_the_heads(backbone):
    model = build_selavpr(SelaVPRConfig(backbone=backbone), seed=0).eval()
    images = torch.randn(1, 3, 2 * model.config.vit.patch, 3 * model.config.vit.patch)
    before = 1 + model.config.vit.registers
    with torch.no_grad():
        expected = model(images)

        def overwrite(module, inputs, output):
            return torch.cat([torch.full_like(output[:, :before], 7.0), output[:, before:]], dim=1)

        with model.backbone.norm.register_forward_hook(overwrite):
            found = model(images)
    assert torch.equal(found.floating, expected.floating) and torch.equal(found.local, expected.local)
    assert found.floating.shape == (1, model.config.vit.dim) and found.local.shape == (1, 5, 9, 128)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_fits(backbone):
    with torch.device("meta"):
        model = SelaVPR(SelaVPRConfig(backbone=backbone))
    assert model.local_adapt.upconv1.weight.shape == (model.config.vit.dim, 256, 3, 3)
    assert model.local_adapt.upconv2.weight.shape == (256, 128, 3, 3)
    assert len(model.backbone.blocks) == model.config.vit.depth


def test_local_features_are_left_out_where_not_asked_for():
    model = filled("dinov2-tiny")
    images = batch(range(2), 28, 42)
    called = []
    model.local_adapt.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        without = model(images, local=False)
        assert without.local is None and not called
        assert torch.equal(without.floating, model(images).floating) and called


def test_descriptors_are_float32_under_autocast():
    model = filled("dinov2-tiny")
    images = batch(range(2), 28, 42)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images)
    for part, expected in zip(rounded, exact, strict=True):
        assert part.dtype == torch.float32
        assert torch.allclose(part.norm(dim=-1), torch.ones(part.shape[:-1]))
        assert (part * expected).sum(dim=-1).min() > 0.99


def test_errors_are_one_line():
    model = build_selavpr(SelaVPRConfig(backbone="dinov2-tiny"), seed=0)
    with pytest.raises(ValueError, match="image size 28 x 30 must be multiples of 14"):
        model(torch.zeros(1, 3, 28, 30))
    with pytest.raises(ValueError, match="images must be floats, ImageNet-normalised, got torch.uint8"):
        model(torch.zeros(1, 3, 28, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match="unknown backbone 'resnet50'; choose one of dinov2-tiny,"):
        SelaVPRConfig(backbone="resnet50")
    with pytest.raises(ValueError, match=r"unknown fields \['rings'\]"):
        SelaVPRConfig.from_dict({"backbone": "dinov2-tiny", "rings": 9})


# What learns.


def learns(name: str) -> bool:
    return ".adapter" in name or name == "pool.p" or name.startswith("local_adapt.")


@pytest.mark.parametrize("backbone", SMALL)
def test_adapters_p_and_the_transposed_convolutions_learn(backbone):
    model = build_selavpr(SelaVPRConfig(backbone=backbone), seed=0)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if learns(name)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    patch = model.config.vit.patch
    floating, local = model(torch.randn(3, 3, 2 * patch, 3 * patch))
    (triplet_loss(*floating.split(1), margin=9) + mutual_similarities(local)).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {name for name in before
                                                                                    if learns(name)}
    optimiser.step()
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == {
        name for name in before if learns(name)}


def mutual_similarities(local: torch.Tensor) -> torch.Tensor:
    """With equal parts for the positive and the negative a triplet may teach nothing; this always does."""
    nearest, _ = mutual_nearest(local[:1], local[1:2])
    return -(local[0].flatten(0, 1) * local[1].flatten(0, 1)[nearest[0]]).sum()


def test_published_counts_of_what_learns():
    with torch.device("meta"):
        model = SelaVPR(SelaVPRConfig())
    assert SelaVPRConfig().backbone == "dinov2-large"
    assert len(model.state_dict()) == 540
    assert sum(p.numel() for p in model.parameters()) == 357_428_609
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 53_059_969


def test_frozen_parts_stay_in_eval_mode():
    model = build_selavpr(SelaVPRConfig(backbone="dinov2-tiny"), seed=0)
    assert model.training and not any(module.training for module in model.backbone.modules())
    assert model.eval().train().local_adapt.training and not model.backbone.training
    assert not any(module.training for module in model.eval().modules())


def test_the_start_of_training_is_the_backbone():
    model = filled("dinov2-tiny")
    images = batch(range(2), 28, 42)
    with torch.no_grad():
        before = model(images)
        model.initialise_adapters()
        found = model(images)
        for block in model.backbone.blocks:
            assert not any(p.any() for adapter in (block.adapter1, block.adapter2) for p in adapter.up.parameters())
            block.adapter1.forward = block.adapter2.forward = torch.zeros_like
        bare = model(images)
    assert torch.equal(found.floating, bare.floating) and torch.equal(found.local, bare.local)
    assert (before.floating - found.floating).abs().max() > 1e-3


def test_a_seed_repeats_the_weights():
    config = SelaVPRConfig(backbone="dinov2-tiny")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = build_selavpr(config, seed=5).state_dict()
    assert torch.equal(torch.rand(1), expected)  # torch's own generator is left alone
    second, third = build_selavpr(config, seed=5).state_dict(), build_selavpr(config, seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["local_adapt.upconv1.weight"], third["local_adapt.upconv1.weight"])
    assert 0.01 < first["backbone.blocks.0.adapter1.up.weight"].std() < 0.03 and first["pool.p"].item() == 3


def test_published_names_are_reached_and_left_by_one_table():
    with torch.device("meta"):
        model = SelaVPR(SelaVPRConfig(backbone="dinov2-tiny"))
    published = published_selavpr_state_dict(model)
    assert [to_own_names(name) for name in published] == [*model.state_dict()]
    assert [to_own_names(f"module.{name}") for name in published] == [*model.state_dict()]
    assert {"aggregation.1.p", "LocalAdapt.upconv1.weight", "backbone.blocks.3.adapter2.D_fc1.bias"} <= {*published}
