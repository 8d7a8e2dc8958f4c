"""Images without labels, seen by two models."""

import images
import pytest
import torch
from torch.nn.functional import interpolate

from datasets import ImageBatchSampler, ViewDataset, training_transform
from datasets.transforms import read_image


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for place in range(7):
        images.image(place, 0).save(folder / f"{place}.png")
    return sorted(folder.iterdir())


def all_equal(ours, theirs) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_one_augmented_view_in_two_sizes(paths):
    """Augmented at the larger size; the smaller one is made of it, whichever model that is for."""
    small, large = ViewDataset(paths, sizes=((28, 28), (56, 42)), seed=3)[1, 4]
    assert (small.shape, large.shape, small.dtype, large.dtype) == ((3, 28, 28), (3, 56, 42), torch.uint8, torch.uint8)
    resized = interpolate(large[None].double(), (28, 28), mode="bilinear", antialias=True)[0]
    assert (resized - small).abs().max() <= 1
    assert all_equal(ViewDataset(paths, sizes=((56, 42), (28, 28)), seed=3)[1, 4], (large, small))
    plain = ViewDataset(paths, sizes=((56, 42), (56, 42)), seed=3)[1, 4]
    assert all_equal(plain, (large, large))
    assert not torch.equal(large, training_transform((56, 42))(read_image(paths[4])))  # it was drawn


def test_a_view_depends_on_seed_epoch_and_image_alone(paths):
    views = ViewDataset(paths, sizes=((28, 28), (28, 28)), seed=3)
    before = torch.get_rng_state()
    first = views[0, 2]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert all_equal(views[0, 2], first)
    others = [views[1, 2], ViewDataset(paths, sizes=((28, 28), (28, 28)), seed=4)[0, 2]]
    assert not any(all_equal(first, other) for other in others)


def test_every_image_once_an_epoch_in_batches_of_nearly_one_size(paths):
    sampler = ImageBatchSampler(7, images_per_batch=3, seed=1)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = [*sampler]
        assert [len(batch) for batch in batches] == [3, 2, 2]
        assert len(sampler) == 3
        assert {number for _, number in sum(batches, [])} == {*range(7)}
        assert {number for number, _ in sum(batches, [])} == {epoch}
        epochs.append(batches)
        sampler.set_epoch(epoch, done=2)
        assert ([*sampler], len(sampler)) == (batches[2:], 1)
    assert [number for _, number in sum(epochs[0], [])] != [number for _, number in sum(epochs[1], [])]


def test_without_images_there_is_nothing_to_learn():
    with pytest.raises(ValueError, match="no images were given"):
        ViewDataset([], sizes=((28, 28), (28, 28)))
