"""What binary codes are like, in small: distances of right and other pairs, how even the bits are, how alike."""

import numpy as np

from datasets import Listing

from ..search import Searchable

PAIRS = 100_000  # of right answers, and of others, that are drawn at most
ROWS = 50_000  # of the database, evenly spread, that the bits are told from at most
BLOCK = 8192  # rows or pairs in hand at a time: 16 MiB of 512 bits as floats
HUNDREDTHS = 100  # a correlation is counted to the hundredth, from -1 to 1


def summarised_codes(database: Searchable, queries: np.ndarray, listing: Listing, *, seed: int = 0
                     ) -> dict[str, np.ndarray]:
    """Of a database and of query codes (m, bits / 8) uint8, by their names in predictions.npz:

    codes_positives     (bits + 1,) int64: how many pairs of a query and a right answer differ in so many bits; only
                        with labels
    codes_negatives     (bits + 1,) int64: likewise of a query and another database image
    codes_ones          (bits,) float32: which share of the database's codes has each bit
    codes_correlations  (201,) int64: how many pairs of bits correlate so over the database, from -1.00 to 1.00; without
                        bits that never change

    Of more than PAIRS pairs that many are drawn, by `seed`.
    """
    generator, n = np.random.default_rng(seed), listing.n_database
    found = {}
    others = generator.choice(len(queries) * n, min(PAIRS, len(queries) * n), replace=False)
    if listing.positives is not None:
        right = np.concatenate([np.empty(0, np.int64), *(query * n + ids for query, ids in
                                                         enumerate(listing.positives))])
        others = others[~np.isin(others, right)]
        drawn = generator.choice(right, PAIRS, replace=False) if len(right) > PAIRS else right
        found["codes_positives"] = _distances(database, queries, drawn, n)
    found["codes_negatives"] = _distances(database, queries, others, n)
    return found | _bits(database, np.unique(np.linspace(0, n - 1, min(n, ROWS)).round().astype(np.int64)))


def _distances(database: Searchable, queries: np.ndarray, pairs: np.ndarray, n: int) -> np.ndarray:
    """How many of the pairs query * n + row have each Hamming distance."""
    bits = 8 * queries.shape[1]
    counts = np.zeros(bits + 1, np.int64)
    query, row = np.divmod(pairs, n)
    in_place = np.argsort(row, kind="stable")  # a memory map is read from front to back
    for start in range(0, len(pairs), BLOCK):
        some = in_place[start:start + BLOCK]
        differing = np.unpackbits(_codes(database, row[some]) ^ queries[query[some]], axis=1)
        counts += np.bincount(differing.sum(axis=1, dtype=np.int64), minlength=bits + 1)
    return counts


def _bits(database: Searchable, rows: np.ndarray) -> dict[str, np.ndarray]:
    bits = 8 * _codes(database, rows[:1]).shape[1]
    sums, products = np.zeros(bits), np.zeros((bits, bits))
    for start in range(0, len(rows), BLOCK):
        # Of -1 and +1: their float32 sums over a block are whole numbers, and exact.
        values = 2 * np.unpackbits(_codes(database, rows[start:start + BLOCK]), axis=1).astype(np.float32) - 1
        sums += values.sum(axis=0)
        products += values.T @ values
    mean = sums / len(rows)
    deviation = np.sqrt(1 - mean**2)
    covariance = products / len(rows) - np.outer(mean, mean)
    scale = np.outer(deviation, deviation)
    told = np.triu(scale > 0, k=1)
    hundredths = (HUNDREDTHS * (covariance[told] / scale[told]).clip(-1, 1)).round().astype(np.int64)
    return {"codes_ones": ((1 + mean) / 2).astype(np.float32),
            "codes_correlations": np.bincount(hundredths + HUNDREDTHS, minlength=2 * HUNDREDTHS + 1)}


def _codes(database: Searchable, rows: np.ndarray) -> np.ndarray:
    assert database.codes is not None
    database.about_to_read("codes", rows)
    return database.codes[rows]
