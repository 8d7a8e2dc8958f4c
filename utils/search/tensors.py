"""The searches in plain tensor operations, on any device: for GPUs.

Blocks of queries by blocks of the database, so that a table of distances fits into memory. A distance and the row's
number make one whole number, by which equal distances rank by row.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .stores import NOT_FINITE

BLOCK_ROWS = 2**16  # of the database at a time
TABLE = 2**25  # distances at a time: 256 MiB of keys
GATHERED_BYTES = 256 * 2**20  # of candidates' rows at a time
_ID_BITS = 32


def search_hamming(database_codes: np.ndarray, query_codes: np.ndarray, k: int,
                   device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """As `exact.search_hamming`, with k <= n."""
    bits = 8 * database_codes.shape[1]

    def signs(codes: np.ndarray) -> Tensor:
        shifts = torch.arange(8, device=device, dtype=torch.uint8)
        return ((_tensor(codes, device)[..., None] >> shifts) & 1).flatten(1).float() * 2 - 1

    def distances(rows: Tensor, queries: Tensor) -> Tensor:
        return ((bits - queries @ rows.T) / 2).long()

    keys = _smallest(database_codes, query_codes, k, device, prepare=signs, distances=distances)
    return (keys >> _ID_BITS).int().cpu().numpy(), (keys & (2**_ID_BITS - 1)).cpu().numpy()


def search_l2(database: np.ndarray, queries: np.ndarray, k: int,
              device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """As `exact.search_l2` for float32 rows (n, D), with k <= n."""

    def distances(rows: Tensor, queries: Tensor) -> Tensor:
        squares = (queries * queries).sum(1)[:, None] + (rows * rows).sum(1)
        squared = torch.addmm(squares, queries, rows.T, alpha=-2).clamp_(min=0)
        return squared.view(torch.int32).long()  # not negative, so the bits order as the numbers do

    keys = _smallest(database, queries, k, device, prepare=lambda rows: _tensor(rows, device), distances=distances)
    squared = (keys >> _ID_BITS).int().view(torch.float32)
    if not squared.isfinite().all():
        raise ValueError(NOT_FINITE)
    return squared.cpu().numpy(), (keys & (2**_ID_BITS - 1)).cpu().numpy()


def squared_l2(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray, device: torch.device) -> np.ndarray:
    """Squared L2 (m, depth) float32 of queries (m, D) to rows (n, D) at ids (m, depth)."""
    database, wanted, of = (_tensor(array, device) for array in (rows, ids, queries))
    squared = torch.empty(ids.shape, device=device)
    size = max(1, GATHERED_BYTES // (4 * max(1, ids.shape[1] * rows.shape[1])))
    for start in range(0, len(ids), size):
        block = slice(start, start + size)
        difference = database[wanted[block]]
        difference -= of[block, None]
        squared[block] = difference.square_().sum(2)
    return squared.cpu().numpy()


def _smallest(database: np.ndarray, queries: np.ndarray, k: int, device: torch.device, *,
              prepare: Callable[[np.ndarray], Tensor], distances: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The k smallest keys of each query (m, k) int64, ascending: distance << 32 | row."""
    size = max(1, TABLE // BLOCK_ROWS)
    blocks = prepare(queries).split(size)
    best = [torch.empty((len(block), 0), dtype=torch.int64, device=device) for block in blocks]
    for start in range(0, len(database), BLOCK_ROWS):
        rows = prepare(database[start:start + BLOCK_ROWS])
        numbers = torch.arange(start, start + len(rows), device=device)
        for i, block in enumerate(blocks):
            keys = torch.cat([best[i], (distances(rows, block) << _ID_BITS) | numbers], dim=1)
            best[i] = keys.topk(min(k, keys.shape[1]), dim=1, largest=False).values
    return torch.cat(best)


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    # torch warns of memory that it may not write to; a GPU copies it anyway.
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
