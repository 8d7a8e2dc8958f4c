"""The methods of Table XI against naive loops: every pair by itself in double precision, gradients by hand."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from test_losses import READS_BACK, as_sets, naive_pairs, pairs_of, places, recorded
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

from losses import (
    ablated_hashing_losses,
    gaussian_error_loss,
    locality_constrained_loss,
    mine_pairs,
    multi_similarity_loss,
    similarity_constrained_loss,
)
from model.config import HASHING_METHODS as NAMES
from model.network import straight_through_sign

LOSSES = [similarity_constrained_loss, locality_constrained_loss, gaussian_error_loss]
WEIGHT = 0.7  # lambda


def inner(x: Tensor, y: Tensor) -> Tensor:
    return sum(a * b for a, b in zip(x, y, strict=True))


def gaussian(x: Tensor, y: Tensor) -> Tensor:
    """Of the distance itself, where the loss takes the cosine."""
    return torch.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 2)


def naive_change(similarity: Callable, relaxed: Tensor, binary: Tensor, chosen) -> Tensor:
    """Mean over chosen pairs of (similarity of f - similarity of b / sqrt(d))^2."""
    scaled = binary / math.sqrt(binary.shape[1])
    squares = [(similarity(relaxed[i], relaxed[j]) - similarity(scaled[i], scaled[j])) ** 2 for i, j in chosen]
    return sum(squares) / len(squares)


def naive_metric(extracted: Tensor, positive: set, negative: set) -> Tensor:
    """Equation 16 with alpha 1, beta 50, gamma 0."""
    def cosine(i: int, j: int) -> Tensor:
        x, y = extracted[i], extracted[j]
        return inner(x, y) / (inner(x, x) * inner(y, y)).sqrt()

    total = 0
    for anchor in range(len(extracted)):
        near = sum(torch.exp(-cosine(i, j)) for i, j in positive if i == anchor)
        far = sum(torch.exp(50 * cosine(i, j)) for i, j in negative if i == anchor)
        total = total + torch.log(torch.as_tensor(1 + near)) + torch.log(torch.as_tensor(1 + far)) / 50
    return total / len(extracted)


# Whether the codes are learnt from, and which similarity is to survive the sign: said once more.
NAIVE = {"direct": (False, None), "lc": (False, gaussian), "lc-error": (False, inner), "sc": (False, inner),
         "ste": (True, None), "sc+ste": (True, inner)}


def naive_total(name: str, outputs: Tensor, labels: Tensor, weight: float) -> tuple[float, Tensor]:
    """Value of the whole loss, and its gradient at what is normalised, without a straight-through function."""
    learns_from_codes, similarity = NAIVE[name]
    outputs = outputs.detach().requires_grad_()
    relaxed = outputs / torch.stack([inner(row, row).sqrt() for row in outputs])[:, None]
    f = relaxed.detach().requires_grad_()
    b = torch.tensor([[-1.0 if value < 0 else 1.0 for value in row] for row in f.tolist()], dtype=f.dtype)
    b.requires_grad_()
    extracted = b if learns_from_codes else f
    positive, negative = naive_pairs(extracted.detach(), labels)
    assert positive and negative
    total = naive_metric(extracted, positive, negative)
    if similarity is not None:
        change = naive_change(similarity, f, b, [*positive, *negative])
        total = total + weight * (change.sqrt().log() if name == "lc-error" else change)
    by_f, by_b = torch.autograd.grad(total, (f, b), allow_unused=True, materialize_grads=True)
    arriving = by_f + by_b if learns_from_codes else by_f  # equation 14: what arrives at b goes on to f as it is
    (gradient,) = torch.autograd.grad(relaxed, outputs, arriving)
    return total.item(), gradient


def total(name: str, outputs: Tensor, labels: Tensor, weight: float, fraction: float = 1.0) -> tuple[Tensor, Tensor]:
    """The whole loss and its gradient, written as the training scripts write it."""
    outputs = outputs.detach().requires_grad_()
    relaxed = normalize(outputs, dim=1)
    binary = straight_through_sign(relaxed)
    if name == "sc+ste":
        pairs = mine_pairs(binary, labels, epsilon=0.1)
        metric = multi_similarity_loss(binary, pairs, alpha=1.0, beta=50.0, base=0.0)
        quantization = similarity_constrained_loss(relaxed, binary, pairs, fraction=fraction)
    else:
        metric, quantization = ablated_hashing_losses(name, relaxed, binary, labels, fraction=fraction)
    loss = metric + weight * quantization
    return loss, torch.autograd.grad(loss, outputs)[0]


def small(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    descriptors, labels = places(seed, n_places=4, per_place=3, dim=8)
    return (descriptors - 0.5).to(dtype), labels


def test_the_methods_are_those_of_the_configuration():
    assert tuple(NAIVE) == NAMES
    relaxed = torch.ones(4, 8)
    with pytest.raises(ValueError, match="hashing 'ste\\+sc': expected direct, lc, lc-error, sc, ste or sc\\+ste"):
        ablated_hashing_losses("ste+sc", relaxed, relaxed, torch.arange(4))


def test_equation_15_is_a_row_of_the_table():
    outputs, labels = small(0)
    relaxed = normalize(outputs, dim=1)
    binary = straight_through_sign(relaxed)
    metric, quantization = ablated_hashing_losses("sc+ste", relaxed, binary, labels)
    assert torch.equal(metric + WEIGHT * quantization, total("sc+ste", outputs, labels, WEIGHT)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(2))
def test_value_and_gradient_of_the_whole_loss_match_naive_loops(name, seed):
    outputs, labels = small(seed)
    expected, expected_gradient = naive_total(name, outputs, labels, WEIGHT)
    loss, gradient = total(name, outputs, labels, WEIGHT)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)
    in_single, gradient = total(name, outputs.float(), labels, WEIGHT)
    assert in_single.dtype == torch.float32
    assert in_single.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6)


def test_no_two_methods_teach_the_same():
    outputs, labels = small(0)
    gradients = {name: total(name, outputs, labels, WEIGHT)[1] for name in NAMES}
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients.values())
    for one, other in itertools.combinations(gradients.values(), 2):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_counts_where_there_is_a_second_term(name):
    outputs, labels = small(0)
    (without, gradient_without), (with_it, gradient_with) = (total(name, outputs, labels, w) for w in (0.0, 3.0))
    same = name in ("direct", "ste")
    assert torch.equal(without, with_it) == torch.equal(gradient_without, gradient_with) == same


@pytest.mark.parametrize("loss, similarity", [(similarity_constrained_loss, inner),
                                              (locality_constrained_loss, gaussian)])
@pytest.mark.parametrize("constant", [False, True])
def test_second_term_matches_naive_loops_with_and_without_detaching_the_codes(loss, similarity, constant):
    outputs, labels = small(2)
    pairs = mine_pairs(outputs, labels)
    chosen = [pair for kind in naive_pairs(outputs, labels) for pair in kind]
    found = {}
    for way in ("ours", "naive"):
        leaf = outputs.detach().requires_grad_()
        relaxed = normalize(leaf, dim=1)
        codes = straight_through_sign(relaxed)
        # On codes of fixed length the distance is a cosine's, but its gradient is not the cosine's along the code:
        # the length, a constant of equation 11, is kept out of the comparison.
        codes = codes.detach() if constant else math.sqrt(codes.shape[1]) * normalize(codes, dim=1)
        value = loss(relaxed, codes, pairs) if way == "ours" else naive_change(similarity, relaxed, codes, chosen)
        found[way] = value.item(), torch.autograd.grad(value, leaf)[0]
    assert found["ours"][0] == pytest.approx(found["naive"][0], rel=1e-10)
    assert found["ours"][1].abs().max() > 1e-3
    torch.testing.assert_close(found["ours"][1], found["naive"][1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_match_finite_differences(loss):
    """With constant codes the gradient is that of f alone; else both arguments count, no term is cut off."""
    outputs, labels = places(3, n_places=3, per_place=3, dim=6)
    relaxed = normalize(outputs.double(), dim=1).requires_grad_()
    codes = straight_through_sign(relaxed).detach()
    other = torch.randn(codes.shape, dtype=torch.float64, requires_grad=True)
    pairs = mine_pairs(relaxed, labels)
    assert torch.autograd.gradcheck(lambda f: loss(f, codes, pairs), relaxed)
    assert torch.autograd.gradcheck(lambda f, b: loss(f, b, pairs), (relaxed, other))


@pytest.mark.parametrize("similarity", [-1.0, -0.5, 0.0, 0.5, 0.9, 1.0])
def test_near_pairs_weigh_more_in_the_locality_constrained_loss(similarity):
    """A small change of a pair's similarity s counts exp(2 (s - 1)) times as much as in equation 11."""
    after = similarity - 1e-7
    relaxed = torch.tensor([[1.0, 0.0], [similarity, math.sqrt(1 - similarity**2)]], dtype=torch.float64)
    binary = math.sqrt(2) * torch.tensor([[1.0, 0.0], [after, 0.0]], dtype=torch.float64)  # <b, b> / d is `after`
    pairs = pairs_of(2, ([0], [1]))
    gradients = []
    for loss in (locality_constrained_loss, similarity_constrained_loss):
        leaf = relaxed.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(leaf, binary, pairs), leaf)[0][1, 0].item())
    assert gradients[0] / gradients[1] == pytest.approx(math.exp(2 * (similarity - 1)), rel=1e-5)


