"""Prefixes against the losses of heads that are as short as they are, and naive loops."""

import math

import pytest
import torch
from test_hashing_losses import NAIVE, WEIGHT, naive_metric, naive_total, small
from test_losses import naive_pairs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from losses import (
    ablated_hashing_losses,
    code_prefixes,
    distillation_loss,
    float_prefixes,
    mine_pairs,
    multi_similarity_loss,
)
from model.network import straight_through_sign

LENGTHS = (4, 6, 8)


def codes_of(outputs: Tensor) -> tuple[Tensor, Tensor]:
    relaxed = normalize(outputs, dim=1)
    return relaxed, straight_through_sign(relaxed)


def nested_loss(name: str, outputs: Tensor, labels: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Of codes, and its gradient at what is normalised first."""
    outputs = outputs.detach().requires_grad_()
    loss = torch.zeros((), dtype=outputs.dtype)
    for h, b in code_prefixes(*codes_of(outputs), lengths):
        metric, quantization = ablated_hashing_losses(name, h, b, labels)
        loss = loss + metric + WEIGHT * quantization
    return loss, torch.autograd.grad(loss, outputs)[0]


@pytest.mark.parametrize("name", NAIVE)
def test_each_prefix_learns_as_a_code_of_that_length_alone(name):
    outputs, labels = small(0)
    expected, expected_gradient = 0.0, torch.zeros_like(outputs)
    for length in LENGTHS:
        value, gradient = naive_total(name, outputs[:, :length], labels, WEIGHT)
        expected += value
        expected_gradient[:, :length] += gradient
    loss, gradient = nested_loss(name, outputs, labels, LENGTHS)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)
    alone, gradient_alone = nested_loss(name, outputs, labels, LENGTHS[-1:])
    assert (gradient - gradient_alone).abs().max() > 1e-3 and loss != alone


def test_each_prefix_of_a_descriptor_learns_as_one_of_that_length_alone():
    outputs, labels = small(1)
    outputs.requires_grad_()
    loss, expected = torch.zeros(()), torch.zeros(())
    for f in float_prefixes(normalize(outputs, dim=1), LENGTHS):
        loss = loss + multi_similarity_loss(f, mine_pairs(f, labels))
    for length in LENGTHS:
        cut = outputs[:, :length]
        expected = expected + naive_metric(cut, *naive_pairs(cut.detach(), labels))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    gradients = [torch.autograd.grad(value, outputs)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-12)


def test_one_length_is_the_code_itself():
    """So that without nesting the loss is that of equation 15 to the bit."""
    relaxed, binary = codes_of(small(0)[0])
    (found,) = code_prefixes(relaxed, binary, (8,))
    assert found[0] is relaxed and found[1] is binary
    (found,) = float_prefixes(relaxed, (8,))
    assert found is relaxed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_prefixes_are_exact(dtype):
    relaxed, binary = codes_of(torch.randn(2000, 64, dtype=dtype))
    relaxed[:3, 0] = torch.tensor([0.0, 1e-38, 1e-8])
    binary[:3, 0] = 1
    for h, b in code_prefixes(relaxed, binary, (1, 2, 8, 40)):
        assert b.shape == h.shape and torch.equal(b, binary[:, :b.shape[1]])
        assert torch.allclose(h[3:].norm(dim=1), torch.ones((), dtype=dtype))


def row_of_gram(rows: list[list[float]], i: int) -> list[float]:
    products = [sum(x * y for x, y in zip(rows[i], other, strict=True)) for other in rows]
    norm = math.sqrt(sum(p * p for p in products))
    return [p / norm for p in products]


def naive_distillation(outputs: list[list[float]], lengths: tuple[int, ...]) -> float:
    total, n = 0.0, len(outputs)
    for shorter, longer in zip(lengths, lengths[1:], strict=False):
        cut = [[[x / math.sqrt(sum(y * y for y in row[:length])) for x in row[:length]] for row in outputs]
               for length in (shorter, longer)]
        for i in range(n):
            short, long = (row_of_gram(rows, i) for rows in cut)
            total += sum((a - b) ** 2 for a, b in zip(short, long, strict=True)) / n
    return total


def test_distillation_matches_naive_loops():
    outputs, _ = small(2)
    value = distillation_loss(normalize(outputs, dim=1), LENGTHS)
    assert value.item() == pytest.approx(naive_distillation(outputs.tolist(), LENGTHS), rel=1e-10)
    assert value > 1e-3
    twice = distillation_loss(normalize(torch.cat([outputs, outputs]), dim=1), LENGTHS)
    assert twice.item() == pytest.approx(value.item(), rel=1e-10)  # it does not depend on the batch's size


def test_the_longer_prefix_learns_nothing_from_the_shorter():
    outputs, _ = small(2)
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation_loss(normalize(outputs, dim=1), (4, 8)), outputs)
    assert gradient[:, 4:].abs().max() < 1e-12 < 1e-4 < gradient[:, :4].abs().max()
    step = outputs.detach() - 0.05 * gradient / gradient.norm()
    before, after = (distillation_loss(normalize(x, dim=1), (4, 8)) for x in (outputs, step))
    assert after < before


def test_one_length_has_nothing_to_distil():
    assert distillation_loss(codes_of(small(0)[0])[0], (8,)) == 0


@pytest.mark.parametrize("length", [0, 9, -1])
def test_a_length_that_there_is_not(length):
    relaxed, binary = codes_of(small(0)[0])
    with pytest.raises(ValueError, match=f"a prefix of {length} of 8 dimensions; expected 1 to 8"):
        list(code_prefixes(relaxed, binary, (length, 8)))


def test_no_prefix_hides_outputs_that_are_not_numbers():
    outputs, labels = small(0, torch.float32)
    outputs[2, 1] = math.nan
    for h, b in code_prefixes(*codes_of(outputs), LENGTHS):
        assert multi_similarity_loss(b, mine_pairs(b, labels)).isnan() or h.shape[1] == 8  # a sign is finite
        assert ablated_hashing_losses("sc+ste", h, b, labels)[1].isnan()
    assert distillation_loss(codes_of(outputs)[0], LENGTHS).isnan()


def test_nothing_is_read_back_from_the_device():
    with FakeTensorMode():
        outputs = torch.randn(12, 8, requires_grad=True)
        loss, gradient = nested_loss("sc+ste", outputs, torch.arange(12) // 3, LENGTHS)
        assert (loss.shape, gradient.shape) == ((), (12, 8))
        assert distillation_loss(codes_of(outputs)[0], LENGTHS).shape == ()


def recall_at_1(codes: Tensor, labels: Tensor) -> float:
    similar = (codes @ codes.T).fill_diagonal_(-torch.inf)
    return (labels[similar.argmax(dim=1)] == labels).double().mean().item()


def learnt(lengths: tuple[int, ...], *, bits: int) -> tuple[float, float]:
    """A linear code of made-up places, and recall@1 among other images of them: by its first bits, and by all."""
    generator = torch.Generator().manual_seed(7)
    places = torch.randn(24, 1, 32, generator=generator)
    images = (places + 1.2 * torch.randn(24, 8, 32, generator=generator)).flatten(0, 1)
    labels = torch.arange(24).repeat_interleave(8)
    weight = torch.randn(64, 32, generator=generator).div(6).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=0.01)
    train = torch.arange(len(images)) % 8 < 4
    for _ in range(60):
        loss = torch.zeros(())
        for h, b in code_prefixes(*codes_of(images[train] @ weight.T), lengths):
            metric, quantization = ablated_hashing_losses("sc+ste", h, b, labels[train])
            loss = loss + metric + 0.1 * quantization
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    _, codes = codes_of(images[~train] @ weight.T.detach())
    return recall_at_1(codes[:, :bits], labels[~train]), recall_at_1(codes, labels[~train])


def test_nested_codes_can_be_cut():
    nested, plain = learnt((8, 16, 32, 64), bits=8), learnt((64,), bits=8)
    assert nested[0] > plain[0] + 0.1
    assert nested[1] > plain[1] - 0.1
