"""Losses against naive loops in double precision, pytorch-metric-learning and the published code's values."""

import json
import math

import numpy as np
import pytest
import torch
from paths import DATA
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from losses import Pairs, mine_pairs, multi_similarity_loss, similarity_constrained_loss
from losses.similarity import _draw

READS_BACK = (DataDependentOutputException, DynamicOutputShapeException)


class Sign(torch.autograd.Function):
    """A straight-through sign of the tests' own, as the golden values were made with."""

    @staticmethod
    def forward(ctx, values):
        return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def as_sets(pairs: Pairs) -> tuple[set, set]:
    """Both kinds of pairs (anchor, other), read from the masks entry by entry."""
    return tuple({(q, k) for q, row in enumerate(kept.tolist()) for k, it in enumerate(row) if it} for kept in pairs)


def pairs_of(n: int, positive=((), ()), negative=((), ())) -> Pairs:
    """Pairs of n images from anchors and others, row 0 and row 1."""
    masks = Pairs(torch.zeros(n, n, dtype=torch.bool), torch.zeros(n, n, dtype=torch.bool))
    for mask, (anchors, others) in zip(masks, (positive, negative), strict=True):
        for anchor, other in zip(anchors, others, strict=True):
            mask[anchor, other] = True
    return masks


def unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / (norm or 1.0) for value in vector]


def naive_cosines(descriptors: torch.Tensor) -> list[list[float]]:
    rows = [unit(row) for row in descriptors.double().tolist()]
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def naive_pairs(descriptors: torch.Tensor, labels: torch.Tensor, epsilon: float = 0.1) -> tuple[set, set]:
    cosine, place = naive_cosines(descriptors), labels.tolist()
    positive, negative = set(), set()
    for anchor in range(len(place)):
        others = [j for j in range(len(place)) if j != anchor]
        same = [j for j in others if place[j] == place[anchor]]
        different = [j for j in others if place[j] != place[anchor]]
        if not same or not different:
            continue
        farthest_same = min(cosine[anchor][j] for j in same)
        nearest_different = max(cosine[anchor][j] for j in different)
        negative |= {(anchor, j) for j in different if cosine[anchor][j] + epsilon > farthest_same}
        positive |= {(anchor, j) for j in same if cosine[anchor][j] - epsilon < nearest_different}
    return positive, negative


def naive_multi_similarity(descriptors, positive, negative, alpha=1.0, beta=50.0, base=0.0) -> float:
    cosine, total = naive_cosines(descriptors), 0.0
    for anchor in range(len(cosine)):
        near = sum(math.exp(-alpha * (cosine[anchor][j] - base)) for i, j in positive if i == anchor)
        far = sum(math.exp(beta * (cosine[anchor][j] - base)) for i, j in negative if i == anchor)
        total += math.log(1 + near) / alpha + math.log(1 + far) / beta
    return total / len(cosine)


def naive_similarity_constrained(relaxed, binary, chosen) -> float:
    f, b, total = relaxed.double().tolist(), binary.double().tolist(), 0.0
    for i, j in chosen:
        before = sum(x * y for x, y in zip(f[i], f[j], strict=True))
        after = sum(x * y for x, y in zip(b[i], b[j], strict=True)) / len(b[i])
        total += (before - after) ** 2
    return total / len(chosen)


