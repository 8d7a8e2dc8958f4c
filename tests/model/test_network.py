"""The network against its description in double precision (tests/oracle.py), naive loops, and its own promises."""

import itertools
import json
import weakref

import numpy as np
import oracle
import pytest
import torch
from fill import batch
from published import PUBLISHED, filled_weights, model_of, published_shapes
from torch import nn

from model import (
    BACKBONES,
    BRANCHES,
    ModelConfig,
    SelaVPRpp,
    build_model,
    fast_inference,
    published_state_dict,
)
from model.backbone import VisionTransformer
from model.config import ViT
from model.network import straight_through_sign
from model.published_names import to_own_names, to_published_names
from model.side_network import ADAPTER_STARTS, MultiConvAdapter

TINY = ModelConfig(backbone="dinov2-tiny")


@pytest.fixture(scope="module")
def tiny_weights():
    return filled_weights(TINY)


@pytest.fixture
def tiny(tiny_weights):
    return model_of(tiny_weights)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "sizes"), [
    # 8 x 32 patches are a perfect square in number: a grid taken for 16 x 16 would be scrambled.
    (TINY, [(14, 14), (28, 70), (70, 28), (112, 448), (448, 112), (518, 518)]),
    (ModelConfig(backbone="dinov2-tiny", placement="last:2", float_dim=96, code_bits=64), [(42, 56)]),
    (ModelConfig(backbone="dinov2-small"), [(70, 42)]),
], ids=["tiny", "last-two-levels", "small"])
def test_any_size_equals_the_description(config, sizes):
    weights = filled_weights(config)
    model = model_of(weights)
    for height, width in sizes:
        images = batch(range(2), height, width)
        with torch.no_grad():
            outputs = model(images)
        expected = oracle.extract_rows(weights, images, heads=config.vit.heads, first_level=config.first_level)
        assert outputs.floating.shape == (2, config.float_dim)
        assert outputs.relaxed.shape == outputs.binary.shape == (2, config.code_bits)
        for field, value in expected.items():
            assert (getattr(outputs, field) - value).abs().max() <= 1e-5, (height, width, field)
        sure = expected["relaxed"].abs() > 1e-5
        assert torch.equal(outputs.binary[sure], expected["relaxed"].sign().float()[sure])


def naive_conv_unit(unit, maps: np.ndarray) -> np.ndarray:
    """(channels, rows, columns) -> relu(BatchNorm(conv)) in eval mode, one output at a time."""
    weight, bias = unit.conv.weight.double().numpy(), unit.conv.bias.double().numpy()
    outputs, inputs, kernel, _ = weight.shape
    _, rows, columns = maps.shape
    mean, variance = unit.bn.running_mean.double().numpy(), unit.bn.running_var.double().numpy()
    scale, shift = unit.bn.weight.double().numpy(), unit.bn.bias.double().numpy()
    result = np.zeros((outputs, rows, columns))
    for o, i, j in itertools.product(range(outputs), range(rows), range(columns)):
        total = bias[o]
        for c, di, dj in itertools.product(range(inputs), range(kernel), range(kernel)):
            y, x = i + di - kernel // 2, j + dj - kernel // 2
            if 0 <= y < rows and 0 <= x < columns:
                total += weight[o, c, di, dj] * maps[c, y, x]
        result[o, i, j] = max(0.0, scale[o] * (total - mean[o]) / np.sqrt(variance[o] + 1e-3) + shift[o])
    return result


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    adapter = MultiConvAdapter(32).eval()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for name, buffer in adapter.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return adapter


