"""The backbone's variants against timm, the published SelaVPR and formulas; what of it learns, and what that keeps."""

import itertools
import math

import numpy as np
import oracle
import pytest
import torch
from fill import batch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from model import BACKBONES
from model.backbone import VisionTransformer as Backbone
from model.config import DINOV2, ViT
from model.layers.vanilla import VanillaAdapter

SIZE = {"dim": 64, "depth": 3, "heads": 2}
KINDS = {"plain": {}, "giant": {"swiglu": 88}, "registers": {"registers": 4},
         "giant-registers": {"swiglu": 88, "registers": 4}}
TUNINGS = {"side": range(3, 3), "full": range(3), "partial:1": range(2, 3), "partial:2": range(1, 3),
           "selavpr": range(3)}
EMBEDDING = ("cls_token", "pos_embed", "register_tokens", "patch_embed.proj.weight", "patch_embed.proj.bias")


def dinov2(*, dim: int, depth: int, heads: int, inner_adapters: bool = False, **more) -> Backbone:
    return Backbone(ViT(dim, depth, heads, "none", 1, None, **more), inner_adapters=inner_adapters)


def randomised(**options) -> Backbone:
    """A small backbone in which no parameter is 0, 1 or without effect on the last tokens."""
    backbone = dinov2(**{**SIZE, **options})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.8 + 0.2 * noise if "norm" in name or "gamma" in name else 0.15 * noise)
    return backbone


def last(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    *_, tokens = backbone.stream_tokens(images)
    return backbone.norm(tokens)


def loss_of(tokens: torch.Tensor) -> torch.Tensor:
    """A scalar to which every token and channel contributes differently."""
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1), dtype=tokens.dtype)
    return (tokens * weights).mean()


def gradients(backbone: Backbone, images: torch.Tensor) -> dict[str, torch.Tensor]:
    backbone.zero_grad()
    loss_of(last(backbone, images)).backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


# timm: its own attention, SwiGLU, registers and order of tokens, and its own reader of the official files.


def timm_shape(*, dim: int, depth: int, heads: int, swiglu: int | None = None, registers: int = 0) -> dict:
    gated = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2 * swiglu / dim} if swiglu else {}
    return {"patch_size": 14, "embed_dim": dim, "depth": depth, "num_heads": heads, "init_values": 1e-5,
            "num_classes": 0, "reg_tokens": registers, "no_embed_class": registers > 0, **gated}


