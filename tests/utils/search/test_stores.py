"""Float descriptors held as fp32, fp16 and int8."""

import numpy as np
import pytest

from utils.search import STORES, StoredRows, store_rows


def descriptors(n: int = 300, dim: int = 200) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind, bytes_per_row", [("fp32", 800), ("fp16", 400), ("int8", 204)])
def test_rows_come_back_as_exactly_as_the_store_allows(kind, bytes_per_row):
    rows = descriptors()
    stored = store_rows(rows, kind)
    assert (stored.kind, stored.dim, len(stored), stored.bytes_per_row) == (kind, 200, 300, bytes_per_row)
    read = stored.read(slice(None))
    assert read.dtype == np.float32
    if kind == "int8":
        expected = np.empty_like(rows)
        for i, row in enumerate(rows):
            scale = np.float32(np.abs(row).max() / np.float32(127))
            expected[i] = [np.float32(round(float(value / scale))) * scale for value in row]
        assert np.array_equal(read, expected)
        assert (np.abs(read - rows) <= 0.5001 * stored.scales[:, None]).all()
    else:
        assert np.array_equal(read, rows.astype(np.float16 if kind == "fp16" else np.float32).astype(np.float32))


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("rows", [slice(7, 260, 3), np.array([299, 0, 5, 5]), np.empty(0, np.int64), slice(5, 5)])
def test_rows_asked_for(kind, rows, tmp_path):
    """Of arrays and of memory maps that may not be written to."""
    stored = store_rows(descriptors(), kind)
    stored.values.tofile(tmp_path / "rows")
    mapped = StoredRows(np.memmap(tmp_path / "rows", stored.values.dtype, mode="r", shape=(300, 200)), stored.scales)
    whole = stored.read(slice(None))
    for held in (stored, mapped):
        read = held.read(rows)
        assert type(read) is np.ndarray and read.dtype == np.float32 and np.array_equal(read, whole[rows])
        assert held[rows].kind == kind and np.array_equal(held[rows].read(slice(None)), whole[rows])


def test_rows_of_zeros_stay_zeros():
    rows = np.zeros((2, 8), np.float32)
    with np.errstate(all="raise"):  # without dividing by a scale of zero
        for kind in STORES:
            assert not store_rows(rows, kind).read(slice(None)).any()


def test_blocks_do_not_show(monkeypatch):
    rows = descriptors()
    expected = {kind: store_rows(rows, kind).read(slice(None)) for kind in STORES}
    monkeypatch.setattr("utils.search.stores.BLOCK_BYTES", 70 * 200 * 4)
    assert all(np.array_equal(store_rows(rows, kind).read(slice(None)), expected[kind]) for kind in STORES)


def test_errors_name_what_was_given_and_expected():
    rows = descriptors(3, 4)
    bad = rows.copy()
    bad[1, 2] = np.nan
    cases = [
        (r"store is 'bf16'; expected one of fp32, fp16, int8", lambda: store_rows(rows, "bf16")),
        (r"rows are float64 \(3, 4\)", lambda: store_rows(rows.astype(float), "fp32")),
        (r"reach 65536\b.*, beyond float16", lambda: store_rows(rows * 0 + np.float32(65536), "fp16")),
        (r"float64 \(3, 4\); expected float32, float16 or int8", lambda: StoredRows(rows.astype(float))),
        (r"float32 \(4,\); expected", lambda: StoredRows(rows[0])),
        (r"int8 rows lack scales", lambda: StoredRows(rows.astype(np.int8))),
        (r"fp32 rows have scales", lambda: StoredRows(rows, rows[:, 0])),
        (r"scales are float32 \(2,\); expected float32 \(3,\)", lambda: StoredRows(rows.astype(np.int8), rows[:2, 0])),
        *((r"NaN or infinity", lambda kind=kind: store_rows(bad, kind)) for kind in STORES),
        *((r"NaN or infinity", lambda kind=kind: store_rows(np.float32([[np.inf]]), kind)) for kind in STORES),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()
