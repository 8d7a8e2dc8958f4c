"""RandAugment against torchvision's, draw by draw and value by value."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandAugment as Published

from datasets import training_transform
from datasets.training.augmentation import RandAugment
from datasets.transforms import resize, to_uint8_tensor


@pytest.fixture
def image():
    values = np.random.default_rng(5).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((130, 90), Image.BICUBIC)


def outcome(augment, image, seed):
    """The image that this seed gives, and the state of torch's generator behind it."""
    torch.manual_seed(seed)
    augmented = augment(image)
    return augmented, torch.get_rng_state()


def noted(operation, key, seen):
    def run(image):
        seen.add(key)
        return operation(image)

    return run


@pytest.mark.parametrize("size", [(42, 56), (56, 56), (97, 30), (224, 224)])  # H, W
def test_every_operation_of_either_sign_is_torchvisions(image, size):
    resized, seen = resize(image, size), set()
    published, ours = Published(1, interpolation=InterpolationMode.BILINEAR), RandAugment(size, num_ops=1)
    ours.operations = [tuple(noted(operation, (i, sign), seen) for sign, operation in enumerate(signs))
                       for i, signs in enumerate(ours.operations)]
    changed = 0
    for seed in range(250):
        (expected, state), (found, our_state) = (outcome(augment, resized, seed) for augment in (published, ours))
        assert found.tobytes() == expected.tobytes() and torch.equal(our_state, state), seed
        changed += found.tobytes() != resized.tobytes()
    assert len(seen) == 14 + 9  # nine have a sign
    assert changed > 200


@pytest.mark.parametrize("size", [(42, 56), (112, 84)])
def test_the_same_draws_give_torchvisions_images(image, size):
    resized, transform = resize(image, size), training_transform(size)
    published, ours = Published(3, interpolation=InterpolationMode.BILINEAR), RandAugment(size, num_ops=3)
    outputs = set()
    for seed in range(60):
        (expected, state), (found, our_state) = (outcome(augment, resized, seed) for augment in (published, ours))
        assert found.tobytes() == expected.tobytes() and torch.equal(our_state, state)
        assert torch.equal(outcome(transform, image, seed)[0], to_uint8_tensor(found))
        outputs.add(found.tobytes())
    assert len(outputs) > 50


def test_the_training_transform_reaches_workers_that_are_not_forked(image):
    transform = training_transform((28, 42))
    copy = pickle.loads(pickle.dumps(transform))
    for seed in range(40):
        assert torch.equal(*(outcome(made, image, seed)[0] for made in (transform, copy)))
