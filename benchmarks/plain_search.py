"""The denominator of the retrieval figures: search, re-ranking and recall in the published order, a query at a time.

faiss's flat binary index as it comes; re-ranking in numpy, a row of predictions at a time; recall by a Python loop. The
protocol is the paper's: the candidates of the Hamming search, sorted by the L2 distance of their float descriptors.
"""

from collections.abc import Sequence

import faiss
import numpy as np


def plain_index(codes: np.ndarray) -> faiss.IndexBinaryFlat:
    """Of codes (n, bytes) uint8; `index.search(query_codes, k)` is the first stage."""
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    return index


def plain_rerank(database: np.ndarray, queries: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Predictions (m, k) of queries (m, D), each row sorted by L2 to the rows of database (n, D) float32."""
    reranked = np.empty_like(predictions)
    for i, candidates in enumerate(predictions):
        distances = np.linalg.norm(database[candidates] - queries[i], axis=1)
        reranked[i] = candidates[np.argsort(distances)]
    return reranked


def plain_recalls(predictions: np.ndarray, positives: Sequence[np.ndarray], values: Sequence[int]) -> list[float]:
    """Percentage of queries with a positive among their first n predictions, for the ascending n in values."""
    found = np.zeros(len(values))
    for row, right in zip(predictions, positives, strict=True):
        for i, n in enumerate(values):
            if np.isin(row[:n], right).any():
                found[i:] += 1
                break
    return (100 * found / len(predictions)).tolist()