def places(seed: int, *, n_places: int = 6, per_place: int = 4, dim: int = 24, spread: float = 1.5):
    """Overlapping clusters of descriptors (not of unit norm) and their labels, in no order."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_places, dim, generator=generator) + 0.5
    descriptors = centres.repeat_interleave(per_place, 0)
    descriptors = descriptors + spread * torch.randn(descriptors.shape, generator=generator)
    labels = torch.randperm(1000, generator=generator)[:n_places].repeat_interleave(per_place)
    order = torch.randperm(len(labels), generator=generator)
    return descriptors[order], labels[order]


@pytest.fixture(scope="module")
def golden():
    arrays = np.load(DATA / "golden_losses.npz")
    summary = json.loads((DATA / "golden_losses.json").read_text())["summary"]
    tensors = {}
    for name in arrays.files:
        values = arrays[name]
        tensors[name] = torch.from_numpy(values.astype(np.int64) if values.dtype == np.int16 else values)
    return tensors, summary


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_mining_and_losses_match_naive_loops(seed, epsilon):
    descriptors, labels = places(seed)
    pairs = mine_pairs(descriptors, labels, epsilon=epsilon)
    positive, negative = naive_pairs(descriptors, labels, epsilon)
    assert as_sets(pairs) == (positive, negative)
    assert positive and negative

    loss = multi_similarity_loss(descriptors, pairs, alpha=2.0, beta=40.0, base=0.5)
    assert loss.item() == pytest.approx(
        naive_multi_similarity(descriptors, positive, negative, 2.0, 40.0, 0.5), rel=1e-5
    )
    loss = multi_similarity_loss(descriptors, pairs)
    assert loss.item() == pytest.approx(naive_multi_similarity(descriptors, positive, negative), rel=1e-5)

    relaxed = torch.nn.functional.normalize(descriptors, dim=1)
    binary = Sign.apply(descriptors)
    loss = similarity_constrained_loss(relaxed, binary, pairs)
    expected = naive_similarity_constrained(relaxed, binary, [*positive, *negative])
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("binary", [False, True])
def test_mining_loss_and_gradient_match_pytorch_metric_learning(seed, binary):
    descriptors, labels = places(seed, n_places=8, dim=64)
    if binary:
        descriptors = Sign.apply(descriptors - 0.5)
    ours, theirs = (descriptors.clone().requires_grad_() for _ in range(2))

    anchor_p, other_p, anchor_n, other_n = MultiSimilarityMiner(epsilon=0.1)(theirs, labels)
    expected_pairs = pairs_of(len(labels), (anchor_p, other_p), (anchor_n, other_n))
    pairs = mine_pairs(ours, labels, epsilon=0.1)
    assert as_sets(pairs) == as_sets(expected_pairs)

    criterion = MultiSimilarityLoss(alpha=1, beta=50, base=0, distance=DotProductSimilarity())
    expected = criterion(theirs, labels, (anchor_p, other_p, anchor_n, other_n))
    loss = multi_similarity_loss(ours, pairs)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    expected.backward()
    loss.backward()
    assert theirs.grad.abs().max() > 1e-5
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("case, epsilon", [("loss.ms.mined", 0.1), ("loss.ms.all", 9.0)])
def test_golden_multi_similarity(golden, case, epsilon):
    arrays, summary = golden
    descriptors = arrays["loss.embeddings"].requires_grad_()
    pairs = mine_pairs(descriptors, arrays["loss.labels"], epsilon=epsilon)
    assert pairs.positive.sum() == summary[case]["pairs_positive"]
    assert pairs.negative.sum() == summary[case]["pairs_negative"]
    if case == "loss.ms.mined":
        positive, negative = as_sets(pairs)
        assert positive | negative == set(map(tuple, arrays["loss.ms.mined.pairs"].T.tolist()))
    loss = multi_similarity_loss(descriptors, pairs)
    assert loss.item() == pytest.approx(summary[case]["loss"], rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, descriptors)
    assert_gradient_close(gradient, arrays[f"{case}.grad"])


def test_golden_loss_does_not_depend_on_the_norm(golden):
    arrays, summary = golden
    descriptors = (3 * arrays["loss.embeddings"].detach()).requires_grad_()
    pairs = mine_pairs(descriptors, arrays["loss.labels"])
    loss = multi_similarity_loss(descriptors, pairs)
    assert loss.item() == pytest.approx(summary["loss.ms.scaled_by_3"]["loss"], rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, descriptors)
    assert gradient.norm().item() == pytest.approx(summary["loss.ms.scaled_by_3"]["grad_norm"], rel=1e-3)


def test_golden_losses_of_codes(golden):
    """Equation 15 with lambda 0.1 on codes of 128 bits: values, pairs, and gradients through the sign."""
    arrays, summary = golden
    relaxed = arrays["loss.sc.float"].requires_grad_()
    binary = Sign.apply(relaxed)
    packed = np.packbits(binary.detach().numpy() > 0, axis=1)
    assert np.array_equal(packed, arrays["loss.sc.bits"].numpy())
    pairs = mine_pairs(binary, arrays["loss.labels"])
    positive, negative = as_sets(pairs)
    assert positive | negative == set(map(tuple, arrays["loss.sc.pairs"].T.tolist()))

    metric = multi_similarity_loss(binary, pairs)
    quantization = similarity_constrained_loss(relaxed, binary, pairs)
    parts = {"metric": metric, "quant": quantization, "total": metric + 0.1 * quantization}
    for name, loss in parts.items():
        assert loss.item() == pytest.approx(summary[f"loss.sc.{name}"]["loss"], rel=1e-4)
        (gradient,) = torch.autograd.grad(loss, relaxed, retain_graph=True)
        assert_gradient_close(gradient, arrays[f"loss.sc.{name}.grad"])


def assert_gradient_close(gradient: torch.Tensor, expected: torch.Tensor) -> None:
    """Stricter than the tolerance stated there (norms within 1e-3): the difference within 1e-4."""
    assert ((gradient - expected).norm() / expected.norm()).item() < 1e-4


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_run_in_float32_under_autocast(given):
    """Bit for bit what the same values give outside autocast, whatever the dtype they come in."""
    descriptors, labels = places(7)
    descriptors = torch.nn.functional.normalize(descriptors, dim=1).to(given)
    results = []
    for autocast in (False, True):
        leaf = descriptors.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            pairs = mine_pairs(leaf, labels)
            metric = multi_similarity_loss(leaf, pairs)
            constrained = similarity_constrained_loss(leaf, Sign.apply(leaf), pairs)
        (metric + constrained).backward()
        results.append((pairs, metric, constrained, leaf.grad))
    (pairs, metric, constrained, gradient), (pairs_a, metric_a, constrained_a, gradient_a) = results
    assert metric_a.dtype == constrained_a.dtype == torch.float32
    assert as_sets(pairs) == as_sets(pairs_a)
    assert torch.equal(metric, metric_a) and torch.equal(constrained, constrained_a)
    assert torch.equal(gradient, gradient_a)
    in_float32 = mine_pairs(descriptors.float(), labels)
    assert torch.equal(metric, multi_similarity_loss(descriptors.float(), in_float32))


def noise(n: int) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(n))


EDGE_CASES = {
    "no positive pair": (noise(5), torch.arange(5)),
    "one place, so no negative pair": (noise(4), torch.zeros(4, dtype=torch.int64)),
    "one image": (noise(1), torch.tensor([3])),
    "one image of each of two places": (noise(2), torch.tensor([0, 1])),
    "duplicate images of one place": (noise(2).repeat_interleave(4, 0), torch.arange(8) // 4),
    "duplicate images of all places": (noise(1).repeat(8, 1), torch.arange(8) // 4),
    "opposite descriptors": (noise(1) * torch.tensor([[1.0], [-1]] * 4), torch.arange(8) // 4),
    "one anchor alone in its place": (noise(5), torch.tensor([0, 0, 1, 1, 2])),
    "a descriptor of zeros": (noise(4) * torch.tensor([[0.0], [1], [1], [1]]), torch.arange(4) // 2),
    "short and long descriptors": (noise(4) * torch.tensor([[1e-4], [1e4]] * 2), torch.arange(4) // 2),
}


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases_give_finite_losses_and_gradients(case):
    descriptors, labels = EDGE_CASES[case]
    leaf = descriptors.clone().requires_grad_()
    pairs = mine_pairs(leaf, labels)
    assert as_sets(pairs) == naive_pairs(leaf, labels)
    metric = multi_similarity_loss(leaf, pairs)
    relaxed = torch.nn.functional.normalize(leaf, dim=1)
    constrained = similarity_constrained_loss(relaxed, Sign.apply(leaf), pairs)
    for loss in (metric, constrained):
        assert loss.shape == () and loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert gradient.isfinite().all()
        if not pairs.positive.any() and not pairs.negative.any():
            assert loss == 0 and not gradient.any()


def test_anchors_without_pairs_count_in_the_mean():
    descriptors, labels = places(1)
    lonely = torch.cat([descriptors, descriptors[:1]]), torch.cat([labels, torch.tensor([-1])])
    with_lonely = mine_pairs(*lonely)
    n = len(labels)
    kept = Pairs(*(part[:n, :n] for part in with_lonely))
    padded = Pairs(*(torch.nn.functional.pad(part, (0, 1, 0, 1)) for part in kept))
    ratio = multi_similarity_loss(lonely[0], padded) / multi_similarity_loss(descriptors, kept)
    assert ratio.item() == pytest.approx(n / (n + 1), rel=1e-6)


def test_large_exponents_do_not_overflow():
    """exp(50 s) fits float32 as s <= 1; exp(1000 s) does not, and this loss has a closed form."""
    descriptors = torch.ones(4, 8, requires_grad=True)
    pairs = mine_pairs(descriptors, torch.arange(4) // 2)
    loss = multi_similarity_loss(descriptors, pairs, beta=1000.0)
    # Every anchor keeps one positive and two negatives, all at the cosine 1.
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + 1 + math.log(2) / 1000, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, descriptors)
    assert gradient.isfinite().all()


def test_gradients_in_double_precision():
    descriptors, labels = places(3, n_places=3, per_place=3, dim=6)
    descriptors = descriptors.double().requires_grad_()
    other = torch.randn(descriptors.shape, dtype=torch.float64, requires_grad=True)
    pairs = mine_pairs(descriptors, labels)
    assert multi_similarity_loss(descriptors, pairs).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: multi_similarity_loss(x, pairs), descriptors)
    # Both arguments vary freely here: no term of equation 11 is detached.
    assert torch.autograd.gradcheck(
        lambda f, b: similarity_constrained_loss(f, b, pairs), (descriptors, other)
    )


def test_the_margin_is_strict():
    """Orthogonal descriptors: every cosine is exactly 0, and nothing lies beyond a margin of 0."""
    descriptors, labels = torch.eye(4), torch.arange(4) // 2
    assert as_sets(mine_pairs(descriptors, labels, epsilon=0.0)) == (set(), set())
    assert as_sets(mine_pairs(descriptors, labels, epsilon=1e-6)) == naive_pairs(descriptors, labels, 1e-6)


def test_mining_leaves_no_graph():
    descriptors, labels = places(0)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
        pairs = mine_pairs(descriptors.requires_grad_(), labels)
        assert saved == []
        multi_similarity_loss(descriptors, pairs)
    assert saved != []
    assert pairs.positive.dtype == pairs.negative.dtype == torch.bool
    assert pairs.positive.shape == pairs.negative.shape == (24, 24)


def test_pairs_as_lists_of_indices():
    pairs = pairs_of(4, ([0, 2], [1, 3]), ([3], [0]))
    positive, negative = pairs.indices()
    assert positive.tolist() == [[0, 2], [1, 3]] and negative.tolist() == [[3], [0]]
    assert positive.dtype == negative.dtype == torch.int64
    assert [kept.shape for kept in pairs_of(4).indices()] == [(2, 0), (2, 0)]


@pytest.mark.parametrize("scale", [1e-10, 1e-5, 1e5, 1e15, "mixed"])
def test_the_norm_of_a_descriptor_does_not_matter(scale):
    descriptors, labels = places(2)
    scale = torch.logspace(-10, 15, 24)[:, None] if scale == "mixed" else torch.tensor(scale)
    unscaled, scaled = (values.requires_grad_() for values in (descriptors.clone(), descriptors * scale))
    pairs = mine_pairs(scaled, labels)
    assert as_sets(pairs) == naive_pairs(descriptors, labels)
    loss, expected = multi_similarity_loss(scaled, pairs), multi_similarity_loss(unscaled, pairs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (loss + expected).backward()
    # L(c x) = L(x), so its gradient at c x is 1/c of that at x.
    torch.testing.assert_close(scaled.grad * scale, unscaled.grad, rtol=1e-4, atol=1e-7)


def test_fraction_draws_that_share_of_the_pairs_once_each():
    """A pair's squared difference is its own power of two, so that the mean tells which pairs were drawn."""
    weights = 2.0 ** torch.arange(10, dtype=torch.float64)
    relaxed = torch.zeros(20, 10, dtype=torch.float64)
    relaxed[torch.arange(10), torch.arange(10)] = weights.sqrt()
    relaxed[torch.arange(10) + 10, torch.arange(10)] = 1.0
    binary = torch.zeros_like(relaxed)
    pairs = pairs_of(20, (range(4), range(10, 14)), (range(4, 10), range(14, 20)))

    seen = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        loss = similarity_constrained_loss(relaxed, binary, pairs, fraction=0.35, generator=generator)
        drawn = round(3 * loss.item())
        assert drawn.bit_count() == 3
        seen |= {bit for bit in range(10) if drawn >> bit & 1}
        generator.manual_seed(seed)
        again = similarity_constrained_loss(relaxed, binary, pairs, fraction=0.35, generator=generator)
        assert torch.equal(loss, again)
    assert seen == set(range(10))
    single = similarity_constrained_loss(relaxed, binary, pairs, fraction=0.01)
    assert round(single.item()).bit_count() == 1
    assert similarity_constrained_loss(relaxed, binary, pairs).item() == pytest.approx(weights.mean().item())


