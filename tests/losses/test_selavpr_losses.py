"""Losses of SelaVPR against goldens of the published code, naive loops, and by hand."""

import numpy as np
import pytest
import torch
from paths import DATA
from torch.nn import functional as F

from losses import batch_triplets, local_feature_loss, mutual_nearest, mutual_similarity, triplet_loss

GOLDEN = np.load(DATA / "golden_selavpr.npz")
PARTS = ("anchor", "positive", "negative")


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def maps(seed: int, *shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def naive_pairs(query: np.ndarray, candidate: np.ndarray) -> list[tuple[int, int]]:
    """Mutual pairs of two lists of features: loops, the first of equal products."""
    def first_best(feature, others):
        products = [float(np.dot(other, feature)) for other in others]
        return products.index(max(products))

    nearest = [first_best(feature, candidate) for feature in query]
    return [(j, i) for j, i in enumerate(nearest) if first_best(candidate[i], query) == j]


def naive_similarity(query: np.ndarray, candidate: np.ndarray) -> float:
    products = [float(np.dot(query[j], candidate[i])) for j, i in naive_pairs(query, candidate)]
    return sum(products) / len(products)


def found_pairs(query: torch.Tensor, candidate: torch.Tensor) -> list[tuple[int, int]]:
    nearest, mutual = (part[0].tolist() for part in mutual_nearest(query[None], candidate[None]))
    return [(j, i) for j, (i, kept) in enumerate(zip(nearest, mutual, strict=True)) if kept]


# Mutual nearest neighbours.


@pytest.mark.parametrize("case", ["small.random", "small.mix0.5", "deg.one_match", "deg.ties_same_vector", "deg.two"])
def test_the_published_pairs_are_found(case):
    query, candidate = golden(f"match.{case}.query"), golden(f"match.{case}.candidate")
    assert found_pairs(query, candidate) == [*map(tuple, GOLDEN[f"match.{case}.pairs"].T.tolist())]
    if case.startswith("small"):
        matches = mutual_nearest(query[None], candidate[None])
        assert matches.mutual.sum().item() == GOLDEN[f"match.{case}.score"]
        similarity = mutual_similarity(query[None], candidate[None]).item()
        assert similarity == pytest.approx(GOLDEN[f"match.{case}.similarity"].item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_and_similarities_of_maps_of_two_shapes_match_naive_loops(seed):
    query, candidate = maps(seed, 3, 4, 5, 8).double(), maps(seed + 100, 3, 7, 2, 8).double()
    for image in range(3):
        rows, others = query[image].flatten(0, 1).numpy(), candidate[image].flatten(0, 1).numpy()
        assert found_pairs(query[image], candidate[image]) == naive_pairs(rows, others)
        assert mutual_similarity(query, candidate)[image].item() == pytest.approx(naive_similarity(rows, others))


@pytest.mark.parametrize("seed", range(20))
def test_of_equal_products_the_first_counts(seed):
    """Small whole numbers: many products are equal, and all are exact."""
    generator = torch.Generator().manual_seed(seed)
    query, candidate = (torch.randint(-1, 2, (3, 4, 3), generator=generator).float() for _ in range(2))
    expected = naive_pairs(query.flatten(0, 1).numpy(), candidate.flatten(0, 1).numpy())
    assert found_pairs(query, candidate) == expected
    assert expected  # there always is one


def test_a_lone_pair_counts_as_one_and_its_product_is_the_similarity():
    """The published score of such maps is 0, its similarity 0.325: the mean over features at equal positions (0.9, 0.2,
    0.1 and 0.1 here). Here one pair is a pair as any other."""
    query, candidate = golden("loss.mnn_one_match.anchor")[:1], golden("loss.mnn_one_match.negative")[:1]
    assert mutual_nearest(query, candidate).mutual.sum().item() == 1
    assert mutual_similarity(query, candidate).item() == pytest.approx(0.9)
    assert GOLDEN["loss.mnn_one_match.sim_negative"][0] == pytest.approx((0.9 + 0.8 + 0.7 + 0.6) / 4)


def test_pairs_do_not_change_with_the_batch():
    query, candidate = maps(0, 6, 5, 5, 16), maps(1, 6, 5, 5, 16)
    together = mutual_nearest(query, candidate)
    for image in range(6):
        alone = mutual_nearest(query[image:image + 1], candidate[image:image + 1])
        assert torch.equal(together.nearest[image], alone.nearest[0])
        assert torch.equal(together.mutual[image], alone.mutual[0])


# The loss on them.


def leaves(name: str) -> list[torch.Tensor]:
    return [golden(f"loss.{name}.{part}").requires_grad_() for part in PARTS]


def assert_gradients(tensors: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for tensor, gradient in zip(tensors, expected, strict=True):
        assert (tensor.grad - gradient).abs().max() <= 1e-5 * gradient.abs().max()


def test_golden_local_feature_loss_and_its_gradients():
    parts = leaves("mnn")
    for name, other in (("sim_positive", parts[1]), ("sim_negative", parts[2])):
        assert np.abs(mutual_similarity(parts[0], other).detach().numpy() - GOLDEN[f"loss.mnn.{name}"]).max() <= 1e-6
    loss = local_feature_loss(*parts)
    assert loss.item() == pytest.approx(GOLDEN["loss.mnn.loss"].item(), abs=1e-6)
    loss.backward()
    assert_gradients(parts, [golden(f"loss.mnn.{part}.grad") for part in PARTS])


def test_a_lone_pair_teaches_its_own_two_features():
    """The golden `loss.mnn_one_match` holds such maps; the published loss and gradients are those of features at equal
    positions, so that they are a counterexample here."""
    parts = leaves("mnn_one_match")
    expected = sum(max(0.0, naive_similarity(q, n) - naive_similarity(q, p)) for q, p, n in zip(
        *(part.detach().double().flatten(1, 2).numpy() for part in parts), strict=True))
    loss = local_feature_loss(*parts)
    assert loss.item() == pytest.approx(expected)
    assert abs(loss.item() - GOLDEN["loss.mnn_one_match.loss"]) > 0.1
    loss.backward()
    # The second triplet's pairs are of first locations alone; the first triplet's two similarities are equal.
    gradients = [part.grad.flatten(1, 2) for part in parts]
    features = [part.detach()[1, 0, 0] for part in parts]
    for gradient, expected in zip(gradients, (features[2] - features[1], -features[0], features[0]), strict=True):
        assert torch.equal(gradient[1, 0], expected)
        assert not gradient[1, 1:].any() and not gradient[0].any()


def test_both_losses_of_a_batch_as_the_published_training_takes_them():
    """Two queries with two negatives each: both totals by their number, and added."""
    anchor, positive, negative = (golden(f"loss.mnn.{part}") for part in PARTS)
    query, right, wrong = (golden(f"loss.triplet.{part}") for part in ("query", "positive", "negative"))
    local = torch.stack([part for i in range(2) for part in (anchor[i], positive[i], negative[i], negative[i + 2])])
    floating = torch.stack([part for i in range(2) for part in (query[i], right[i], wrong[i], wrong[i + 2])])
    local.requires_grad_()
    floating.requires_grad_()
    global_loss = sum(triplet_loss(floating[0::4], floating[1::4], floating[k::4]) for k in (2, 3)) / 4
    local_loss = sum(local_feature_loss(local[0::4], local[1::4], local[k::4]) for k in (2, 3)) / 4
    total = global_loss + local_loss
    expected = GOLDEN["loss.batch.losses"]
    assert [part.item() for part in (total, global_loss, local_loss)] == pytest.approx(expected, abs=1e-6)
    total.backward()
    assert_gradients([local, floating], [golden("loss.batch.local.grad"), golden("loss.batch.global.grad")])


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_is_that_of_fixed_pairs(seed):
    query, positive, negative = (maps(10 * seed + part, 4, 3, 5, 6).double().requires_grad_() for part in range(3))
    local_feature_loss(query, positive, negative).backward()
    found = [part.grad.clone() for part in (query, positive, negative)]
    total = 0.0
    for q, p, n in zip(query, positive, negative, strict=True):
        def similarity(own, other):
            own, other = own.flatten(0, 1), other.flatten(0, 1)
            pairs = naive_pairs(own.detach().numpy(), other.detach().numpy())
            return torch.stack([own[j] @ other[i] for j, i in pairs]).mean()
        total = total + torch.clamp(similarity(q, n) - similarity(q, p), min=0)
    for gradient, expected in zip(found, torch.autograd.grad(total, (query, positive, negative)), strict=True):
        assert (gradient - expected).abs().max() <= 1e-12


def test_a_triplet_in_order_teaches_nothing():
    query = maps(0, 2, 3, 3, 8)
    parts = [query.clone().requires_grad_(), query.clone().requires_grad_(), maps(1, 2, 3, 3, 8).requires_grad_()]
    loss = local_feature_loss(*parts)
    loss.backward()
    assert loss.item() == 0
    assert not any(part.grad.any() for part in parts)


# The triplet loss.


def test_golden_triplet_loss_and_its_gradients():
    parts = [golden(f"loss.triplet.{part}").requires_grad_() for part in ("query", "positive", "negative")]
    loss = triplet_loss(*parts)
    assert loss.item() == pytest.approx(GOLDEN["loss.triplet.loss"].item(), abs=1e-6)
    loss.backward()
    assert_gradients(parts, [golden(f"loss.triplet.{part}.grad") for part in ("query", "positive", "negative")])


@pytest.mark.parametrize("margin", [0.1, 0.7])
def test_triplet_loss_matches_naive_loops(margin):
    query, positive, negative = (maps(part, 9, 5).double() for part in range(3))
    expected = sum(max(0.0, float(np.sqrt(((q - p + 1e-6)**2).sum()) - np.sqrt(((q - n + 1e-6)**2).sum())) + margin)
                   for q, p, n in zip(query.numpy(), positive.numpy(), negative.numpy(), strict=True))
    assert triplet_loss(query, positive, negative, margin=margin).item() == pytest.approx(expected)


# Both.


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_losses_run_in_float32_under_autocast(given):
    """Bit for bit what the same values give outside autocast, whatever the dtype they come in."""
    for loss, shape in ((triplet_loss, (4, 16)), (local_feature_loss, (4, 3, 5, 16))):
        parts = [maps(part, *shape).to(given) for part in range(3)]
        outside = loss(*(part.float() for part in parts))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(*parts)
        assert inside.dtype == torch.float32 and torch.equal(inside, outside)


@pytest.mark.parametrize("where", range(3))
def test_what_is_not_finite_makes_the_losses_nan(where):
    for loss, shape in ((triplet_loss, (4, 16)), (local_feature_loss, (4, 3, 5, 16))):
        parts = [maps(part, *shape) for part in range(3)]
        parts[where].view(4, -1)[2] = torch.nan
        assert loss(*parts).isnan()


def test_errors_name_what_was_given_and_expected():
    with pytest.raises(ValueError, match=r"have shapes \(4, 16\), \(4, 16\) and \(3, 16\); expected \(B, D\)"):
        triplet_loss(torch.ones(4, 16), torch.ones(4, 16), torch.ones(3, 16))
    with pytest.raises(ValueError, match=r"have shapes \(4,\), \(4,\) and \(4,\); expected \(B, D\) for all three"):
        triplet_loss(*(torch.ones(4) for _ in range(3)))
    with pytest.raises(ValueError, match=r"and \(2, 9, 4\); expected \(B, rows, columns, C\) for all three"):
        local_feature_loss(*(torch.ones(2, 9, 4) for _ in range(3)))
    for other in ((1, 3, 3, 4), (2, 3, 3, 5), (2, 9, 4)):
        with pytest.raises(ValueError, match=r"have shapes \(2, 3, 3, 4\) and .*; expected \(B, rows, columns, C\), "):
            mutual_nearest(torch.ones(2, 3, 3, 4), torch.ones(other))


# Triplets among places.


@pytest.mark.parametrize("seed", range(3))
def test_triplets_of_a_batch_match_naive_loops(seed):
    labels = torch.tensor([7, 7, 7, 3, 3, 9, 9, 9, 9, 7])
    descriptors = maps(seed, 10, 8)
    found = batch_triplets(descriptors, labels, negatives=3).tolist()
    expected = []
    for label in (3, 7, 9):
        query = labels.tolist().index(label)
        near = sorted(range(10), key=lambda i: float((descriptors[query] - descriptors[i]).norm()))
        positive = next(i for i in near if labels[i] == label and i != query)
        expected += [[query, positive, i] for i in [i for i in near if labels[i] != label][:3]]
    assert found == expected


@pytest.mark.parametrize(("labels", "negatives"), [([0, 0, 1], 1), ([0, 0, 0, 0], 1), ([0, 0, 1, 1], 3)])
def test_batches_without_triplets_are_refused(labels, negatives):
    with pytest.raises(ValueError, match="expected at least two of each place and [13] of others"):
        batch_triplets(maps(0, len(labels), 4), torch.tensor(labels), negatives=negatives)
