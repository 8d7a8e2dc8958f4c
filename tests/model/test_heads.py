"""BoQ and SALAD against the published code's recorded descriptors, naive loops in double precision, and their rules."""

import itertools
import math

import numpy as np
import pytest
import torch
from fill import _generator, batch, fill
from published import DATA, model_of, published_shapes, read_json
from torch import nn

from model import (
    AGGREGATORS,
    Checkpoint,
    CheckpointError,
    ModelConfig,
    SelaVPRpp,
    build_model,
    fingerprint,
    load_model,
    published_state_dict,
    read_checkpoint,
    save_checkpoint,
)
from model.checkpoint import infer_config
from model.layers.boq import BoQHead
from model.layers.salad import SaladHead, share_out
from model.published_names import to_own_names, to_published_names

HEADS = {"boq": (BoQHead, 12288), "salad": (SaladHead, 8448)}
# "base/boq" and the like: {entries: [[name, shape]], float: {fingerprint, params, trainable}, rerank: {...}}
RECORDED = read_json("published_heads.json.gz")
# `first`: the descriptor of image 0; `sixteenth`: of those that follow, every 16th entry. At 224 x 224.
GOLDEN = np.load(DATA / "golden_forward_heads.npz")
GOLDEN_CODES = np.load(DATA / "golden_forward_gem.npz")
MODES = {"float": ("float",), "rerank": ("float", "binary")}
DIM, GRID = 24, (6, 12)  # 72 patches, not square


def head_values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """fill.py's rules, and the reference filler's three more for what only these heads have."""
    rules = {"dust_bin": (1.0, 0.1), "queries": (0.0, 1.0), "in_proj_bias": (0.0, 0.02)}
    leaf = name.split(".")[-1]
    if leaf not in rules:
        return fill({name: shape})[name]
    mean, scale = rules[leaf]
    normal = _generator(f"0:{name}").standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)
    return torch.from_numpy(np.asarray(mean + scale * normal, np.float32))


def head_shapes(key: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in RECORDED[key]["entries"]}