@pytest.mark.parametrize("count", [0, 1, 2, 10, 57, 100, 143, 144])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.29, 0.57, 0.7, 0.999])
def test_as_many_pairs_are_drawn_as_python_rounds(count, fraction):
    """0.29 * 100 is 28.999... in Python's double precision and 29 in single."""
    entries = torch.randperm(144, generator=torch.Generator().manual_seed(count))[:count]
    pairs = pairs_of(12, (entries // 12, entries % 12))
    drawn = _draw(pairs.positive, fraction, None)
    assert drawn.sum() == min(count, max(1, int(fraction * count)))
    assert not (drawn & ~pairs.positive).any()
    ones = torch.ones(12, 1, dtype=torch.float64)  # every squared difference is 1 here, and so is their mean
    assert similarity_constrained_loss(ones, 0 * ones, pairs, fraction=fraction) == (1 if count else 0)


def test_every_pair_is_drawn_equally_often():
    kept = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    generator = torch.Generator().manual_seed(1)
    times = sum(_draw(kept, 0.5, generator).int() for _ in range(2000))[kept]
    share = int(0.5 * len(times)) / len(times)
    deviation = math.sqrt(2000 * share * (1 - share))
    assert (times - 2000 * share).abs().max() < 4 * deviation


def test_the_draw_takes_as_much_of_the_generator_whatever_the_pairs():
    """So that processes which share a seed, but not their kernels' last bits, go on drawing the same."""
    codes = torch.randn(6, 4)
    states = []
    for pairs in (pairs_of(6), pairs_of(6, ([0, 1, 2], [3, 4, 5])), mine_pairs(codes, torch.arange(6) // 2)):
        torch.manual_seed(3)
        similarity_constrained_loss(codes, Sign.apply(codes), pairs, fraction=0.5)
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    similarity_constrained_loss(codes, Sign.apply(codes), pairs)  # all pairs: nothing to draw
    assert torch.equal(states[2], torch.get_rng_state())


def test_no_pair_with_a_fraction_is_a_differentiable_zero():
    codes = torch.randn(3, 8, requires_grad=True)
    loss = similarity_constrained_loss(codes, Sign.apply(codes), pairs_of(3), fraction=0.2)
    loss.backward()
    assert loss == 0 and not codes.grad.any()


def test_errors_name_what_was_given_and_expected():
    descriptors, labels = places(0)
    pairs = mine_pairs(descriptors, labels)
    with pytest.raises(ValueError, match=r"descriptors have shape \(24,\); expected \(n, d\)"):
        mine_pairs(descriptors[:, 0], labels)
    with pytest.raises(ValueError, match=r"shape \(0, 24\); expected \(n, d\) with n >= 1"):
        multi_similarity_loss(descriptors[:0], pairs)
    with pytest.raises(ValueError, match=r"labels have shape \(3,\); expected \(24,\)"):
        mine_pairs(descriptors, labels[:3])
    for loss in (lambda pairs: multi_similarity_loss(descriptors, pairs),
                 lambda pairs: similarity_constrained_loss(descriptors, descriptors, pairs)):
        for wrong in (pairs_of(1), Pairs(*pairs.indices()), pairs._replace(negative=pairs.negative[:1])):
            with pytest.raises(ValueError, match=r"pairs have a mask of shape .*; expected \(24, 24\)"):
                loss(wrong)
    with pytest.raises(ValueError, match=r"shapes \(24, 24\) and \(24, 8\)"):
        similarity_constrained_loss(descriptors, descriptors[:, :8], pairs)
    for fraction in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction is"):
            similarity_constrained_loss(descriptors, descriptors, pairs, fraction=fraction)


def step(descriptors: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Metric and quantization loss of relaxed codes, as train_rerank.py has them, after backward."""
    relaxed = torch.nn.functional.normalize(descriptors, dim=1)
    binary = Sign.apply(relaxed)
    pairs = mine_pairs(binary, labels, epsilon=0.1)
    metric = multi_similarity_loss(binary, pairs)
    quantization = similarity_constrained_loss(relaxed, binary, pairs, fraction=0.4)
    metric_of_floats = multi_similarity_loss(descriptors, mine_pairs(descriptors, labels))
    (metric + quantization + metric_of_floats).backward()
    return metric, quantization


NOT_FINITE = [("one entry", math.nan), ("one entry", math.inf), ("one entry", -math.inf), ("a row", math.nan),
              ("a row", math.inf), ("all", math.nan)]


@pytest.mark.parametrize("where, value", NOT_FINITE)
@pytest.mark.parametrize("case", ["overlapping places", *EDGE_CASES])
def test_descriptors_that_are_not_finite_make_the_losses_nan(case, where, value):
    """Also in an image that is in no pair: nothing else would tell of it."""
    descriptors, labels = EDGE_CASES.get(case) or places(0)
    good = mine_pairs(descriptors, labels)
    codes = Sign.apply(descriptors)
    for image in range(len(labels)):
        broken = descriptors.clone()
        broken[{"one entry": (image, 1), "a row": image, "all": slice(None)}[where]] = value
        for pairs in (mine_pairs(broken, labels), good, pairs_of(len(labels))):
            assert multi_similarity_loss(broken, pairs).isnan()
            for fraction in (1.0, 0.2):
                # The sign of NaN is finite, so the relaxed codes must tell; the binary ones may not go unseen either.
                assert similarity_constrained_loss(broken, codes, pairs, fraction=fraction).isnan()
                assert similarity_constrained_loss(codes, broken, pairs, fraction=fraction).isnan()


def test_nothing_is_read_back_from_the_device():
    """Fake tensors have shapes but no values: whatever would make the host wait for a GPU has no answer here."""
    with FakeTensorMode():
        descriptors, labels = torch.randn(12, 8, requires_grad=True), torch.arange(12) // 3
        for loss in step(descriptors, labels):
            assert loss.shape == ()
            with pytest.raises(READS_BACK):
                loss.item()
        assert descriptors.grad.shape == (12, 8)
        with pytest.raises(READS_BACK):
            mine_pairs(descriptors, labels).indices()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_the_host_does_not_wait_for_the_gpu():
    descriptors, labels = (values.cuda() for values in places(0))
    torch.manual_seed(0)
    step(descriptors.clone().requires_grad_(), labels)  # libraries start here, and may wait
    leaf = descriptors.clone().requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric, _ = step(leaf, labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = descriptors.cpu().requires_grad_()
    expected, _ = step(on_cpu, labels.cpu())
    assert metric.item() == pytest.approx(expected.item(), rel=1e-4)


class Recorder(TorchDispatchMode):
    """Notes how many operations run, and the number of elements of their largest result."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        self.operations += 1
        sizes = [result.numel() for result in tree_leaves(results) if isinstance(result, torch.Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return results


def recorded(function, *inputs) -> Recorder:
    with Recorder() as recorder:
        function(*inputs)
    return recorder


@pytest.mark.parametrize("dim", [8, 64])
def test_memory_is_quadratic_and_no_loop_runs_over_the_anchors(dim):
    seen = {}
    for n in (16, 32):
        descriptors, labels = places(0, n_places=n // 4, dim=dim)
        seen[n] = recorded(step, descriptors.requires_grad_(), labels)
        # n x n, with a column for the 1 of the logarithm; or the descriptors. The next product is 8 n * n at least.
        assert n * n <= seen[n].largest <= max(n * (n + 1), n * dim)
    assert seen[16].operations == seen[32].operations > 20


def test_three_products_of_the_descriptors_in_all():
    """One to mine, one for the loss, one for its gradient, which autograd alone would take in two."""
    descriptors, labels = places(0)
    n, dim = descriptors.shape
    with FlopCounterMode(display=False) as counter:
        multi_similarity_loss(descriptors.requires_grad_(), mine_pairs(descriptors, labels)).backward()
    assert counter.get_total_flops() == 3 * 2 * n * n * dim


def test_the_recorder_sees_what_it_is_to_find():
    values = torch.ones(5, 5)
    assert recorded(lambda: values[:, :, None] < values[:, None]).largest == 125
    assert recorded(lambda: [row.sum() for row in values]).operations > recorded(lambda: [values.sum()]).operations