def timm_model(state: dict, size: tuple[int, int], **shape) -> VisionTransformer:
    model = VisionTransformer(img_size=size, **timm_shape(**shape)).to(state["cls_token"].dtype).eval()
    model.load_state_dict(checkpoint_filter_fn(dict(state), model))
    return model


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_equal_timms_at_the_native_grid(kind):
    backbone = randomised(**KINDS[kind])
    images = batch([0], 518, 518)
    tokens = last(backbone, images)
    assert tokens.shape == (1, 1 + KINDS[kind].get("registers", 0) + 37 * 37, 64)
    expected = timm_model(backbone.state_dict(), (518, 518), **SIZE, **KINDS[kind]).forward_features(images)
    assert (tokens - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_tokens_equal_timms_with_positions_resized_by_hand(kind):
    backbone = randomised(**KINDS[kind]).double()
    images = batch(range(2), 42, 70).double()
    state = backbone.state_dict()
    state["pos_embed"] = resized_by_hand(backbone, 3, 5)
    expected = timm_model(state, (42, 70), **SIZE, **KINDS[kind]).forward_features(images)
    assert (last(backbone, images) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_timms(kind):
    # A table of 3 x 3 positions: that of images of 42 x 42 pixels.
    backbone = randomised(**KINDS[kind], family=DINOV2._replace(table=3)).double()
    images = batch(range(2), 42, 42).double()
    twin = timm_model(backbone.state_dict(), (42, 42), **SIZE, **KINDS[kind])
    loss_of(twin.forward_features(images)).backward()
    expected = {name: p.grad for name, p in twin.named_parameters()}
    backbone.set_trained("full", range(3))
    found = gradients(backbone, images)
    assert torch.equal(found["pos_embed"][:, :1], found["cls_token"])
    # Where there are registers timm holds the class token's position in the token, and its reader adds the two.
    if "registers" in KINDS[kind]:
        found["cls_token"] = torch.zeros_like(found["cls_token"])
    found = checkpoint_filter_fn({**found, "mask_token": torch.zeros(1, 64)}, twin)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        assert (found[name] - gradient).abs().max() <= 1e-10 * gradient.abs().max(), name


def official_names(*, dim: int, depth: int, swiglu: int | None, registers: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of dinov2_vit*14[_reg4]_pretrain.pth, in the files' order."""
    mlp = {"w12": (2 * swiglu, dim), "w3": (dim, swiglu)} if swiglu else {"fc1": (4 * dim, dim), "fc2": (dim, 4 * dim)}
    linears = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "ls1": None, "norm2": (dim,),
               **{f"mlp.{name}": shape for name, shape in mlp.items()}, "ls2": None}
    listed = [("cls_token", (1, 1, dim)), ("pos_embed", (1, 1370, dim))]
    listed += [("register_tokens", (1, registers, dim))] if registers else []
    listed += [("mask_token", (1, dim))]
    listed += [("patch_embed.proj.weight", (dim, 3, 14, 14)), ("patch_embed.proj.bias", (dim,))]
    for number in range(depth):
        for name, shape in {"norm1": (dim,), **linears}.items():
            name = f"blocks.{number}.{name}"
            listed += [(f"{name}.weight", shape), (f"{name}.bias", shape[:1])] if shape else [(f"{name}.gamma", (dim,))]
    return [*listed, ("norm.weight", (dim,)), ("norm.bias", (dim,))]


ENTRIES = {"small": 175, "base": 175, "large": 343, "giant": 567}  # one more with registers
VALUES = {"small": 22_056_576, "base": 86_580_480, "large": 304_368_640, "giant": 1_136_480_768}


@pytest.mark.parametrize("name", [name for name, vit in BACKBONES.items() if vit.weights_url and vit.family is DINOV2])
def test_official_files_load_strictly(name):
    vit = BACKBONES[name]
    shape = {"dim": vit.dim, "depth": vit.depth, "heads": vit.heads, "swiglu": vit.swiglu, "registers": vit.registers}
    with torch.device("meta"):
        backbone = Backbone(vit)
        twin = VisionTransformer(img_size=518, **timm_shape(**shape))
    state = backbone.state_dict()
    assert [(key, tuple(value.shape)) for key, value in state.items()] == official_names(
        dim=vit.dim, depth=vit.depth, swiglu=vit.swiglu, registers=vit.registers)
    size = name.split("-")[1]
    assert len(state) == ENTRIES[size] + (vit.registers > 0)
    assert sum(value.numel() for value in state.values()) == VALUES[size] + vit.registers * vit.dim
    twin.load_state_dict(checkpoint_filter_fn(dict(state), twin))


# Positions.


def antialiased_matrix(size: int, table: int = 37) -> np.ndarray:
    """(size, table): Keys' kernel with a = -0.5, stretched where the table shrinks; what lies outside is left out."""
    def kernel(x: float) -> float:
        a, x = -0.5, abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    stretch = max(1.0, table / size)
    matrix = np.array([[kernel((j + 0.5 - (i + 0.5) * table / size) / stretch) for j in range(table)]
                       for i in range(size)])
    return matrix / matrix.sum(axis=1, keepdims=True)


def resized_by_hand(backbone: Backbone, rows: int, columns: int) -> torch.Tensor:
    if backbone.register_tokens is None:
        return oracle.positions(backbone.pos_embed, rows, columns)
    vertical, horizontal = (torch.from_numpy(antialiased_matrix(size)) for size in (rows, columns))
    table = backbone.pos_embed[0, 1:].double().view(37, 37, -1)
    table = torch.einsum("ra,cb,abd->rcd", vertical, horizontal, table).flatten(0, 1)
    return torch.cat([backbone.pos_embed[:, :1].double(), table[None]], dim=1)


@pytest.mark.parametrize("grid", [(1, 1), (8, 32), (16, 16), (36, 37), (50, 23), (74, 74)])
@pytest.mark.parametrize("kind", ["plain", "registers"])
def test_positions_and_their_gradient_follow_the_official_rules(kind, grid):
    torch.manual_seed(0)
    backbone = dinov2(dim=8, depth=0, heads=2, **KINDS[kind])
    nn.init.normal_(backbone.pos_embed)
    resized = backbone.position_embedding(*grid)
    expected = resized_by_hand(backbone, *grid)
    assert (resized - expected).abs().max() <= 1e-5 * expected.abs().max()
    weights = torch.randn(resized.shape)
    found, = torch.autograd.grad((resized * weights).sum(), backbone.pos_embed)
    gradient, = torch.autograd.grad((expected * weights).sum(), backbone.pos_embed)
    assert (found - gradient).abs().max() <= 1e-5 * gradient.abs().max()


def test_the_table_itself_is_taken_at_its_own_size():
    for kind in ("plain", "registers"):
        backbone = dinov2(dim=8, depth=0, heads=2, **KINDS[kind])
        assert backbone.position_embedding(37, 37) is backbone.pos_embed


def test_registers_stand_behind_the_class_token_and_have_no_position():
    backbone, images = randomised(registers=4), batch(range(2), 28, 42)
    x0 = next(backbone.stream_tokens(images))
    assert x0.shape == (2, 1 + 4 + 2 * 3, 64)
    assert torch.equal(x0[:, 1:5], backbone.register_tokens.expand(2, -1, -1))
    assert torch.equal(x0[:, 5:].detach(), (backbone.patch_embed(images) + backbone.position_embedding(2, 3)[:, 1:]))
    assert torch.equal(x0[:, :1], (backbone.cls_token + backbone.pos_embed[:, :1]).expand(2, -1, -1))


# SelaVPR's adapters (equations 3 and 4); test_selavpr.py compares them with the published code.


def naive_adapted_block(state: dict, x: torch.Tensor, heads: int) -> torch.Tensor:
    def linear(name, u):
        return u @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def layer_norm(name, u):
        u = (u - u.mean(-1, keepdim=True)) / (u.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return u * state[f"{name}.weight"] + state[f"{name}.bias"]

    def adapter(name, u):
        return linear(f"{name}.up", linear(f"{name}.down", u).clamp(min=0))

    width = x.shape[-1] // heads
    q, k, v = linear("attn.qkv", layer_norm("norm1", x)).split(x.shape[-1], dim=-1)
    parts = [torch.softmax(a @ b.mT / math.sqrt(width), dim=-1) @ c
             for a, b, c in zip(*(u.split(width, dim=-1) for u in (q, k, v)), strict=True)]
    attended = linear("attn.proj", torch.cat(parts, dim=-1))
    x = x + state["ls1.gamma"] * (attended + adapter("adapter1", attended))
    hidden = layer_norm("norm2", x)
    if "mlp.w12.weight" in state:
        a, b = linear("mlp.w12", hidden).tensor_split(2, dim=-1)
        mlp = linear("mlp.w3", a / (1 + torch.exp(-a)) * b)
    else:
        u = linear("mlp.fc1", hidden)
        mlp = linear("mlp.fc2", u * (1 + torch.erf(u / math.sqrt(2))) / 2)
    return x + state["ls2.gamma"] * (mlp + 0.2 * adapter("adapter2", hidden))


@pytest.mark.parametrize("kind", KINDS)
def test_adapted_blocks_and_their_gradients_equal_the_written_out_ones(kind):
    backbone = randomised(**KINDS[kind], inner_adapters=True).double()
    backbone.set_trained("selavpr", range(3))
    images = batch(range(2), 28, 42).double()
    x, *_, tokens = backbone.stream_tokens(images)
    states = [{name: p.detach().clone().requires_grad_() for name, p in block.named_parameters()}
              for block in backbone.blocks]
    for state in states:
        x = naive_adapted_block(state, x, heads=2)
    assert (tokens - x).abs().max() <= 1e-10 * x.abs().max()
    loss_of(tokens).backward()
    loss_of(x).backward()
    for block, state in zip(backbone.blocks, states, strict=True):
        for name, parameter in block.named_parameters():
            if "adapter" in name:
                assert (parameter.grad - state[name].grad).abs().max() <= 1e-9 * state[name].grad.abs().max() > 0
            else:
                assert parameter.grad is None


def test_a_vanilla_adapter_treats_every_token_for_itself():
    torch.manual_seed(0)
    adapter = VanillaAdapter(32)
    assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == {
        "down.weight": (16, 32), "down.bias": (16,), "up.weight": (32, 16), "up.bias": (32,)}
    for linear in (adapter.down, adapter.up):
        assert 0.01 < linear.weight.std() < 0.03
        assert not linear.bias.any()
        nn.init.normal_(linear.bias)
    tokens = torch.randn(2, 7, 32)
    expected = torch.stack([torch.stack([
        (adapter.down.weight @ token + adapter.down.bias).clamp(min=0) @ adapter.up.weight.T + adapter.up.bias
        for token in image]) for image in tokens])
    assert (adapter(tokens) - expected).abs().max() < 1e-5
    assert torch.equal(adapter(tokens, (2, 3)), adapter(tokens))
    down = adapter.down.weight.detach().clone()
    adapter.initialise()
    assert not adapter(tokens).any()
    assert torch.equal(adapter.down.weight, down)


@torch.no_grad()
def test_initial_inner_adapters_change_nothing():
    plain, adapted = randomised(), randomised(inner_adapters=True)
    images = batch(range(2), 28, 42)
    kept = adapted.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[2] for name in kept.missing_keys} == {"adapter1", "adapter2"}
    assert (last(adapted, images) - last(plain, images)).abs().max() > 0.1
    adapted.initialise_adapters()
    assert torch.equal(last(adapted, images), last(plain, images))
    assert all(block.adapter1.down.weight.any() for block in adapted.blocks)
    plain.initialise_adapters()  # nothing to do, and no error


# What learns.


def expected_to_learn(tuning: str, name: str) -> bool:
    block = int(name.split(".")[1]) if name.startswith("blocks.") else None
    if tuning == "full":
        return name != "mask_token"
    if tuning.startswith("partial"):
        return block in TUNINGS[tuning] or name.startswith("norm.")
    return tuning == "selavpr" and "adapter" in name


def for_tuning(tuning: str, **options) -> Backbone:
    backbone = randomised(**options, inner_adapters=tuning == "selavpr")
    backbone.set_trained(tuning, TUNINGS[tuning])
    return backbone


@pytest.mark.parametrize("kind", ["plain", "giant-registers"])
@pytest.mark.parametrize("tuning", [name for name in TUNINGS if name != "side"])
def test_exactly_the_stated_parameters_get_a_gradient_and_move(tuning, kind):
    backbone, images = for_tuning(tuning, **KINDS[kind]), batch(range(2), 28, 42)
    found = gradients(backbone, images)
    stated = {name for name, _ in backbone.named_parameters() if expected_to_learn(tuning, name)}
    assert {name for name, p in backbone.named_parameters() if p.requires_grad} == found.keys() == stated
    assert all(gradient.any() for gradient in found.values())
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    torch.optim.Adam([p for p in backbone.parameters() if p.requires_grad], lr=1e-3).step()
    assert {name for name, p in backbone.named_parameters() if not torch.equal(p, before[name])} == stated
    with torch.no_grad():
        backbone.load_state_dict(before)
    # The same gradients as if all were trained: nothing on the way was left out.
    backbone.set_trained("full", range(3))
    everything = gradients(backbone, images)
    for name in stated:
        assert torch.allclose(found[name], everything[name], rtol=1e-5, atol=1e-8), name


def saved_by_level(backbone: Backbone, images: torch.Tensor) -> list[int]:
    """Tensors that autograd had kept when each level was given out."""
    kept, counts = [], []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        for _ in backbone.stream_tokens(images):
            counts.append(len(kept))
    return counts


@pytest.mark.parametrize("kind", ["plain", "giant-registers"])
@pytest.mark.parametrize(("tuning", "first"), [
    ("side", 4), ("full", 0), ("partial:1", 3), ("partial:2", 2), ("selavpr", 1)])
def test_gradient_is_recorded_from_the_first_trained_part_on(tuning, first, kind):
    backbone, images = for_tuning(tuning, **KINDS[kind]), batch(range(2), 28, 42)
    recording = []
    for part in (backbone.patch_embed, *backbone.blocks):
        part.register_forward_hook(lambda module, inputs, output: recording.append(torch.is_grad_enabled()))
    for level, tokens in enumerate(backbone.stream_tokens(images.clone().requires_grad_(first > 0))):
        assert tokens.requires_grad == (level >= first)
        assert (tokens.grad_fn is None) == (level < first)
    assert recording == [level >= first for level in range(4)]
    counts = saved_by_level(backbone, images)
    assert not any(counts[:first])
    assert all(before < after for before, after in itertools.pairwise([0, *counts][first:]))


@pytest.mark.parametrize("name", [*EMBEDDING, "blocks.1.ls2.gamma"])
def test_one_trained_parameter_gets_its_gradient_through_frozen_blocks(name):
    backbone, images = randomised(registers=4), batch(range(2), 28, 42)
    backbone.set_trained("full", range(3))
    expected = gradients(backbone, images)[name]
    backbone.set_trained("side", range(0))
    backbone.get_parameter(name).requires_grad_()
    found = gradients(backbone, images)
    assert found.keys() == {name}
    assert torch.allclose(found[name], expected, rtol=1e-5, atol=1e-8)
    first = 0 if name in EMBEDDING else 2
    assert [tokens.requires_grad for tokens in backbone.stream_tokens(images)] == [lvl >= first for lvl in range(4)]


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_consumers_modes_are_untouched(tuning):
    backbone, images = for_tuning(tuning), batch(range(1), 28, 28)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), torch.autocast("cpu", torch.bfloat16):
            stream = backbone.stream_tokens(images)
            for level, tokens in enumerate(stream):
                assert torch.is_grad_enabled() == enabled
                assert torch.is_autocast_enabled("cpu")
                assert enabled or not tokens.requires_grad
                if level == 1:
                    stream.close()
            assert torch.is_grad_enabled() == enabled
    with torch.no_grad():
        assert saved_by_level(backbone, images) == [0] * 4


def test_images_in_parts_give_the_same_gradients(monkeypatch):
    backbone, images = for_tuning("full", **KINDS["giant-registers"]), batch(range(5), 28, 42)
    expected = gradients(backbone, images)
    seen = []
    backbone.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    monkeypatch.setattr("model.backbone.IMAGES_AT_ONCE", 2)
    found = gradients(backbone, images)
    assert seen == [2, 2, 1]
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max()), name