def test_a_fraction_of_the_pairs_is_drawn_once_each_as_for_equation_11():
    generator = torch.Generator().manual_seed(0)
    relaxed = normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64), dim=1)
    binary = straight_through_sign(relaxed)
    some = [(0, 1), (2, 0), (2, 5), (3, 4), (4, 1), (5, 0), (5, 3)]
    pairs = pairs_of(6, list(zip(*some[:3], strict=True)), list(zip(*some[3:], strict=True)))
    subsets = list(itertools.combinations(some, 2))  # int(0.4 * 7) = 2
    by_loss = {loss: torch.stack([naive_change(similarity, relaxed, binary, subset) for subset in subsets])
               for loss, similarity in ((locality_constrained_loss, gaussian), (similarity_constrained_loss, inner))}
    seen = set()
    for seed in range(20):
        drawn = []
        for loss, expected in by_loss.items():
            value = loss(relaxed, binary, pairs, fraction=0.4, generator=generator.manual_seed(seed))
            (matching,) = ((expected - value).abs() < 1e-12).nonzero()
            drawn.append(subsets[matching])
        assert drawn[0] == drawn[1]
        seen |= set(drawn[0])
    assert seen == set(some)


def test_the_methods_pass_the_fraction_on():
    outputs, labels = small(1)
    for name in NAMES:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        some, _ = total(name, outputs, labels, WEIGHT, fraction=0.1)
        drew = not torch.equal(before, torch.get_rng_state())
        assert drew == (some != total(name, outputs, labels, WEIGHT)[0]) == (name not in ("direct", "ste"))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fraction", [1.0, 0.2])