def shapes_of(backbone: str, mode: str, aggregation: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint: the one with GeM, its head exchanged."""
    shapes = {name: shape for name, shape in published_shapes(f"{backbone}/{mode}/gem").items()
              if not name.startswith(("linear1.", "linear2.", "aggregation.1."))}
    return shapes | head_shapes(f"{backbone}/{aggregation}")


def published_head(aggregation: str, dim: int = DIM) -> dict[str, torch.Tensor]:
    """Weights by the names that the published code has behind "aggregation.", for tokens of any width."""
    shapes = {name: tuple(dim if size == 768 else size for size in shape)
              for name, shape in head_shapes(f"base/{aggregation}").items()}
    return {name: head_values(name, shape) for name, shape in shapes.items()}


def head_of(weights: dict[str, torch.Tensor], aggregation: str) -> nn.Module:
    head = HEADS[aggregation][0](DIM, HEADS[aggregation][1])
    head.load_state_dict({to_own_names(name).removeprefix("float_branch.head."): value
                          for name, value in weights.items()})
    return head.eval()


@pytest.fixture(params=HEADS)
def aggregation(request):
    return request.param


@pytest.fixture
def head(aggregation):
    return head_of(published_head(aggregation), aggregation)


@pytest.fixture
def tokens():
    return torch.randn(3, 1 + 6 * 12, DIM, generator=torch.Generator().manual_seed(1))


# The published code's descriptors

@pytest.fixture(scope="module", params=["base", "large"])
def backbone_weights(request):
    """Everything of the two-branch model but the float head."""
    shapes = {name: shape for name, shape in published_shapes(f"{request.param}/rerank/gem").items()
              if not name.startswith(("linear1.", "linear2.", "aggregation.1."))}
    return request.param, fill(shapes)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_descriptors_equal_the_published_code(backbone_weights, aggregation, mode):
    backbone, weights = backbone_weights
    heads = {name: head_values(name, shape) for name, shape in head_shapes(f"{backbone}/{aggregation}").items()}
    model = model_of({name: heads[name] if name in heads else weights[name]
                      for name in shapes_of(backbone, mode, aggregation)})
    recorded = RECORDED[f"{backbone}/{aggregation}"][mode]
    assert fingerprint(model) == recorded["fingerprint"]
    assert sum(p.numel() for p in model.parameters()) == recorded["params"]
    if mode == "rerank":
        model.freeze("float_branch")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == recorded["trainable"]
    if (backbone, mode) == ("large", "float"):
        return  # the float branch of the two-branch model extracts an image already; another pass would take seconds
    with torch.no_grad():
        relaxed, binary, floating = model(batch([1 if mode == "float" else 0], 224, 224))
    if mode == "float":
        assert relaxed is None
        expected = GOLDEN[f"{backbone}.{aggregation}.sixteenth"][0]
        assert np.abs(floating[0, ::16].numpy() - expected).max() <= 1e-5
        return
    expected = GOLDEN[f"{backbone}.{aggregation}.first"]
    assert floating.shape == (1, len(expected))
    assert np.abs(floating[0].numpy() - expected).max() <= 1e-5
    codes = GOLDEN_CODES[f"{backbone}.224.hash"][:1]  # of the model with GeM: the binary branch is the same
    assert np.abs(relaxed.numpy() - codes).max() <= 1e-5
    assert ((binary.numpy() > 0) == (codes > 0))[np.abs(codes) > 1e-5].all()


# Naive loops in double precision, by the published names

def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state, name, x):
    x = x - x.mean(-1, keepdims=True)
    return state[f"{name}.weight"] * x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5) + state[f"{name}.bias"]


def attention(state, name, queries, keys):
    """(Q, 384), (N, 384) -> (Q, 384), one head and one query at a time."""
    q, k, v = (x @ weight.T + bias for x, weight, bias in zip(
        (queries, keys, keys), np.split(state[f"{name}.in_proj_weight"], 3),
        np.split(state[f"{name}.in_proj_bias"], 3), strict=True))
    result = np.zeros_like(q)
    for head, i in itertools.product(range(6), range(len(q))):
        part = slice(64 * head, 64 * head + 64)
        logits = np.array([q[i, part] @ key for key in k[:, part]]) / 8
        weights = np.exp(logits - logits.max())
        result[i, part] = weights / weights.sum() @ v[:, part]
    return linear(state, f"{name}.out_proj", result)


def naive_boq(state, patches, rows, columns):
    kernel, x = state["proj_c.weight"], np.zeros((rows * columns, 384))
    for i, j in itertools.product(range(rows), range(columns)):
        x[i * columns + j] = state["proj_c.bias"]
        for di, dj in itertools.product((-1, 0, 1), (-1, 0, 1)):
            if 0 <= i + di < rows and 0 <= j + dj < columns:
                x[i * columns + j] += kernel[:, :, di + 1, dj + 1] @ patches[(i + di) * columns + j + dj]
    x = layer_norm(state, "norm_input", x)
    answers = []
    for layer in ("boqs.0", "boqs.1"):
        x = layer_norm(state, f"{layer}.encoder.norm1", x + attention(state, f"{layer}.encoder.self_attn", x, x))
        hidden = np.maximum(linear(state, f"{layer}.encoder.linear1", x), 0)
        x = layer_norm(state, f"{layer}.encoder.norm2", x + linear(state, f"{layer}.encoder.linear2", hidden))
        q = state[f"{layer}.queries"][0]
        q = layer_norm(state, f"{layer}.norm_q", q + attention(state, f"{layer}.self_attn", q, q))
        answers += list(layer_norm(state, f"{layer}.norm_out", attention(state, f"{layer}.cross_attn", q, x)))
    descriptor = np.zeros((384, 32))
    for channel in range(384):
        descriptor[channel] = linear(state, "fc", np.array([answer[channel] for answer in answers]))
    return descriptor.reshape(-1) / np.linalg.norm(descriptor)


def naive_plan(scores, dustbin):
    """(N, 64) scores -> (64, N): a matrix of positive numbers, its rows and columns scaled in turns."""
    count = len(scores)
    kernel = np.exp(np.vstack([scores.T, np.full(count, dustbin)]))
    total = count + 64
    rows, columns = [1 / total] * 64 + [(count - 64) / total], [1 / total] * count
    u, v = np.ones(65), np.ones(count)
    for _ in range(3):
        for k in range(65):
            u[k] = rows[k] / sum(kernel[k, i] * v[i] for i in range(count))
        for i in range(count):
            v[i] = columns[i] / sum(kernel[k, i] * u[k] for k in range(65))
    return (u[:, None] * kernel * v)[:64] * total


def mlp(state, first, last, x):
    weight = state[f"{first}.weight"].reshape(512, -1)
    hidden = np.maximum(weight @ x + state[f"{first}.bias"], 0)
    return state[f"{last}.weight"].reshape(-1, 512) @ hidden + state[f"{last}.bias"]


def naive_salad(state, tokens):
    token = mlp(state, "token_features.0", "token_features.2", tokens[0])
    features = [mlp(state, "cluster_features.0", "cluster_features.3", patch) for patch in tokens[1:]]
    scores = [mlp(state, "score.0", "score.3", patch) for patch in tokens[1:]]
    plan = naive_plan(np.array(scores), float(state["dust_bin"]))
    clusters = []
    for row in plan:
        total = sum(share * feature for share, feature in zip(row, features, strict=True))
        clusters.append(total / np.linalg.norm(total))
    descriptor = list(token / np.linalg.norm(token))
    descriptor += [clusters[k][channel] for channel, k in itertools.product(range(128), range(64))]
    return np.array(descriptor) / np.linalg.norm(descriptor)


def test_a_head_equals_naive_loops_on_a_grid_that_is_not_square(aggregation, tokens):
    weights = published_head(aggregation)
    state = {name.removeprefix("aggregation."): value.double().numpy() for name, value in weights.items()}
    with torch.no_grad():
        extracted = head_of(weights, aggregation)(tokens, GRID)
    assert extracted.dtype == torch.float32
    assert extracted.shape == (3, HEADS[aggregation][1])
    for one, descriptor in zip(tokens[:2].double().numpy(), extracted, strict=False):
        expected = naive_boq(state, one[1:], *GRID) if aggregation == "boq" else naive_salad(state, one)
        assert np.abs(descriptor.numpy() - expected).max() <= 1e-6


# Rules of both

def test_registers_are_not_used_and_the_class_token_by_salad_alone(head, aggregation, tokens):
    with torch.no_grad():
        plain = head(tokens, GRID)
        registers = 5 * torch.randn(3, 4, DIM)
        assert torch.equal(head(torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1), GRID), plain)
        changed = head(torch.cat([tokens[:, :1] + 1, tokens[:, 1:]], dim=1), GRID)
    if aggregation == "boq":
        assert torch.equal(changed, plain)
    else:
        assert (changed[:, :256] - plain[:, :256]).abs().max() > 1e-3
        assert torch.allclose(changed[:, 256:], plain[:, 256:], atol=1e-7)


def test_the_grid_matters_to_boq_and_only_the_number_of_patches_to_salad(head, aggregation, tokens):
    with torch.no_grad():
        difference = (head(tokens, GRID) - head(tokens, (12, 6))).abs().max()
    assert difference > 1e-3 if aggregation == "boq" else difference < 1e-6


def test_an_image_is_extracted_alike_in_every_batch(head, tokens):
    with torch.no_grad():
        together = head(tokens, GRID)
        alone = torch.cat([head(one[None], GRID) for one in tokens])
    assert (together - alone).abs().max() <= 1e-6
    assert (together.norm(dim=1) - 1).abs().max() < 1e-5


def test_autocast_gives_fp32_descriptors_near_the_fp32_ones(head, tokens):
    for mode in (head.eval(), head.train()):
        for module in mode.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        exact = mode(tokens, GRID)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = mode(tokens, GRID)
            with torch.no_grad():  # where torch takes its fused attention
                rougher = mode(tokens.bfloat16(), GRID)
        for other in (rough, rougher):
            assert other.dtype == torch.float32
            assert (exact * other).sum(dim=1).min() > 0.995
            assert (other.norm(dim=1) - 1).abs().max() < 1e-5


def test_the_gradient_reaches_every_parameter_and_the_tokens(head, aggregation, tokens):
    tokens.requires_grad_()
    weight = torch.randn(HEADS[aggregation][1], generator=torch.Generator().manual_seed(2))
    (head(tokens, GRID) @ weight).sum().backward()
    sizes = {name: parameter.grad.abs().max().item() for name, parameter in head.named_parameters()}
    dead = {name for name, size in sizes.items() if size < 1e-5}
    # What all patches' scores share is cancelled by the first scaling of the rows (see share_out).
    assert dead == ({"dustbin", "scores.3.bias"} if aggregation == "salad" else set())
    assert tokens.grad[:, 1:].abs().amax(dim=2).min() > 0
    assert tokens.grad[:, 0].any() == (aggregation == "salad")


def test_a_dimension_that_a_head_cannot_have_is_refused(aggregation):
    kind, dimension = HEADS[aggregation]
    assert AGGREGATORS[aggregation] is kind
    assert ModelConfig(backbone="dinov2-tiny", aggregation=aggregation).float_dim == kind.fixed_dim == dimension
    with pytest.raises(ValueError, match=f"float_dim 100: .* has {dimension}"):
        ModelConfig(backbone="dinov2-tiny", aggregation=aggregation, float_dim=100)
    with pytest.raises(ValueError, match=f"out_dim 100: .* has {dimension}"):
        kind(DIM, 100)


# SALAD's own

def test_salad_shares_out_every_patch_and_its_dustbin_changes_nothing():
    scores = 3 * torch.randn(2, 64, 90, generator=torch.Generator().manual_seed(3))
    plan = share_out(scores, torch.tensor(1.0))
    for one, shares in zip(scores, plan, strict=True):
        assert np.abs(naive_plan(one.T.double().numpy(), 1.0) - shares.numpy()).max() < 1e-5
    assert (plan > 0).all()
    assert (plan.sum(dim=1) < 1).all()  # the rest went to the dustbin
    assert (plan.sum(dim=(1, 2)) - 64).abs().max() < 10
    assert (share_out(scores, torch.tensor(-4.0)) - plan).abs().max() < 1e-5
    wide = share_out(100 * scores, torch.tensor(1.0))  # exp(400) is beyond fp32
    assert wide.isfinite().all()


def test_salad_transports_and_sums_in_fp32_under_autocast(tokens):
    head = head_of(published_head("salad"), "salad")
    rough = {}
    for name in ("features", "scores"):
        getattr(head, name).register_forward_hook(lambda _, inputs, output, name=name: rough.update({name: output}))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        extracted = head(tokens, GRID)
    assert {value.dtype for value in rough.values()} == {torch.bfloat16}
    features, scores = (rough[name][0].flatten(1).double().numpy() for name in ("features", "scores"))
    clusters = features @ naive_plan(scores.T, 1.0).T
    clusters /= np.linalg.norm(clusters, axis=0)
    expected = clusters.reshape(-1) / np.sqrt(65)  # 64 clusters and the class token have equal parts
    assert np.abs(extracted[0, 256:].numpy() - expected).max() < 1e-6


def test_boq_draws_nothing(tokens):
    head = head_of(published_head("boq"), "boq")
    assert torch.allclose(head(tokens, GRID), head.train()(tokens, GRID), atol=1e-6)


def test_salad_draws_in_training_only(tokens):
    head = head_of(published_head("salad"), "salad")
    assert torch.equal(head(tokens, GRID), head(tokens, GRID))
    head.train()
    first, second = head(tokens, GRID), head(tokens, GRID)
    assert torch.allclose(first[:, :256], second[:, :256], atol=1e-7)  # the class token's layers have no dropout
    assert (first - second).abs().max() > 1e-3
    zeros = []
    for layers in (head.features, head.scores):
        layers[1].register_forward_hook(lambda _, inputs, output: zeros.append((output == 0).float().mean().item()))
    head(tokens, GRID)
    assert zeros == pytest.approx([0.3, 0.3], abs=0.02)


@pytest.mark.parametrize("grid", [(8, 8), (1, 64), (5, 3), (1, 1)])
def test_salad_refuses_too_few_patches_in_one_line(grid):
    head = SaladHead(DIM)
    count = grid[0] * grid[1]
    with pytest.raises(ValueError, match=f"more than 64 patches, got {count} .* larger than 112 x 112$") as error:
        head(torch.zeros(1, 1 + count, DIM), grid)
    assert "\n" not in str(error.value)
    if count == 64:
        assert head.eval()(torch.randn(1, 1 + 65, DIM), (5, 13)).isfinite().all()


# In models and files

@pytest.mark.parametrize(("backbone", "mode"), [*itertools.product(("base", "large"), MODES)])
def test_published_checkpoints_are_recognised_and_their_names_map_both_ways(backbone, mode, aggregation):
    shapes = shapes_of(backbone, mode, aggregation)
    state = {to_own_names(f"module.{name}"): torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    config = ModelConfig(backbone=f"dinov2-{backbone}", branches=MODES[mode], aggregation=aggregation)
    assert infer_config(state, "test") == config
    with torch.device("meta"):
        own = {name: value.shape for name, value in SelaVPRpp(config).state_dict().items()}
    assert {name: value.shape for name, value in state.items()} == own
    assert len(state) == len(shapes)
    assert {to_published_names(name) for name in own} == set(shapes)
    assert all(to_own_names(name) == name for name in own)
    assert all(to_published_names(to_own_names(name)) == name for name in shapes)


@pytest.mark.parametrize("backbone", ["dinov2-giant", "dinov2-giant-reg", "dinov2-small-reg", "dinov2-base-reg",
                                      "dinov2-large-reg", "dinov2-small"])
def test_backbones_that_were_never_published_are_recognised(backbone, aggregation):
    config = ModelConfig(backbone=backbone, aggregation=aggregation)
    with torch.device("meta"):
        state = SelaVPRpp(config).state_dict()
    assert infer_config(state, "test") == config
    if "backbone.register_tokens" in state:
        state["backbone.register_tokens"] = torch.zeros(1, 3, config.vit.dim)
        with pytest.raises(CheckpointError, match="blocks deep, with 3 registers"):
            infer_config(state, "test")


@pytest.fixture(scope="module")
def tiny_gem():
    return published_state_dict(build_model(ModelConfig(backbone="dinov2-tiny"), seed=0))


def tiny_weights(tiny_gem, aggregation):
    rest = {name: value for name, value in tiny_gem.items()
            if not name.startswith(("linear1.", "linear2.", "aggregation.1."))}
    return rest | published_head(aggregation, 192)


def test_files_go_both_ways(tmp_path, tiny_gem, aggregation):
    weights = tiny_weights(tiny_gem, aggregation)
    theirs, ours = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in weights.items()}}, theirs)
    model = load_model(theirs)
    assert model.config.aggregation == aggregation
    back = published_state_dict(model)
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    save_checkpoint(model, ours, pretrained=False)
    assert read_checkpoint(ours).config == model.config
    assert fingerprint(load_model(ours)) == fingerprint(model)


def test_a_head_that_is_unknown_or_incomplete_is_refused(tiny_gem, aggregation):
    weights = tiny_weights(tiny_gem, aggregation)
    for changed, message in (
        ({name: value for name, value in weights.items() if not name.startswith("aggregation.")}, "no GeM head, nor"),
        ({name.replace("aggregation.", "aggregation.netvlad."): value for name, value in weights.items()},
         "no GeM head, nor"),
        ({name: value for name, value in weights.items() if ".norm_out.bias" not in name and "score.3.b" not in name},
         "missing float_branch.head"),
        ({**weights, "linear1.bias": torch.zeros(192)}, "unexpected float_branch.head.project.bias"),
        ({**weights, "aggregation.1.p": torch.ones(1)}, "unexpected float_branch.head.pool.p"),
        ({**weights, **published_head({"boq": "salad", "salad": "boq"}[aggregation], 192)}, "unexpected"),
        ({name: value for name, value in weights.items() if not name.startswith("linear4.")},
         "binary branch has no GeM head; others"),
    ):
        state = {to_own_names(name): value for name, value in changed.items()}
        with pytest.raises(CheckpointError, match=message):
            load_model(Checkpoint(infer_config(state, "test"), state))


@pytest.mark.parametrize("recompute", [True, False])
def test_a_model_learns_through_the_head(tiny_gem, aggregation, recompute):
    model = model_of(tiny_weights(tiny_gem, aggregation)).train()
    model.recompute = recompute
    images = batch(range(2), 126, 112)  # 9 x 8 patches
    floating = model(images, ("float",)).floating
    with torch.no_grad():
        first = model.eval()(images, ("float",)).floating
    assert (first.norm(dim=1) - 1).abs().max() < 1e-5
    (floating @ torch.linspace(-1, 1, floating.shape[1])).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.float_branch.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradient.any() for name, gradient in gradients.items() if "dustbin" not in name)