@torch.no_grad()
def test_adapter_equals_naive_loops_on_a_grid_that_is_not_square(adapter):
    rows, columns = 3, 5
    tokens = torch.randn(1, 1 + rows * columns, 32)
    down_w, down_b = adapter.down.weight.double().numpy(), adapter.down.bias.double().numpy()
    up_w, up_b = adapter.up.weight.double().numpy(), adapter.up.bias.double().numpy()
    r = np.maximum(tokens[0].double().numpy() @ down_w.T + down_b, 0)
    maps = np.zeros((16, rows, columns))
    for i, j in itertools.product(range(rows), range(columns)):
        maps[:, i, j] = r[1 + i * columns + j]
    scales = np.concatenate([
        naive_conv_unit(adapter.conv1x1, maps),
        naive_conv_unit(adapter.conv3x3, naive_conv_unit(adapter.reduce3x3, maps)),
        naive_conv_unit(adapter.conv5x5, naive_conv_unit(adapter.reduce5x5, maps)),
    ])
    v = 2 * r  # the class token passes by the convolutions: it meets itself in the inner skip
    for i, j in itertools.product(range(rows), range(columns)):
        v[1 + i * columns + j] = scales[:, i, j] + r[1 + i * columns + j]
    expected = v @ up_w.T + up_b
    assert np.abs(adapter(tokens, (rows, columns))[0].numpy() - expected).max() < 1e-4


@torch.no_grad()
def test_adapter_of_a_transposed_grid_is_the_transposed_adapter(adapter):
    rows, columns = 8, 32
    tokens = torch.randn(2, 1 + rows * columns, 32)

    def transpose(x, a, b):
        return torch.cat([x[:, :1], x[:, 1:].unflatten(1, (a, b)).transpose(1, 2).flatten(1, 2)], dim=1)

    straight = adapter(tokens, (rows, columns))
    assert (straight - adapter(tokens, (16, 16))).abs().max() > 1e-2
    for module in adapter.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.copy_(module.weight.transpose(2, 3).clone())
    turned = adapter(transpose(tokens, rows, columns), (columns, rows))
    torch.testing.assert_close(transpose(turned, columns, rows), straight)


@pytest.mark.slow
def test_side_network_starts_where_the_paper_says():
    assert ModelConfig(backbone="dinov2-base").first_level == 0
    assert ModelConfig(backbone="dinov2-large").first_level == 8
    for key, entry in PUBLISHED.items():
        backbone, mode = key.split("/")[:2]
        branches = {"float": ("float",), "hashing": ("binary",), "rerank": BRANCHES}[mode]
        with torch.device("meta"):
            model = build_model(ModelConfig(backbone=f"dinov2-{backbone}", branches=branches))
        assert sum(p.numel() for p in model.parameters()) == entry["params"]
        if mode == "rerank":
            model.freeze("float_branch")
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == entry["trainable"]


@pytest.mark.parametrize("key", list(PUBLISHED))
def test_published_names_map_both_ways(key):
    backbone, mode = key.split("/")[:2]
    branches = {"float": ("float",), "hashing": ("binary",), "rerank": BRANCHES}[mode]
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone=f"dinov2-{backbone}", branches=branches))
    shapes = published_shapes(key)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert {to_own_names(name): shape for name, shape in shapes.items()} == own
    assert {to_own_names(f"module.{name}") for name in shapes} == set(own)
    assert {to_published_names(name) for name in own} == set(shapes)
    assert all(to_own_names(name) == name for name in own)
    assert all(to_published_names(to_own_names(name)) == name for name in shapes)


@pytest.mark.parametrize("shape", [(1, 3, 230, 224), (1, 3, 224, 230), (1, 3, 7, 14), (1, 3, 0, 14), (3, 224, 224),
                                   (1, 1, 224, 224)])
def test_a_size_that_fits_no_grid_is_one_clear_error(tiny, shape):
    with pytest.raises(ValueError, match="images must be|multiples of 14") as error:
        tiny(torch.zeros(shape))
    assert "\n" not in str(error.value)
    assert str(shape[-1]) in str(error.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_images_that_are_not_normalised_are_one_clear_error(tiny, dtype):
    with pytest.raises(ValueError, match=f"images must be floats, ImageNet-normalised, got {dtype}; datasets"):
        tiny(torch.zeros(1, 3, 28, 28, dtype=dtype))
    with pytest.raises(ValueError, match="images must be floats"):
        fast_inference(tiny)(torch.zeros(1, 3, 28, 28, dtype=dtype))


@pytest.mark.parametrize("branches", [(), ("float", "float"), ("floating",), ("float", "binary", "salad")])
def test_branches_that_do_not_exist_are_an_error(tiny, branches):
    with pytest.raises(ValueError, match="float"):
        tiny(torch.zeros(1, 3, 28, 28), branches)


def test_asking_for_a_branch_the_model_lacks_is_an_error():
    model = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=0)
    with pytest.raises(ValueError, match="no branch 'binary'.* float"):
        model(torch.zeros(1, 3, 28, 28), ("binary",))


