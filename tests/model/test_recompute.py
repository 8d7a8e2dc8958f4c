"""The economical training path (model/economical.py) against the readable modules: values, gradients, statistics."""

import contextlib
import copy

import pytest
import torch
from fill import batch

from benchmarks.measure import saved_bytes
from losses import mine_pairs, multi_similarity_loss, similarity_constrained_loss
from model import BRANCHES, ModelConfig, build_model
from model.economical import economical_step
from model.layers.adapter import MultiConvAdapter
from model.layers.binarize import straight_through_sign
from model.layers.block import Block

ZERO_IN_EXACT_ARITHMETIC = ".conv.bias"  # BatchNorm takes a channel's mean away, and with it any bias before it


def random_norms(module: torch.nn.Module) -> torch.nn.Module:
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.weight, 1, 0.2)
            torch.nn.init.normal_(norm.bias, 0, 0.2)
    return module


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return random_norms(build_model(ModelConfig(backbone="dinov2-tiny"), seed=0)).train()


def two_paths(model):
    readable, economical = copy.deepcopy(model), copy.deepcopy(model)
    readable.economical = False
    assert economical.economical
    return readable, economical


def relu_patterns(model) -> list[torch.Tensor]:
    """Where the ReLUs of a readable model let through, filled by its next forward pass."""
    found = []
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, output: found.append(output.detach()))
        elif isinstance(module, MultiConvAdapter):
            module.down.register_forward_hook(lambda _, __, output: found.append(output.detach()))
    return found


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("size", [(70, 70), (56, 84)], ids=["square", "wide"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_step_in_fp32_equals_the_readable_one(tiny, branch, size):
    images, labels = batch(range(8), *size), torch.arange(4).repeat_interleave(2)
    readable, economical = two_paths(tiny)
    before_relu = relu_patterns(readable)
    outputs, mined = [], []
    for model in (readable, economical):
        out = model(images, (branch,))
        pairs = mine_pairs(out.floating if branch == "float" else out.binary, labels)
        loss = multi_similarity_loss(out.floating if branch == "float" else out.binary, pairs)
        if branch == "binary":
            loss = loss + 0.1 * similarity_constrained_loss(out.relaxed, out.binary, pairs)
        loss.backward()
        outputs.append(out)
        mined.append(pairs)
    # A value within rounding of a ReLU's kink could fall to either side, and with it its gradient.
    assert min(values.abs().min() for values in before_relu) > 1e-7
    if branch == "binary":
        assert torch.equal(outputs[0].binary, outputs[1].binary)
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*mined, strict=True))
    gradients = {name: p.grad for name, p in readable.named_parameters() if p.grad is not None}
    assert len(gradients) == 4 * 24 + 5
    for name, parameter in economical.named_parameters():
        if name not in gradients:
            assert parameter.grad is None
        elif not name.endswith(ZERO_IN_EXACT_ARITHMETIC):
            assert distance(parameter.grad, gradients[name]) <= 1e-5, name
    for (name, a), (_, b) in zip(economical.named_buffers(), readable.named_buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name
    counted = {int(b) for name, b in economical.named_buffers()
               if name.startswith(f"{branch}_branch") and name.endswith("num_batches_tracked")}
    assert counted == {1}  # recomputing for the gradient is no second batch


def test_gradient_of_a_small_adapter_in_double_precision():
    torch.manual_seed(0)
    adapter = random_norms(MultiConvAdapter(32)).double().train()
    state = torch.randn(2, 1 + 2 * 3, 32, dtype=torch.double, requires_grad=True)
    tokens = torch.randn(2, 1 + 2 * 3, 32, dtype=torch.double)
    parameters = list(adapter.parameters())
    assert torch.autograd.gradcheck(
        lambda state, *_: economical_step(adapter, state, tokens, (2, 3)), (state, *parameters), eps=1e-6, atol=1e-6)


def test_a_state_without_gradient_gets_none():
    adapter = MultiConvAdapter(32).train()
    state, tokens = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    economical_step(adapter, state, tokens, (2, 2)).sum().backward()
    assert state.grad is None
    assert adapter.down.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("rounded", [False, True], ids=["autocast", "rounded backbone"])
def test_gradient_in_bf16_points_where_the_fp32_one_does(tiny, branch, rounded):
    images = batch(range(8), 70, 70)
    exact, rough = two_paths(tiny)
    wanted = "floating" if branch == "float" else "relaxed"
    # One gradient for both: signs and mined pairs would turn a rounding into another loss.
    given = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model, low in ((exact, False), (rough, True)):
        with model.backbone.rounded(torch.bfloat16) if low and rounded else contextlib.nullcontext(), \
                torch.autocast("cpu", torch.bfloat16, enabled=low):
            output = getattr(model(images, (branch,)), wanted)
        assert output.dtype == torch.float32
        output.backward(given)
        gradients.append(torch.cat([p.grad.flatten() for p in model.branch(branch).parameters()]).double())
    assert torch.cosine_similarity(*gradients, dim=0) >= 0.999


def test_only_the_inputs_are_kept(tiny):
    readable, economical = two_paths(tiny)
    images = batch(range(4), 112, 112)
    kept = [saved_bytes(lambda model=model: model(images, ("float",)),
                        excluded=[*model.parameters(), *model.buffers()]) for model in (readable, economical)]
    tokens = 4 * 65 * 192 * 4
    assert kept[1] == pytest.approx(5 * tokens, rel=0.05)  # the inputs of four adapters and of the head
    assert kept[0] > 3 * kept[1]


def test_the_backbone_runs_once(tiny, monkeypatch):
    calls = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda block, x: (calls.append(block), forward(block, x))[1])
    tiny(batch(range(2), 28, 28)).floating.sum().backward()
    assert len(calls) == len(set(calls)) == len(tiny.backbone.blocks)


