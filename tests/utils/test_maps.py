"""Maps of where a model looks, against what hooks see of the model's own forward pass, patch by patch."""

import numpy as np
import pytest
import torch
from PIL import Image

from model import ModelConfig, build_model
from utils.maps import BACKBONE, VIRIDIS, attention_maps, coloured, overlay

SIZES = {"dinov2-tiny": (84, 56), "dinov2-small-reg": (42, 28)}


def model_of(**fields):
    """With adapters that do something, and a last LayerNorm that is not its start."""
    model = build_model(ModelConfig(**{"backbone": "dinov2-tiny", **fields}), seed=0).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.backbone.norm.parameters():
            parameter += torch.rand(parameter.shape, generator=generator)
    return model


def seen_by_hooks(model, images):
    """What enters each head, and what leaves the last block, of a whole forward pass."""
    seen = {}
    handles = [model.backbone.blocks[-1].register_forward_hook(
        lambda _, inputs, output: seen.__setitem__(BACKBONE, model.backbone.norm(output)))]
    for name in model.config.branches:
        handles.append(model.branch(name).head.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0])))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return {name: tokens.double().numpy() for name, tokens in seen.items()}


def naive(tokens, rows, columns):
    """One image's map from its tokens (T, C), written out."""
    patches = [tokens[len(tokens) - rows * columns + i] for i in range(rows * columns)]
    mean = sum(patches) / len(patches)
    distances = [float(np.sqrt(sum((value - middle) ** 2 for value, middle in zip(patch, mean, strict=True))))
                 for patch in patches]
    low, high = min(distances), max(distances)
    return np.array([[(distances[r * columns + c] - low) / (high - low) for c in range(columns)] for r in range(rows)])


@pytest.mark.parametrize("fields", [
    {}, {"branches": ("float",), "aggregation": "boq"}, {"branches": ("binary",), "placement": "last:2"},
    {"branches": ("float",), "tuning": "full"}, {"branches": ("float",), "tuning": "selavpr"},
    {"backbone": "dinov2-small-reg", "branches": ("float",)}], ids=str)
def test_a_map_is_the_distance_of_what_the_head_gets_from_its_mean(fields):
    model = model_of(**fields)
    height, width = SIZES[model.config.backbone]
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(2))
    maps, seen = attention_maps(model, images), seen_by_hooks(model, images)
    assert maps.keys() == seen.keys() == {BACKBONE, *model.config.branches}
    for name, found in maps.items():
        assert found.shape == (2, height // 14, width // 14) and found.dtype == np.float32
        expected = [naive(tokens, height // 14, width // 14) for tokens in seen[name]]
        np.testing.assert_allclose(found, expected, atol=2e-4)
        assert found.min() == 0 and found.max() == 1


def test_salad_too_and_the_branches_differ():
    model = model_of(aggregation="salad")
    maps = attention_maps(model, torch.randn(1, 3, 126, 126, generator=torch.Generator().manual_seed(3)))
    pairs = [np.corrcoef(maps[one].ravel(), maps[other].ravel())[0, 1]
             for one, other in ((BACKBONE, "float"), (BACKBONE, "binary"), ("float", "binary"))]
    assert max(pairs) < 0.999


def test_without_adapters_a_branchs_map_is_the_backbones():
    maps = attention_maps(model_of(branches=("float",), placement="none"), torch.randn(1, 3, 56, 70))
    np.testing.assert_array_equal(maps["float"], maps[BACKBONE])


def test_an_odd_patch_stands_out():
    model = model_of()
    with torch.no_grad():
        model.backbone.pos_embed.zero_()
    images = torch.zeros(1, 3, 70, 98)
    images[:, :, 28:42, 56:70] = 3
    found = attention_maps(model, images)[BACKBONE]
    assert np.unravel_index(found.argmax(), found.shape) == (0, 2, 4)
    images[:] = 1  # no place differs from another: nothing stands out, and nothing is divided by 0
    assert np.isfinite(attention_maps(model, images)[BACKBONE]).all()


def test_mistakes_are_named():
    model = model_of(branches=("float",))
    with pytest.raises(ValueError, match="multiples of 14"):
        attention_maps(model, torch.zeros(1, 3, 57, 56))
    with pytest.raises(ValueError, match=r"training mode; call model\.eval\(\)"):
        attention_maps(model.train(), torch.zeros(1, 3, 56, 56))


def test_colours_are_viridis_and_grow_lighter():
    values = np.linspace(0, 1, 256, dtype=np.float32)[None]
    pixels = np.asarray(coloured(values))[0].astype(float)
    assert tuple(pixels[0]) == VIRIDIS[0] and tuple(pixels[-1]) == VIRIDIS[-1]
    linear = np.where(pixels <= 10.31475, pixels / 3294.6, ((pixels / 255 + 0.055) / 1.055) ** 2.4)  # sRGB
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) >= -1e-3).all()
    colormaps = pytest.importorskip("matplotlib").colormaps
    for at, levels in ((np.linspace(0, 1, len(VIRIDIS)), 1), (values[0], 16)):  # at the table's steps, and between
        mine = np.asarray(coloured(at[None]))[0].astype(float)
        assert np.abs(mine - 255 * colormaps["viridis"](at)[:, :3]).max() < levels


def test_an_overlay_is_as_large_as_its_image_and_bright_where_the_map_is():
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = 1
    drawn = overlay(Image.new("RGB", (61, 40), "white"), values)
    assert drawn.size == (61, 40) and drawn.mode == "RGB"
    assert drawn.getpixel((60, 39))[0] > 150 > 100 > drawn.getpixel((0, 0))[0]
