"""Descriptors of a simulated city of any size, with the neighbour structure of a real one.

An image has a latent, the sum of what it shares with all images, with those of its type of scene, of its view and of
its season, and of noise of its own; code and float descriptor are projections of it. scale.md says more, and what
the weights were fitted to. A street is drawn from random numbers of its own, so that image i is the same in
every set, whatever its size.
"""

from collections.abc import Iterator

import numpy as np

BITS = 512
LATENT = 128
TYPES = 64
HEADINGS = 4
SEASONS = 4
VISITS = 2  # images of a place in each heading
PLACES = 128  # of a street, SPACING metres apart
SPACING = 10
REACH = 2  # places to either side whose images are positives: 25 m as in the field, at 10 m a place
PER_PLACE = HEADINGS * VISITS
PER_STREET = PLACES * PER_PLACE
KEPT = 0.75  # correlation of the view between neighbouring places
DECAY = 0.75  # of the latent's standard deviations, (1 + j / 16) ** -DECAY
WEIGHTS = {"common": 0.35, "type": 0.7, "view": 0.8, "season": 0.25, "noise": 0.52}
NOISE_SPREAD = 0.7  # of the logarithm of an image's noise
_QUERY_STREAM = 2**32  # beside the streets' numbers


class City:
    """The first `n` images of the world, and queries at places spread evenly over them; float_dim >= LATENT.

    query_codes   (queries, 64) uint8
    query_floats  (queries, float_dim) float32, unit length
    positives     for each query the database indices within 25 m
    """

    def __init__(self, n: int, *, queries: int, float_dim: int):
        self.n, self.float_dim = n, float_dim
        # What all streets share: kinds of scene, seasons, and the projections to codes and floats.
        rng = self.generator(_QUERY_STREAM + 1)
        scale = (1 + np.arange(LATENT) / 16) ** -DECAY
        self.scale = (scale / np.linalg.norm(scale)).astype(np.float32)
        self.types = self.normal(rng, TYPES) * WEIGHTS["type"] + self.normal(rng, 1) * WEIGHTS["common"]
        self.seasons = self.normal(rng, SEASONS) * WEIGHTS["season"]
        self.to_code = rng.standard_normal((LATENT, BITS), np.float32)
        # Orthonormal rows: distances among floats are those among latents.
        self.to_float = np.linalg.qr(rng.standard_normal((float_dim, LATENT), np.float32))[0].T.copy()

        places = (np.arange(queries) * -(-n // PER_PLACE)) // queries
        rng = self.generator(_QUERY_STREAM)
        headings = rng.integers(HEADINGS, size=queries)
        latents = self.nuisance(rng, queries)
        for street in np.unique(places // PLACES):
            here = places // PLACES == street
            latents[here] += self.street(street)[0][places[here] % PLACES, headings[here]]
        self.query_codes, self.query_floats = self.describe(latents)
        self.positives = [_positives(place, n) for place in places]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Codes and floats of the database in order, street by street."""
        for start in range(0, self.n, PER_STREET):
            codes, floats = self.describe(self.street(start // PER_STREET)[1])
            yield codes[:self.n - start], floats[:self.n - start]

    def generator(self, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([0, stream]))

    def normal(self, rng: np.random.Generator, *shape: int) -> np.ndarray:
        """(*shape, LATENT) with the latent's spectrum; a vector's expected squared length is 1."""
        return rng.standard_normal((*shape, LATENT), np.float32) * self.scale

    def nuisance(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """(n, LATENT): seasons and noise of n images."""
        season = rng.integers(SEASONS, size=n)
        strength = WEIGHTS["noise"] * np.exp(NOISE_SPREAD * rng.standard_normal(n, np.float32))
        return self.normal(rng, n) * strength[:, None] + self.seasons[season]

    def street(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Views (PLACES, HEADINGS, LATENT) without nuisance, and images (PER_STREET, LATENT) in their order."""
        rng = self.generator(number)
        kind = self.types[rng.integers(TYPES)]
        views = self.normal(rng, PLACES, HEADINGS) * WEIGHTS["view"]
        views[1:] *= np.float32(np.sqrt(1 - KEPT**2))
        for place in range(1, PLACES):
            views[place] += KEPT * views[place - 1]
        views += kind
        images = self.nuisance(rng, PER_STREET)
        images.reshape(PLACES, HEADINGS, VISITS, LATENT)[...] += views[:, :, None]
        return views, images

    def describe(self, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, 64) uint8 and floats (n, float_dim) float32 of unit length."""
        codes = np.packbits(latents @ self.to_code >= 0, axis=1)
        return codes, latents / np.linalg.norm(latents, axis=1, keepdims=True) @ self.to_float


def _positives(place: int, n: int) -> np.ndarray:
    """All images of the places of the same street within REACH, in any heading, as a radius of 25 m has it."""
    street = place - place % PLACES
    first, last = max(street, place - REACH), min(street + PLACES, place + REACH + 1)
    return np.arange(first * PER_PLACE, min(last * PER_PLACE, n))