def test_the_sign_saves_nothing():
    values = torch.randn(3, 8, requires_grad=True)
    assert saved_bytes(lambda: straight_through_sign(values), excluded=[]) == 0


def test_many_images_run_in_parts_with_equal_results(tiny, monkeypatch):
    images = batch(range(5), 28, 42)
    _, whole = two_paths(tiny)
    _, parts = two_paths(tiny)
    expected = whole(images, ("float",)).floating
    expected.square().sum(1).log().sum().backward()
    for module in ("backbone", "economical"):
        monkeypatch.setattr(f"model.{module}.IMAGES_AT_ONCE", 2)
    found = parts(images, ("float",)).floating
    found.square().sum(1).log().sum().backward()
    assert (found - expected).abs().max() < 1e-6
    for (name, a), (_, b) in zip(parts.named_parameters(), whole.named_parameters(), strict=True):
        assert a.grad is None if b.grad is None else torch.allclose(a.grad, b.grad, atol=1e-5), name


def test_evaluation_takes_the_readable_modules(tiny, monkeypatch):
    monkeypatch.setattr("model.layers.adapter.economical_step", None)
    model = copy.deepcopy(tiny).eval()
    assert model(batch(range(1), 28, 28)).floating.requires_grad
    with torch.no_grad():
        model.train()(batch(range(2), 28, 28))


def test_rounded_weights_come_back_exact(tiny):
    model = copy.deepcopy(tiny).eval()
    images = batch(range(2), 28, 28)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        exact = model(images).floating
        with pytest.raises(KeyError), model.backbone.rounded(torch.bfloat16):
            assert model.backbone.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
            assert model.backbone.norm.weight.dtype == torch.float32  # which takes the side networks' fp32 states
            with torch.autocast("cpu", torch.bfloat16):
                rough = model(images).floating
            raise KeyError
        assert torch.equal(model(images).floating, exact)
    assert 0.999 <= (rough * exact).sum(1).min() < 1 - 1e-7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