@torch.no_grad()
def test_an_image_is_extracted_alike_in_every_batch(tiny):
    images = batch(range(7), 84, 56)
    together = tiny(images)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    shuffled = tiny(images[order])
    for field in ("relaxed", "binary", "floating"):
        whole = getattr(together, field)
        alone = torch.cat([getattr(tiny(image[None]), field) for image in images])
        tolerance = 0 if field == "binary" else 1e-5
        assert (alone - whole).abs().max() <= tolerance
        assert (getattr(shuffled, field) - whole[order]).abs().max() <= tolerance


@torch.no_grad()
def test_a_branch_is_the_same_without_the_other(tiny):
    images = batch(range(3), 56, 84)
    both = tiny(images)
    floating, binary = tiny(images, ("float",)), tiny(images, ("binary",))
    assert floating.relaxed is floating.binary is binary.floating is None
    assert (floating.floating - both.floating).abs().max() <= 1e-5
    assert (binary.relaxed - both.relaxed).abs().max() <= 1e-5
    assert torch.equal(binary.binary, both.binary)
    assert torch.equal(tiny(images, ("binary", "float")).floating, both.floating)


def test_sign_of_zero_is_plus_one_and_its_gradient_is_the_identity():
    values = torch.tensor([-2.0, -1e-38, -0.0, 0.0, 1e-38, 3.0], requires_grad=True)
    signs = straight_through_sign(values)
    assert signs.tolist() == [-1, -1, 1, 1, 1, 1]
    gradient = torch.tensor([0.5, -7.0, 1e6, 0.0, 2.0, -3.0])  # not clipped, whatever the value
    signs.backward(gradient)
    assert torch.equal(values.grad, gradient)