@pytest.mark.parametrize("tuning", [name for name in TUNINGS if name != "side"])
def test_a_trained_backbone_keeps_exact_weights_and_autocast(tuning):
    backbone, images = for_tuning(tuning, **KINDS["giant-registers"]), batch(range(2), 28, 42)
    expected = gradients(backbone, images)
    types = []
    backbone.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    held = [p.data_ptr() for p in backbone.parameters()]
    with backbone.rounded(torch.bfloat16):
        assert [p.data_ptr() for p in backbone.parameters()] == held
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients(backbone, images)
    assert types == [torch.bfloat16]
    for name, gradient in expected.items():
        assert found[name].dtype == torch.float32
        assert F.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.99, name
    with pytest.raises(ValueError, match=r"--compile needs a frozen backbone \(tuning 'side'\)"), \
            backbone.rounded(torch.bfloat16, compiled=True):
        pass


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner_adapters", [False, True])
def test_a_frozen_backbone_of_any_kind_can_be_rounded(kind, inner_adapters):
    backbone, images = randomised(**KINDS[kind], inner_adapters=inner_adapters), batch(range(2), 28, 42)
    backbone.set_trained("side", range(0))
    exact = {name: value.clone() for name, value in backbone.state_dict().items()}
    expected = last(backbone, images)
    with backbone.rounded(torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        levels = list(backbone.stream_tokens(images))
    assert {tokens.dtype for tokens in levels} == {torch.bfloat16}
    assert F.cosine_similarity(backbone.norm(levels[-1].float()), expected, dim=-1).min() > 0.99
    assert all(torch.equal(value, exact[name]) for name, value in backbone.state_dict().items())


def test_a_tuning_that_does_not_fit_is_refused():
    backbone = dinov2(**SIZE)
    with pytest.raises(ValueError, match="unknown tuning 'half'; use 'side', 'full', 'partial:N' or 'selavpr'"):
        backbone.set_trained("half", range(3))
    with pytest.raises(ValueError, match="tuning 'selavpr' needs adapters inside the blocks"):
        backbone.set_trained("selavpr", range(3))
