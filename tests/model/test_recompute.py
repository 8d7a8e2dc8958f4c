"""Training that keeps inputs alone and computes the rest again (model/layers/recompute.py), against keeping it all."""

import contextlib
import copy

import pytest
import torch
from fill import batch

from benchmarks.training import saved_bytes
from losses import mine_pairs, multi_similarity_loss, similarity_constrained_loss
from model import BRANCHES, ModelConfig, build_model
from model.layers.batch_norm import BatchNorm
from model.layers.block import Block
from model.network import straight_through_sign
from model.side_network import MultiConvAdapter, SideNetwork


def random_norms(module: torch.nn.Module) -> torch.nn.Module:
    for norm in module.modules():
        if isinstance(norm, BatchNorm):
            torch.nn.init.normal_(norm.weight, 1, 0.2)
            torch.nn.init.normal_(norm.bias, 0, 0.2)
    return module


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return random_norms(build_model(ModelConfig(backbone="dinov2-tiny"), seed=0)).train()


def two_ways(model):
    """Of one model: everything kept, and recomputed."""
    kept, recomputed = copy.deepcopy(model), copy.deepcopy(model)
    kept.recompute = False
    assert recomputed.recompute
    return kept, recomputed


def step(model, branch, images, precision=torch.float32):
    labels = torch.arange(len(images) // 2).repeat_interleave(2)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        out = model(images, (branch,))
    extracted = out.floating if branch == "float" else out.binary
    pairs = mine_pairs(extracted, labels)
    assert pairs.positive.any() and pairs.negative.any()
    loss = multi_similarity_loss(extracted, pairs)
    if branch == "binary":
        loss = loss + 0.1 * similarity_constrained_loss(out.relaxed, out.binary, pairs)
    loss.backward()
    return loss


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("size", [(70, 70), (56, 84)], ids=["square", "wide"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_a_step_is_equal_to_the_last_bit(tiny, branch, size, precision):
    images = batch(range(8), *size)
    kept, recomputed = two_ways(tiny)
    losses = [step(model, branch, images, precision) for model in (kept, recomputed)]
    assert torch.equal(*losses)
    gradients = {name: p.grad for name, p in kept.named_parameters() if p.grad is not None}
    assert len(gradients) == 4 * 24 + 5
    for name, parameter in recomputed.named_parameters():
        assert parameter.grad is None if name not in gradients else torch.equal(parameter.grad, gradients[name]), name
    for (name, a), (_, b), (_, before) in zip(recomputed.named_buffers(), kept.named_buffers(), tiny.named_buffers(),
                                              strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, before) != name.startswith(f"{branch}_branch"), name
    counted = {int(b) for name, b in recomputed.named_buffers()
               if name.startswith(f"{branch}_branch") and name.endswith("num_batches_tracked")}
    assert counted == {1}  # recomputing for the gradient is no second batch


@pytest.mark.slow
def test_gradient_of_a_small_adapter_in_double_precision():
    torch.manual_seed(0)
    side = random_norms(SideNetwork(dim=32, first_level=0, taps=[1], adapter="multiconv")).double().train()
    state = torch.randn(2, 1 + 2 * 3, 32, dtype=torch.double, requires_grad=True)
    tokens = torch.randn(2, 1 + 2 * 3, 32, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda state, *_: side.step(state, tokens, 1, (2, 3), recompute=True),
                                    (state, *side.parameters()), eps=1e-6, atol=1e-6, fast_mode=True)


def test_an_adapter_is_the_paper_s_five_convolutions_one_by_one():
    """Fig. 3c, written out over maps with channels first; tokens before the patches pass by."""
    torch.manual_seed(0)
    adapter = random_norms(MultiConvAdapter(64)).train()
    expected, tokens = copy.deepcopy(adapter), torch.randn(3, 2 + 4 * 5, 64)

    def unit(part, maps):
        norm = part.bn
        return torch.relu(torch.nn.functional.batch_norm(part.conv(maps), norm.running_mean, norm.running_var,
                                                         norm.weight, norm.bias, True, norm.momentum, norm.eps))

    x = torch.relu(expected.down(tokens))
    maps = x[:, 2:].transpose(1, 2).reshape(3, 32, 4, 5)
    scales = [unit(expected.conv1x1, maps), unit(expected.conv3x3, unit(expected.reduce3x3, maps)),
              unit(expected.conv5x5, unit(expected.reduce5x5, maps))]
    patches = torch.cat(scales, dim=1).flatten(2).transpose(1, 2)
    wanted = expected.up(torch.cat([x[:, :2], patches], dim=1) + x)
    assert (adapter(tokens, (4, 5)) - wanted).abs().max() < 1e-5
    for name, value in adapter.named_buffers():
        if "num_batches" not in name:
            assert torch.allclose(value, expected.get_buffer(name), atol=1e-6), name


def test_a_state_without_gradient_gets_none():
    side = SideNetwork(dim=32, first_level=0, taps=[1], adapter="multiconv").train()
    state, tokens = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    side.step(state, tokens, 1, (2, 2), recompute=True).sum().backward()
    assert state.grad is None
    assert side.adapters[0].down.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("rounded", [False, True], ids=["autocast", "rounded backbone"])
def test_gradient_in_bf16_points_where_the_fp32_one_does(tiny, branch, rounded):
    images = batch(range(8), 70, 70)
    exact, rough = copy.deepcopy(tiny), copy.deepcopy(tiny)
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


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_only_the_inputs_are_kept(tiny, precision):
    images = batch(range(4), 112, 112)
    found = []
    for model in two_ways(tiny):
        with model.backbone.rounded(precision), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            found.append(saved_bytes(lambda model=model: model(images, ("float",)),
                                     excluded=[*model.parameters(), *model.buffers()]))
    tokens = 4 * 65 * 192 * precision.itemsize
    assert found[1] == pytest.approx(5 * tokens, rel=0.05)  # the inputs of four adapters and of the head
    assert found[0] > 3 * found[1]


def test_the_backbone_runs_once(tiny, monkeypatch):
    calls = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda block, *x: (calls.append(block), forward(block, *x))[1])
    tiny(batch(range(2), 28, 28)).floating.sum().backward()
    assert len(calls) == len(set(calls)) == len(tiny.backbone.blocks)


def test_the_sign_saves_nothing():
    values = torch.randn(3, 8, requires_grad=True)
    assert saved_bytes(lambda: straight_through_sign(values), excluded=[]) == 0


def test_many_images_run_in_parts_with_equal_results(tiny, monkeypatch):
    images = batch(range(5), 28, 42)
    whole, parts = copy.deepcopy(tiny), copy.deepcopy(tiny)
    expected = whole(images, ("float",)).floating
    expected.square().sum(1).log().sum().backward()
    for module in ("backbone", "network"):
        monkeypatch.setattr(f"model.{module}.IMAGES_AT_ONCE", 2)
    found = parts(images, ("float",)).floating
    found.square().sum(1).log().sum().backward()
    assert (found - expected).abs().max() < 1e-6
    for (name, a), (_, b) in zip(parts.named_parameters(), whole.named_parameters(), strict=True):
        assert a.grad is None if b.grad is None else torch.allclose(a.grad, b.grad, atol=1e-5), name


def test_nothing_is_recomputed_in_evaluation(tiny, monkeypatch):
    for module in ("network", "side_network"):
        monkeypatch.setattr(f"model.{module}.recomputed", None)
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