@pytest.mark.parametrize(("branches", "frozen"), [
    (("float",), ("backbone",)), (("binary",), ("backbone",)), (BRANCHES, ("backbone", "float_branch")),
], ids=["float", "hashing", "rerank"])
def test_frozen_parts_are_bit_equal_after_training_steps(branches, frozen):
    model = build_model(ModelConfig(backbone="dinov2-tiny", branches=branches), seed=0)
    model.freeze(*frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Weight decay moves whatever it is given, gradient or not.
    optimiser = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
    model.eval().train()
    for step in range(3):
        outputs = model(batch(range(4 * step, 4 * step + 4), 56, 56))
        loss = sum(part.square().mean() + part.sum() for part in outputs if part is not None and part.requires_grad)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = model.state_dict()
    for name, value in before.items():
        if name.startswith(frozen):
            assert torch.equal(after[name], value), name
    trained = [name for name in before if not name.startswith(frozen)]
    unchanged = [name for name in trained if torch.equal(after[name], before[name])]
    assert len(trained) > 100
    assert unchanged == []
    assert all(not module.training for name in frozen for module in model.get_submodule(name).modules())
    assert any(module.training for module in model.get_submodule(f"{branches[-1]}_branch").modules())


def test_no_gradient_runs_through_the_backbone(tiny):
    images = batch(range(2), 28, 42).requires_grad_()
    for tokens in tiny.backbone.stream_tokens(images):
        assert not tokens.requires_grad
        assert tokens.grad_fn is None
        assert torch.is_grad_enabled()  # the stream's no_grad must not leak to its consumer
    outputs = tiny(images)
    (outputs.floating.sum() + outputs.relaxed.sum()).backward()
    assert images.grad is None
    assert all(parameter.grad is None for parameter in tiny.backbone.parameters())
    assert tiny.float_branch.side.adapters[0].down.weight.grad.abs().sum() > 0


def test_the_stream_holds_one_level_at_a_time(tiny):
    seen = []
    for tokens in tiny.backbone.stream_tokens(batch(range(1), 28, 42)):
        assert tokens.shape == (1, 1 + 2 * 3, 192)
        assert all(reference() is None for reference in seen[:-1])
        seen.append(weakref.ref(tokens))
    assert len(seen) == 1 + BACKBONES["dinov2-tiny"].depth


def test_training_keeps_no_level_and_runs_the_backbone_once(tiny, monkeypatch):
    seen = []
    step = type(tiny.float_branch.side).step

    def recording_step(side, state, tokens, level, grid, **options):
        # x_0 is the state that both side networks start from; every other earlier level must be gone.
        assert all(reference() is None for reference in seen[1:-1] if reference() is not tokens)
        if not seen or seen[-1]() is not tokens:
            seen.append(weakref.ref(tokens))
        return step(side, state, tokens, level, grid, **options)

    monkeypatch.setattr(type(tiny.float_branch.side), "step", recording_step)
    outputs = tiny.train()(batch(range(2), 28, 28))
    assert outputs.floating.requires_grad
    assert len(seen) == 1 + BACKBONES["dinov2-tiny"].depth  # two branches share one pass


def test_autocast_gives_fp32_descriptors_near_the_fp32_ones(tiny):
    images = batch(range(4), 70, 56)
    with torch.no_grad():
        exact = tiny(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = tiny(images)
    assert all(part.dtype == torch.float32 for part in (*exact, *rough))
    for field in ("relaxed", "floating"):
        cosine = (getattr(exact, field) * getattr(rough, field)).sum(dim=1)
        assert cosine.min() > 0.99
        assert (getattr(rough, field).norm(dim=1) - 1).abs().max() < 1e-5
    assert set(rough.binary.unique().tolist()) == {-1.0, 1.0}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tiny.train()(images).floating.sum().backward()
    gradients = [p.grad for p in tiny.float_branch.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("grid", [(1, 1), (8, 32), (16, 16), (37, 36), (37, 37), (50, 23), (74, 74)])
def test_position_table_is_resized_by_the_official_rule(grid):
    backbone = VisionTransformer(ViT(32, 1, 2, "none", 1, None))
    torch.nn.init.normal_(backbone.pos_embed)
    with torch.no_grad():
        resized = backbone.position_embedding(*grid)
    assert resized.shape == (1, 1 + grid[0] * grid[1], 32)
    assert resized.dtype == torch.float32
    assert (resized - oracle.positions(backbone.pos_embed.detach(), *grid)).abs().max() < 1e-4
    assert torch.equal(resized[:, 0], backbone.pos_embed[:, 0])


def test_images_of_every_grid_up_to_twice_the_pretraining_size_have_positions():
    backbone = VisionTransformer(ViT(32, 0, 2, "none", 1, None))
    for side in range(1, 80):
        assert backbone.position_embedding(side, 80 - side).shape[1] == 1 + side * (80 - side)


def adapters_at_the_start(seed: int = 0, **fields) -> list[MultiConvAdapter]:
    model = build_model(ModelConfig(backbone="dinov2-tiny", **fields), seed=0)
    torch.manual_seed(seed)
    model.initialise_adapters()
    return [adapter for branch in (model.float_branch, model.binary_branch) for adapter in branch.side.adapters]


@pytest.mark.parametrize("start", ADAPTER_STARTS)
def test_every_start_gives_zero_and_its_own_convolutions(start):
    adapters = adapters_at_the_start(adapter_start=start)
    convolutions = [module for adapter in adapters for module in adapter.modules() if isinstance(module, nn.Conv2d)]
    assert len(adapters) == 8 and len(convolutions) == 40
    assert all(not adapter(torch.randn(2, 5, 192), (2, 2)).any() for adapter in adapters)
    values = torch.cat([parameter.detach().flatten() for conv in convolutions for parameter in conv.parameters()])
    if start == "constant":
        assert (values == 1e-5).all()
    elif start == "gaussian":
        assert 0.99e-5 < values.std() < 1.01e-5 and values.mean().abs() < 1e-7
        again, other = (adapters_at_the_start(seed, adapter_start=start)[3].conv5x5.conv.weight for seed in (0, 1))
        assert torch.equal(adapters[3].conv5x5.conv.weight, again) and not torch.equal(again, other)
    else:  # PyTorch's default: uniform within 1 / sqrt(inputs of an output)
        for conv in convolutions:
            bound = conv.weight[0].numel() ** -0.5
            assert 0.8 * bound < conv.weight.abs().max() <= bound and conv.bias.abs().max() <= bound


def test_reductions_of_another_width():
    reduced = {adapter.reduce3x3.conv.weight.shape for adapter in adapters_at_the_start(reduction_dim=1)}
    assert reduced == {(1, 96, 1, 1)}
    assert {adapter.conv5x5.conv.weight.shape for adapter in adapters_at_the_start(reduction_dim=7)} == {(24, 7, 5, 5)}
    assert {adapter.reduce5x5.conv.weight.shape for adapter in adapters_at_the_start()} == {(6, 96, 1, 1)}


@pytest.mark.parametrize("fields", [{"adapter": "vanilla"}, {"placement": "none"}, {"tuning": "full"}])
@pytest.mark.parametrize("choice", [{"adapter_start": "gaussian"}, {"reduction_dim": 1}])
def test_models_without_multiconv_adapters_refuse_what_would_change_nothing(fields, choice):
    ModelConfig.from_dict(ModelConfig(backbone="dinov2-tiny", branches=("float",), **fields).to_dict())
    with pytest.raises(ValueError, match="no MultiConv adapters"):
        ModelConfig(backbone="dinov2-tiny", branches=("float",), **fields, **choice)


def test_initial_adapters_give_zero_and_copying_copies_statistics(tiny, tiny_weights):
    images = batch(range(2), 28, 28)
    tiny.initialise_adapters()
    for branch in (tiny.float_branch, tiny.binary_branch):
        for adapter in branch.side.adapters:
            assert not adapter(torch.randn(2, 5, 192), (2, 2)).any()
            assert torch.equal(adapter.conv3x3.conv.weight, torch.full_like(adapter.conv3x3.conv.weight, 1e-5))
            assert adapter.down.weight.std() > 1e-3
    fresh = build_model(TINY, seed=3)
    head = fresh.binary_branch.head.expand.weight.clone()
    trained = model_of(filled_weights(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=5))
    fresh.start_from(trained)
    for name, value in trained.float_branch.side.state_dict().items():
        assert torch.equal(fresh.binary_branch.side.state_dict()[name], value)
        assert torch.equal(fresh.float_branch.side.state_dict()[name], value)
    assert torch.equal(fresh.binary_branch.head.expand.weight, head)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(images, ("float",)).floating, trained(images).floating)


@pytest.mark.parametrize(("fields", "message"), [
    ({"backbone": "dinov9-large"}, "unknown backbone 'dinov9-large'.*dinov2-tiny, .*dinov2-large"),
    ({"branches": ()}, "branches"),
    ({"branches": ("float", "float")}, "each once"),
    ({"branches": ("hashing",)}, "'float', 'binary'"),
    ({"placement": "last:5"}, "'last:5' does not fit dinov2-tiny \\(4 blocks\\)"),
    ({"placement": "last:0"}, "N from 1 to 4"),
    ({"placement": "first:2"}, "use 'all', 'none', 'last:N'"),
    ({"placement": "last"}, "use 'all', 'none', 'last:N'"),
    ({"code_bits": 100}, "code_bits 100 must be a positive multiple of 8"),
    ({"code_bits": 0}, "code_bits 0"),
    ({"float_dim": 0}, "float_dim 0"),
    ({"nested_bits": (60, 512)}, "nested_bits \\(60, 512\\) must be two or more ascending multiples of 8, .* 512"),
    ({"nested_bits": (64, 256)}, "of which the last is 512"),
    ({"nested_bits": (64, 64, 512)}, "ascending"),
    ({"nested_bits": (-8, 512)}, "multiples of 8"),
    ({"nested_bits": ("64", 512)}, "multiples of 8"),
    ({"nested_floats": (512,)}, "nested_floats \\(512,\\) must be two or more ascending whole numbers, .* 512"),
    ({"nested_floats": (0, 512)}, "whole numbers"),
    ({"nested_floats": (64, 512), "branches": ("binary",)}, "no float branch"),
    ({"nested_distillation": float("nan"), "nested_bits": (64, 512)}, "nested_distillation nan must be a number"),
])
def test_a_configuration_that_fits_no_model_is_one_clear_error(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        ModelConfig(**{"backbone": "dinov2-tiny", **fields})
    assert "\n" not in str(error.value)


def test_configuration_travels_as_plain_values():
    for backbone, branches in itertools.product(BACKBONES, [("float",), ("binary",), BRANCHES]):
        config = ModelConfig(backbone=backbone, branches=branches)
        assert ModelConfig.from_dict(config.to_dict()) == config
    nested = ModelConfig(backbone="dinov2-tiny", nested_bits=[64, 512], nested_floats=(8, 512))
    assert nested.to_dict()["nested_bits"] == [64, 512]
    assert ModelConfig.from_dict(json.loads(json.dumps(nested.to_dict()))) == nested != TINY
    assert ModelConfig.from_dict({"backbone": "dinov2-tiny"}) == TINY  # a file from before there was nesting
    assert ModelConfig(backbone="dinov2-tiny", branches=["binary", "float"]) == TINY
    with pytest.raises(AttributeError):
        TINY.code_bits = 8
    with pytest.raises(ValueError, match="unknown fields \\['registers'\\].*newer"):
        ModelConfig.from_dict({**TINY.to_dict(), "registers": 4})


def test_an_aggregation_that_does_not_exist_names_those_that_do():
    with pytest.raises(ValueError, match="unknown aggregation 'netvlad'; choose one of gem, boq, salad"):
        ModelConfig(backbone="dinov2-tiny", aggregation="netvlad")


def test_a_new_backbone_is_one_line_in_the_table(monkeypatch):
    monkeypatch.setitem(BACKBONES, "dinov2-two", ViT(64, 2, 2, "last:1", 16, None))
    config = ModelConfig(backbone="dinov2-two", code_bits=8)
    weights = filled_weights(config)
    images = batch(range(2), 28, 14)
    expected = oracle.extract_rows(weights, images, heads=2, first_level=1)
    model = build_model(config)
    model.load_state_dict(weights)
    with torch.no_grad():
        assert (model.eval()(images).floating - expected["floating"]).abs().max() <= 1e-5


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = build_model(TINY, seed=4)
    assert torch.equal(torch.rand(3), expected)
    second, other = build_model(TINY, seed=4), build_model(TINY, seed=5)
    for name, value in published_state_dict(first).items():
        assert torch.equal(published_state_dict(second)[name], value)
    assert not torch.equal(first.backbone.pos_embed, other.backbone.pos_embed)


@pytest.mark.parametrize(("backbone", "of_full", "below_partial"), [
    ("dinov2-large", 0.087, 0.5), ("dinov2-base", None, 0.5)])
def test_trained_parameters_against_full_and_partial_tuning(backbone, of_full, below_partial):
    """Figure 7 and section V: 8.7 % of full tuning (large), under half of tuning the last four blocks; each trains the
    head too."""
    with torch.device("meta"):
        model = SelaVPRpp(ModelConfig(backbone=backbone, branches=("float",)))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    head, whole, last_four = (sum(p.numel() for p in part.parameters()) for part in (
        model.float_branch.head, model.backbone, model.backbone.blocks[-4:]))
    assert trained == head + sum(p.numel() for p in model.float_branch.side.parameters())
    assert of_full is None or trained / (whole + head) == pytest.approx(of_full, abs=0.0005)
    assert trained / (last_four + head) < below_partial
