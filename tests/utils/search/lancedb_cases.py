"""An exported index against the index and faiss; what becomes of unfinished and foreign exports.

test_export.py runs this file in a process of its own: LanceDB mistakes this project's `datasets` for another package.
"""

import sys

import faiss
import numpy as np
import pytest
from made_up import MODEL, OTHER, tied_codes
from scripts import error_of

from utils import export as export_module
from utils.export import export, main
from utils.search import STORES, ModelIdentity, TwoStageIndex
from utils.search.lancedb_search import Exported, merged

N, DIM, QUERIES = 600, 48, 7


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tied codes, and unit floats, of which some are the same."""
    rng = np.random.default_rng(seed)
    codes = tied_codes(n, rng)
    floats = rng.standard_normal((n, DIM), np.float32)
    floats[: n // 3] = floats[n // 3: 2 * (n // 3)]
    return codes, floats / np.linalg.norm(floats, axis=1, keepdims=True)


def build(folder, *, store: str = "fp32", n: int = N, seed: int = 0, model: ModelIdentity = MODEL) -> TwoStageIndex:
    codes, floats = rows(n, seed)
    metres = np.stack([np.arange(n) * 10.0, np.full(n, 5e6)], axis=1)
    metres[::5] = np.nan
    return TwoStageIndex.build(folder, codes=codes, floats=floats, names=[f"é/{row}.jpg" for row in range(n)],
                               coordinates=metres, model=model, store=store)


@pytest.fixture
def small_blocks(monkeypatch):
    """Commits of 100 rows, in two blocks each."""
    monkeypatch.setattr(export_module, "BLOCK_BYTES", 50 * 4 * DIM)
    monkeypatch.setattr(export_module, "COMMIT_BLOCKS", 2)


def test_finds_what_faiss_finds(tmp_path, small_blocks):
    index = build(tmp_path / "index")
    assert export(index, str(tmp_path / "copy")) == N
    codes, floats = rows(N, 0)
    query_codes, query_floats = rows(QUERIES, 1)
    exported = Exported(str(tmp_path / "copy"), model=MODEL)
    assert len(exported) == N and exported.model == MODEL
    found = exported.search(query_codes, query_floats, k=10, depth=40)

    binary = faiss.IndexBinaryFlat(64)
    binary.add(codes)
    bits, first = binary.search(query_codes, N)
    for query in range(QUERIES):
        first[query] = first[query][np.lexsort((first[query], bits[query]))]
        flat = faiss.IndexFlatL2(DIM)
        flat.add(floats[first[query, :40]])
        squared, places = flat.search(query_floats[query:query + 1], 40)
        order = np.lexsort((places[0], squared[0].round(6)))[:10]
        assert found.ids[query].tolist() == first[query, places[0, order]].tolist()
        np.testing.assert_allclose(found.distances[query], np.sqrt(squared[0, order]), atol=1e-4)
    assert found.names.tolist() == [[f"é/{row}.jpg" for row in ids] for ids in found.ids]
    np.testing.assert_array_equal(found.coordinates, [index.coordinates(ids) for ids in found.ids])
    assert not found.parts.any()


@pytest.mark.parametrize("store", STORES)
def test_parts_find_what_the_index_finds(tmp_path, small_blocks, store):
    index = build(tmp_path / "index", store=store)
    codes, floats = rows(100, 2)
    index.add(codes=codes, floats=floats, names=[b"\xff.jpg".decode("utf-8", "surrogateescape")] * 100)
    index.remove([*range(0, 90, 2), N - 1, N, N + 50])
    index.save()
    targets = [str(tmp_path / f"copy{part}") for part in range(3)]
    assert sum(export(index, target, part=(part, 3)) for part, target in enumerate(targets)) == len(index)
    queries = rows(QUERIES, 3)
    want = index.search(*queries, k=12, depth=90)
    found = Exported(*targets).search(*queries, k=12, depth=90)
    assert np.array_equal(found.ids, want.ids)
    np.testing.assert_allclose(found.distances, want.distances, atol=1e-6)
    assert found.parts.max() == 2 and len(Exported(*targets)) == len(index)
    assert set(found.names[found.ids >= N]) == {"\\xff.jpg"}
    # Each machine searches its own part; what they found is joined elsewhere.
    apart = merged([Exported(target).candidates(*queries, depth=90)[0] for target in targets], k=12, depth=90)
    assert all(np.array_equal(*pair) for pair in zip(apart[:3], found[:3], strict=True))


def test_search_within_a_region(tmp_path):
    index = build(tmp_path / "index")
    export(index, str(tmp_path / "copy"))
    queries = rows(QUERIES, 1)
    exported = Exported(str(tmp_path / "copy"))
    region = [row for row in range(N) if 1000 <= index.coordinates([row])[0, 0] < 1500]
    found = exported.search(*queries, where="utm_east >= 1000 and utm_east < 1500")
    assert np.array_equal(found.ids, index.restricted_to(region).search(*queries).ids)
    assert exported.search(*queries, where="utm_east < 0").ids.shape == (QUERIES, 0)


def test_a_stopped_export_is_not_taken_for_a_complete_one_and_goes_on(tmp_path, small_blocks, monkeypatch):
    index, copy = build(tmp_path / "index"), str(tmp_path / "copy")
    coordinates = index.coordinates

    def stop(ids):
        if ids[0] == 350:  # the second block of the fourth commit
            raise OSError("stopped here")
        return coordinates(ids)

    monkeypatch.setattr(index, "coordinates", stop)
    with pytest.raises(ValueError, match="cannot use .*copy: .*stopped here"):
        export(index, copy)
    with pytest.raises(ValueError, match=r"copy is not complete: 300 rows of part 0/1 of 600 images of base gem"):
        Exported(copy)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds an export of something else"):
        export(build(tmp_path / "other", seed=9), copy)
    assert export(index, copy) == 300
    queries = rows(QUERIES, 1)
    assert np.array_equal(Exported(copy).search(*queries).ids, index.search(*queries).ids)
    with pytest.raises(ValueError, match="complete; delete it"):
        export(index, copy)


def test_only_exports_of_one_model_are_searched_together(tmp_path):
    for number, model in enumerate((MODEL, OTHER)):
        export(build(tmp_path / f"index{number}", n=20, model=model), str(tmp_path / f"copy{number}"))
    for arguments in ({"model": OTHER}, {}):
        with pytest.raises(ValueError, match="is an export of (base gem|large boq) .*; expected (large boq|base gem) "):
            Exported(*[str(tmp_path / f"copy{number}") for number in range(2 - len(arguments))], **arguments)
    exported = Exported(str(tmp_path / "copy0"))
    codes, floats = rows(2, 1)
    for wrong in ((codes[:1], floats), (codes[:, :4], floats), (codes, floats[:, :5]), (codes[:0], floats[:0])):
        with pytest.raises(ValueError, match="expected"):
            exported.search(*wrong)


def test_command_line(tmp_path, capsys):
    build(tmp_path / "index", n=30)
    main([str(tmp_path / "index"), str(tmp_path / "copy"), "--part", "1/3"])
    assert "complete; 10 images written in" in capsys.readouterr().out
    assert "holds this export already" in error_of(main, tmp_path / "index", tmp_path / "copy", "--part", "1/3",
                                                   capsys=capsys)
    assert "holds an export of something else" in error_of(main, tmp_path / "index", tmp_path / "copy", capsys=capsys)
    assert "part is 3/3" in error_of(main, tmp_path / "index", tmp_path / "new", "--part", "3/3", capsys=capsys)
    assert "--part is x" in error_of(main, tmp_path / "index", tmp_path / "new", "--part", "x", capsys=capsys)
    error_of(main, tmp_path / "nowhere", tmp_path / "new", capsys=capsys)
    (tmp_path / "file").write_text("")
    assert "cannot use" in error_of(main, tmp_path / "index", tmp_path / "file", capsys=capsys)
    with pytest.raises(FileNotFoundError, match="nowhere holds no export"):
        Exported(str(tmp_path / "nowhere"))


def test_without_the_package_one_line_names_it(tmp_path, monkeypatch, capsys):
    build(tmp_path / "index", n=3)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    assert "pip install 'lancedb==0.40.*'" in error_of(main, tmp_path / "index", tmp_path / "copy", capsys=capsys)


def test_an_index_of_one_branch_is_refused(tmp_path):
    index = TwoStageIndex.build(tmp_path, codes=rows(3, 0)[0], names="abc", model=MODEL)
    with pytest.raises(ValueError, match="one branch alone"):
        export(index, str(tmp_path / "copy"))


def test_a_program_that_imported_lancedb_first_searches_beside_our_datasets(tmp_path):
    """The last one here: from now on nothing can be exported."""
    index = build(tmp_path / "index")
    export(index, str(tmp_path / "copy"))
    import datasets  # noqa: F401

    queries = rows(QUERIES, 1)
    assert np.array_equal(Exported(str(tmp_path / "copy")).search(*queries).ids, index.search(*queries).ids)
    with pytest.raises(ValueError, match="export with python -m utils.export; to search, import lancedb first"):
        export(index, str(tmp_path / "other"))