def test_no_pair_is_a_differentiable_zero(loss, fraction):
    outputs = torch.randn(3, 8, requires_grad=True)
    relaxed = normalize(outputs, dim=1)
    value = loss(relaxed, straight_through_sign(relaxed), pairs_of(3), fraction=fraction)
    value.backward()
    assert value == 0 and value.shape == ()
    assert torch.equal(outputs.grad, torch.zeros(3, 8))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_codes_that_are_not_finite_make_the_loss_nan(loss, value):
    outputs, labels = small(0, torch.float32)
    codes = straight_through_sign(outputs)
    pairs = mine_pairs(outputs, labels)
    for image in range(len(labels)):
        broken = normalize(outputs, dim=1)
        broken[image, 1] = value
        for kept in (pairs, pairs_of(len(labels))):
            for fraction in (1.0, 0.2):
                assert loss(broken, codes, kept, fraction=fraction).isnan()
                assert loss(normalize(outputs, dim=1), broken, kept, fraction=fraction).isnan()


@pytest.mark.parametrize("name", NAMES)
def test_no_method_hides_outputs_that_are_not_numbers(name):
    """Their signs are finite, so that codes alone look well."""
    outputs, labels = small(0, torch.float32)
    outputs[2, 3] = math.nan
    assert total(name, outputs, labels, 0.1)[0].isnan()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_at_least_single_precision(loss, dtype, autocast):
    outputs, labels = small(0)
    relaxed = normalize(outputs, dim=1).to(dtype)
    codes, pairs = straight_through_sign(relaxed), mine_pairs(relaxed, labels)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(relaxed, codes, pairs)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = loss(relaxed.double(), codes.double(), pairs)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_errors_are_those_of_equation_11(loss):
    codes, pairs = torch.ones(4, 8), pairs_of(4)
    with pytest.raises(ValueError, match=r"shapes \(4, 8\) and \(4, 7\); expected \(n, d\) for both"):
        loss(codes, codes[:, :7], pairs)
    with pytest.raises(ValueError, match=r"pairs have a mask of shape \(3, 3\); expected \(4, 4\)"):
        loss(codes, codes, pairs_of(3))
    with pytest.raises(ValueError, match="fraction is 0"):
        loss(codes, codes, pairs, fraction=0)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_back_from_the_device(name):
    """Fake tensors have shapes but no values: whatever would make the host wait for a GPU has no answer here."""
    with FakeTensorMode():
        loss, gradient = total(name, torch.randn(12, 8), torch.arange(12) // 3, WEIGHT, fraction=0.4)
        assert (loss.shape, gradient.shape) == ((), (12, 8))
        with pytest.raises(READS_BACK):
            loss.item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_the_host_does_not_wait_for_the_gpu(name):
    outputs, labels = small(0, torch.float32)
    on_gpu = outputs.cuda(), labels.cuda()
    total(name, *on_gpu, WEIGHT, fraction=0.4)  # libraries start here, and may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        total(name, *on_gpu, WEIGHT, fraction=0.4)
        loss, gradient = total(name, *on_gpu, WEIGHT)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, expected_gradient = total(name, outputs, labels, WEIGHT)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [8, 64])
def test_memory_is_quadratic_and_no_loop_runs_over_the_images(name, dim):
    seen = {}
    for n in (16, 32):
        outputs, labels = places(0, n_places=n // 4, dim=dim)
        seen[n] = recorded(total, name, outputs, labels, WEIGHT, 0.4)
        # n x n, with a column for the 1 of the logarithm; or the codes. The next product is 8 n * n at least.
        assert n * n <= seen[n].largest <= max(n * (n + 1), n * dim)
    assert seen[16].operations == seen[32].operations


def test_pairs_of_the_naive_loops_are_those_mined():
    """What the comparisons above stand on: also for codes, whose cosines tie often."""
    for seed in range(2):
        outputs, labels = small(seed)
        for extracted in (outputs, straight_through_sign(outputs)):
            assert as_sets(mine_pairs(extracted, labels)) == naive_pairs(extracted, labels)
