"""DINOv3 and DeiT against timm's recorded tokens and formulas, their official files, and a whole model on each."""

import functools
import math

import numpy as np
import pytest
import torch
from backbones import EXACT, FULL, FULL_SIZE, ROUNDED, SMALL, names, official
from fill import batch
from oracle import bicubic_matrix
from paths import DATA
from torch.nn import functional as F

from model import (
    BACKBONES,
    CheckpointError,
    ModelConfig,
    PublishedInterface,
    build_model,
    fast_inference,
    fetch_foundation,
    fingerprint,
    load_foundation,
    load_model,
    published_state_dict,
    read_checkpoint,
    released_address,
    save_checkpoint,
)
from model.backbone import VisionTransformer
from model.config import DEIT, DINOV2, DINOV3
from model.layers import processor
from model.layers.block import Attention, RotaryPositions, rotated
from utils.maps import attention_maps

NEW = [name for name, vit in BACKBONES.items() if vit.family is not DINOV2]


@functools.cache
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "golden_backbones.npz"))


def filled(vit) -> VisionTransformer:
    backbone = VisionTransformer(vit)
    backbone.load_state_dict({name: value for name, value in official(vit).items() if not name.startswith("head.")})
    return backbone


@torch.no_grad()
def last(backbone: VisionTransformer, size: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    *_, tokens = backbone.to(dtype).stream_tokens(batch(range(2), *size).to(dtype))
    assert tokens.dtype == dtype
    return backbone.norm(tokens).numpy()


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("kind", SMALL)
def test_tokens_equal_timms(kind):
    backbone = filled(SMALL[kind])
    for dtype, exact in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for sizes, tolerance in ((EXACT[kind], exact), (ROUNDED[kind], max(exact, 1e-6))):
            for size in sizes:
                expected = golden()[f"{kind} {size}"]
                assert expected.std() > 0.5
                assert apart(last(backbone, size, dtype)[:, ::2, :12], expected) <= tolerance, (size, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_tokens_of_a_real_size_equal_timms(name):
    backbone = filled(FULL[name])
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        found = last(backbone, FULL_SIZE, dtype)[:, [0, 5, -1]][:, :, ::6]
        assert apart(found, golden()[name]) <= tolerance


# Positions.


def test_rotary_positions_are_the_written_out_ones():
    rotary = RotaryPositions(16)
    assert torch.allclose(rotary.periods, torch.tensor([100 ** (j / 4) for j in range(4)]))
    cosines, sines = rotary(3, 5)
    x = torch.randn(2, 4 + 15, 16, generator=torch.Generator().manual_seed(0))
    turned = rotated(x, (cosines, sines))
    assert torch.equal(turned[:, :4], x[:, :4])  # class token and registers have no position
    for patch in range(15):
        row, column = (2 * (patch // 5 + 0.5) / 3 - 1), (2 * (patch % 5 + 0.5) / 5 - 1)
        angles = [2 * math.pi * centre / 100 ** (j / 4) for centre in (row, column) for j in range(4)]
        for j, angle in enumerate(angles):
            for image in range(2):  # channels j and j + 8 are the plane that is turned
                a, b = x[image, 4 + patch, j].item(), x[image, 4 + patch, j + 8].item()
                assert turned[image, 4 + patch, j].item() == pytest.approx(
                    a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
                assert turned[image, 4 + patch, j + 8].item() == pytest.approx(
                    b * math.cos(angle) + a * math.sin(angle), abs=1e-5)


def test_patches_are_turned_in_fp32_whatever_the_tokens_are_held_in():
    rotation = RotaryPositions(16).bfloat16()(3, 5)
    assert {part.dtype for part in rotation} == {torch.float32}
    x = torch.randn(2, 2, 19, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    turned = rotated(x, rotation)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotated(x.float(), rotation).bfloat16())  # rounded once


def test_the_files_periods_count():
    vit = SMALL["dinov3"]
    backbone = filled(vit)
    before = last(backbone, (64, 64), torch.float32)
    backbone.rope_embed.periods += 0.01
    assert apart(last(backbone, (64, 64), torch.float32), before) > 1e-4


@pytest.mark.parametrize("grid", [(1, 1), (8, 20), (20, 20), (14, 13), (28, 28)])
def test_deits_table_is_resized_to_the_size_itself(grid):
    backbone = filled(SMALL["deit"])
    vertical, horizontal = (torch.from_numpy(bicubic_matrix(side, table=14, offset=0)) for side in grid)
    table = backbone.pos_embed[0, 1:].double().view(14, 14, -1)
    expected = torch.einsum("ra,cb,abd->rcd", vertical, horizontal, table).flatten(0, 1)
    resized = backbone.position_embedding(*grid)[0]
    assert torch.equal(resized[0], backbone.pos_embed[0, 0])
    assert (resized[1:] - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_deits_table_itself_is_taken_at_its_own_size_and_rotary_positions_have_none():
    backbone = filled(SMALL["deit"])
    assert backbone.position_embedding(14, 14) is backbone.pos_embed
    assert filled(SMALL["dinov3"]).position_embedding(14, 14) is None


@pytest.mark.parametrize("kind", SMALL)
def test_sides_are_multiples_of_16(kind):
    backbone = VisionTransformer(SMALL[kind])
    assert backbone.grid(torch.zeros(1, 3, 320, 48)) == (20, 3)
    with pytest.raises(ValueError, match="image size 322 x 322 must be multiples of 16"):
        backbone.grid(torch.zeros(1, 3, 322, 322))


# What is frozen is not augmented, and a key has no bias.


def test_training_mode_changes_no_token():
    backbone = filled(SMALL["dinov3"])
    expected = last(backbone.eval(), (48, 80), torch.float32)
    assert np.array_equal(last(backbone.train(), (48, 80), torch.float32), expected)
    assert np.array_equal(last(backbone.train(), (48, 80), torch.float32), expected)


def test_the_mask_takes_the_keys_bias_away():
    backbone = filled(SMALL["dinov3"])
    qkv = backbone.blocks[0].attn.qkv
    query, key, value = qkv(torch.zeros(1, 32)).split(32, dim=1)
    assert query.all() and value.all() and not key.any()
    assert qkv.bias[32:64].all()  # as in the file
    expected = last(backbone, (48, 80), torch.float32)
    with torch.no_grad():
        for block in backbone.blocks:
            block.attn.qkv.bias[32:64] = 7
    assert np.array_equal(last(backbone, (48, 80), torch.float32), expected)
    for block in backbone.blocks:
        block.attn.qkv.bias_mask.fill_(1)
    # Softmax does not see what all keys share, but rotated it differs from patch to patch.
    assert apart(last(backbone, (48, 80), torch.float32), expected) > 1e-3


# Official files.


@pytest.mark.parametrize(("name", "size", "hidden"), [
    ("dinov3-small", (384, 12, 6), 1536), ("dinov3-small-plus", (384, 12, 6), 1536),
    ("dinov3-base", (768, 12, 12), 3072), ("dinov3-large", (1024, 24, 16), 4096),
    ("dinov3-large-plus", (1024, 24, 16), 4096), ("dinov3-huge-plus", (1280, 32, 20), 5120),
    ("deit-tiny", (192, 12, 3), 768), ("deit-small", (384, 12, 6), 1536), ("deit-base", (768, 12, 12), 3072)])
def test_official_names_and_shapes(name, size, hidden):
    vit = BACKBONES[name]
    with torch.device("meta"):
        state = VisionTransformer(vit).state_dict()
    expected = {key: shape for key, shape in names(vit).items() if not key.startswith("head.")}
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert (vit.dim, vit.depth, vit.heads) == size
    assert state["blocks.0.mlp.w1.weight" if "plus" in name else "blocks.0.mlp.fc1.weight"].shape[0] == hidden
    counts = {"dinov3-small": 188, "dinov3-small-plus": 212, "dinov3-base": 188}
    assert len(state) == counts.get(name, len(state))
    paper = {"dinov3-base": ("all", 2048), "deit-base": ("all", 2048), "dinov3-large": ("last:16", 4096),
             "dinov3-large-plus": ("last:16", 4096), "dinov3-huge-plus": ("last:16", 4096), "deit-tiny": ("all", 512)}
    assert (vit.placement, vit.float_dim) == paper.get(name, ("all", 1024))


def test_every_new_backbone_was_looked_at():
    assert len(NEW) == 9


@pytest.fixture
def small(monkeypatch):
    for name, vit in SMALL.items():
        monkeypatch.setitem(BACKBONES, name, vit)


def write(content, path):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", SMALL)
def test_files_load_strictly_by_their_own_names(kind, small, tmp_path):
    vit, state = SMALL[kind], official(SMALL[kind])
    layout = (lambda state: {"model": state}) if vit.family is DEIT else dict
    model = build_model(ModelConfig(backbone=kind), seed=0)
    unused = load_foundation(model, write(layout(state), tmp_path / "official.pth"))
    assert unused == (["head.weight", "head.bias"] if vit.family is DEIT else [])
    held = model.backbone.state_dict()
    assert held.keys() | set(unused) == state.keys()
    assert all(torch.equal(held[name], value) for name, value in state.items() if name in held)
    dinov2 = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",))).backbone.state_dict()
    without = {name: value for name, value in state.items() if name != "blocks.1.attn.qkv.bias"}
    for content, message in (
        (layout(without), rf"official.pth \(into {kind}\) does not fit: missing blocks.1.attn.qkv.bias$"),
        (layout({**state, "blocks.0.ls3.gamma": torch.zeros(1)}), "unexpected blocks.0.ls3.gamma$"),
        (layout({**state, "cls_token": torch.zeros(1, 1, 99)}), r"another size of model: cls_token is \(1, 1, 99\)"),
        (dinov2, "does not fit: another size of model"),
        ({"weight": torch.zeros(1)}, rf"not a {vit.family.name} file \(no cls_token\); expected (dinov3|deit)_"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_foundation(model, write(content, tmp_path / "official.pth"))


@pytest.mark.parametrize("key", ["rope_embed.periods", "blocks.2.attn.qkv.bias_mask", "mask_token", "storage_tokens"])
def test_dinov3s_buffers_come_from_the_file(key, small, tmp_path):
    state = official(SMALL["dinov3"])
    del state[key]
    with pytest.raises(CheckpointError, match=f"missing {key}$"):
        load_foundation(build_model(ModelConfig(backbone="dinov3"), seed=0), write(state, tmp_path / "less.pth"))


def test_a_mask_that_was_never_filled_in_is_refused(small, tmp_path):
    state = official(SMALL["dinov3"])
    state["blocks.1.attn.qkv.bias_mask"] = torch.full_like(state["blocks.1.attn.qkv.bias_mask"], torch.nan)
    with pytest.raises(CheckpointError, match="blocks.1.attn.qkv.bias_mask holds NaN or infinite values; fetch"):
        load_foundation(build_model(ModelConfig(backbone="dinov3"), seed=0), write(state, tmp_path / "nan.pth"))


def test_where_the_weights_come_from():
    for name in NEW:
        if BACKBONES[name].family is DINOV3:
            with pytest.raises(ValueError, match="no public address") as error:
                fetch_foundation(name)
            for word in (name, "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/", "DINOv3 License",
                         "--foundation_model_path", "dinov3_*_pretrain_lvd1689m-*.pth"):
                assert word in str(error.value)
            assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=f"no weights are published for {name} gem"):
            released_address(ModelConfig(backbone=name))
    for size, mark in (("tiny", "a1311bcf"), ("small", "cd65a155"), ("base", "b5f2ef4d")):
        url = f"https://dl.fbaipublicfiles.com/deit/deit_{size}_patch16_224-{mark}.pth"
        assert BACKBONES[f"deit-{size}"].weights_url == url


@pytest.mark.parametrize(("backbone", "licence"), [
    ("dinov2-tiny", "Apache-2.0"), ("dinov3", "DINOv3 License"), ("deit", "Apache-2.0")])
def test_checkpoints_name_the_licence_that_they_inherit(backbone, licence, small, tmp_path):
    model = build_model(ModelConfig(backbone=backbone, branches=("float",)), seed=0)
    for pretrained, inherited in ((True, licence), (None, licence), (False, None)):
        save_checkpoint(model, tmp_path / "model.pth", pretrained=pretrained)
        assert torch.load(tmp_path / "model.pth")["licence"] == inherited
        assert read_checkpoint(tmp_path / "model.pth").licence == inherited


# A model on each.


def adapted(kind: str, **fields):
    """A model in which no adapter, scale or BatchNorm is what it starts from."""
    model = build_model(ModelConfig(backbone=kind, **fields), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and value.ndim == 1 and "norm" not in name and "pool" not in name and (
                    "periods" not in name and "bias_mask" not in name):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator) if not name.endswith("bias")
                            else 0.1 * torch.randn(value.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", SMALL)
def test_files_of_ours_keep_the_kind_and_the_published_format_refuses_it(kind, small, tmp_path):
    model = adapted(kind).eval()
    save_checkpoint(model, tmp_path / "ours.pth", pretrained=False)
    again = load_model(tmp_path / "ours.pth")
    assert again.config == model.config and fingerprint(again) == fingerprint(model)
    images = batch(range(2), 48, 80)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again(images), model(images), strict=True))
    with pytest.raises(CheckpointError, match=f"{kind}: the published format knows DINOv2 alone; save_ch"):
        published_state_dict(model)
    with pytest.raises(CheckpointError, match="bare.pth: no DINOv2 .*16 pixels.*save_checkpoint"):
        load_model(write(model.state_dict(), tmp_path / "bare.pth"))


def test_the_fingerprint_tells_kinds_with_equal_weights_apart(small, monkeypatch):
    monkeypatch.setitem(BACKBONES, "dinov3-other", SMALL["dinov3"]._replace(family=DINOV3._replace(eps=1e-6)))
    one, other = adapted("dinov3"), adapted("dinov3-other")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert fingerprint(one) != fingerprint(other) and fingerprint(one) == fingerprint(adapted("dinov3"))


PROCESSORS = {"AMD": {"AuthenticAMD", "avx512_bf16"}, "Intel with AMX": {"GenuineIntel", "amx_bf16"}}


@pytest.mark.parametrize("flags", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("kind", SMALL)
def test_fast_inference_equals_the_model(kind, flags, small, monkeypatch):
    monkeypatch.setattr(processor, "features", lambda: frozenset(flags))
    model, images = adapted(kind), batch(range(3), 48, 80)
    before = fingerprint(model)
    fast, rough = fast_inference(model)(images), fast_inference(model, dtype=torch.bfloat16)(images)
    assert fingerprint(model) == before
    with torch.no_grad():
        exact = model.eval()(images)
    for field in ("relaxed", "floating"):
        assert (getattr(fast, field) - getattr(exact, field)).abs().max() < 1e-5
        assert F.cosine_similarity(getattr(rough, field), getattr(exact, field)).min() > 0.999


@pytest.mark.parametrize("flags", PROCESSORS.values(), ids=PROCESSORS)
def test_attention_by_products_turns_the_patches_too(flags, monkeypatch):
    monkeypatch.setattr(processor, "features", lambda: frozenset(flags))
    torch.manual_seed(0)
    exact = Attention(64, 2, key_bias=False)
    ours = Attention(64, 2, key_bias=False)
    ours.load_state_dict(exact.state_dict())
    processor.quicken_attention(ours.bfloat16())
    x, rotation = torch.randn(3, 20, 64), RotaryPositions(32)(3, 5)
    expected, found = exact(x, rotation), ours(x.bfloat16(), rotation).float()
    assert (found - expected).norm() / expected.norm() < 0.03 < (exact(x) - expected).norm() / expected.norm()


@pytest.mark.parametrize("kind", SMALL)
def test_blocks_are_compiled_with_the_rotation(kind, small, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *x: calls.append(1) or function(*x))
    model, images = adapted(kind, branches=("float",)), batch(range(2), 48, 80)
    assert torch.allclose(fast_inference(model, compiled=True)(images).floating,
                          fast_inference(model)(images).floating, atol=1e-6)
    assert len(calls) == 3  # blocks


@pytest.mark.parametrize("kind", SMALL)
def test_a_frozen_backbone_can_be_rounded(kind):
    backbone, images = filled(SMALL[kind]), batch(range(2), 48, 80)
    backbone.set_trained("side", range(0))
    exact = {name: value.clone() for name, value in backbone.state_dict().items()}
    expected = torch.from_numpy(last(backbone, (48, 80), torch.float32))
    with backbone.rounded(torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        levels = list(backbone.stream_tokens(images))
    assert {tokens.dtype for tokens in levels} == {torch.bfloat16}
    assert F.cosine_similarity(backbone.norm(levels[-1].float()), expected, dim=-1).min() > 0.99
    assert all(torch.equal(value, exact[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("tuning", "learns"), [
    ("side", lambda name: False), ("full", lambda name: name != "mask_token"),
    ("partial:1", lambda name: name.startswith(("blocks.2.", "norm."))), ("selavpr", lambda name: "adapter" in name)])
def test_every_tuning_moves_what_it_states(tuning, learns, kind, small):
    model = adapted(kind, branches=("float",), tuning=tuning).train()
    model(batch(range(2), 48, 80)).floating[:, ::2].sum().backward()
    moved = {name for name, p in model.backbone.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {name for name, _ in model.backbone.named_parameters() if learns(name)}
    for name, p in model.backbone.named_parameters():
        if name.endswith("qkv.bias") and p.grad is not None:
            query, key, value = p.grad.split(32)
            assert query.any() and value.any() and (kind == "deit" or not key.any())


@pytest.mark.parametrize("kind", SMALL)
def test_maps_and_the_hub_take_every_kind(kind, small):
    model = adapted(kind)
    maps = attention_maps(model.eval(), batch(range(2), 48, 80))
    assert {found.shape for found in maps.values()} == {(2, 3, 5)}
    relaxed, binary, floating = PublishedInterface(model.config).eval()(batch(range(2), 48, 80))
    assert relaxed.shape == binary.shape == (2, 512) and floating.shape == (2, 48)
