"""Sets as .npy lists of images and right answers; files written by numpy, answers worked out by hand."""

import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from datasets.readers.file_lists import file_lists
from datasets.readers.object_arrays import read_npy

DATABASE = ["cph/db/a.jpg", "cph/db/b.jpg", "sf/db/c.jpg", "sf/db/d.jpg"]
QUERIES = ["cph/q/0.jpg", "cph/q/1.jpg", "sf/q/2.jpg"]


def objects(*rows):
    """A one-dimensional object array, whatever the rows are."""
    array = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        array[i] = row
    return array


GT = objects(np.array([0, 1]), np.array([3]))


@pytest.fixture
def lists(tmp_path):
    """A function that writes a set "tiny", of whose queries 0 and 2 are used, with any of its files changed or None."""
    for name in (*DATABASE, *QUERIES):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    folder = tmp_path / "lists"
    folder.mkdir()

    def write(**changed):
        files = {"tiny_dbImages": np.array(DATABASE), "tiny_qImages": np.array(QUERIES), "tiny_qIdx": np.array([0, 2]),
                 "tiny_gt": GT} | changed
        for name, array in files.items():
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        return folder, tmp_path / "images"

    return write


def positives(files, **options):
    return [ids.tolist() for ids in file_lists(*files, **{"name": "tiny", **options}).positives]


def test_a_set(lists):
    folder, root = lists()
    listing = file_lists(folder, root, name="msls_val_740")
    assert listing.names("database") == DATABASE and listing.names("query") == [QUERIES[0], QUERIES[2]]
    assert listing.database_paths[0] == root / DATABASE[0]
    assert [ids.tolist() for ids in listing.positives] == [[0, 1], [3]]
    assert all(ids.dtype == np.int64 for ids in listing.positives)
    assert (listing.name, listing.folder, listing.rule, listing.threshold_m) == ("msls_val_740", root, "listed", None)
    assert listing.database_utm is None and listing.split is None
    assert listing.warnings == (f"{folder}/tiny_qIdx.npy: 2 of 3 listed queries are used",)
    assert len(listing.fingerprint()) == 64


@pytest.mark.parametrize("names", [
    np.array([f"./{name}" for name in DATABASE]), np.array(DATABASE, object), np.array(DATABASE).astype("S"),
    objects(*map(np.str_, DATABASE)), np.array(DATABASE)[::-1][::-1], np.array(DATABASE).astype(">U12"),
], ids=["./", "objects", "bytes", "numpy text", "view", "big endian"])
def test_names_of_every_kind(lists, names):
    assert file_lists(*lists(tiny_dbImages=names), name="tiny").names("database") == DATABASE


@pytest.mark.parametrize("truth, expected", [
    (objects([1, 0, 1], [3]), [[0, 1], [3]]),
    (objects(np.array([2, 0], np.uint16), (1,)), [[0, 2], [1]]),
    (objects(np.array([0, 1, 2], ">i4"), np.array([])), [[0, 1, 2], []]),  # an empty one is of floats
    (objects([], [np.int64(2), 1]), [[], [1, 2]]),
    (objects(3, np.int32(0)), [[3], [0]]),
    (objects(objects(1, 2), np.array([[0]])), [[1, 2], [0]]),
    (np.array([3, 1]), [[3], [1]]), (np.array([[3], [1]]), [[3], [1]]), (np.array([[3, 1], [1, 1]]), [[1, 3], [1]]),
    (np.array([[3, 0, 1], [1, 2, 0]], np.int32, order="F"), [[0, 1, 3], [0, 1, 2]]),
    (np.array([[0, np.array([1, 2])], [2, np.array([3])]], object), [[1, 2], [3]]),  # numbers of qIdx
    (np.array([[2, [3]], [0, [1, 2]]], object), [[1, 2], [3]]),
    (np.array([[0, np.array([1])], [1, np.array([3, 0])]], object), [[1], [0, 3]]),  # ranks in qIdx
    (np.array([[1, [3]], [0, [1, 2]]], object, order="F"), [[1, 2], [3]]),
    (objects([0, np.array([2])], (2, 1)), [[2], [1]]),
])
def test_right_answers_of_every_kind(lists, truth, expected):
    assert positives(lists(tiny_gt=truth)) == expected


def test_an_object_array_of_two_dimensions_is_read_in_its_order(tmp_path):
    array = np.array([[0, [1]], [2, [3, 4]], [5, []]], object, order="F")
    np.save(tmp_path / "a.npy", array)
    assert read_npy(tmp_path / "a.npy") == [[0, [1]], [2, [3, 4]], [5, []]]
    np.save(tmp_path / "b.npy", objects(np.array([[1, 2], [3, 4]], order="F"), np.array([[1, 2], [3, 4]])))
    assert [inner.tolist() for inner in read_npy(tmp_path / "b.npy")] == 2 * [[[1, 2], [3, 4]]]


def test_as_the_published_sets_are(lists):
    """Nordland's first rows, [0, 1] and [0, 1, 2], without qIdx; pairs in VPR-Bench's ground_truth_new.npy."""
    truth = objects(np.array([0, 1]), np.array([0, 1, 2]), np.array([1, 2, 3]))
    files = lists(tiny_qIdx=None, tiny_gt=truth)
    assert positives(files) == [[0, 1], [0, 1, 2], [1, 2, 3]]
    assert file_lists(*files, name="tiny").warnings == ()
    (files[0] / "tiny_gt.npy").unlink()
    np.save(files[0] / "ground_truth_new.npy", np.array([[i, row] for i, row in enumerate(truth)], object))
    assert positives(files) == [[0, 1], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("name", ["tiny_pIdx", "TINY_GT", "tiny_gt_25m", "tiny_GroundTruth", "GroundTruth_tiny",
                                  "ground_truth_new"])
def test_names_of_the_right_answers(lists, name):
    assert positives(lists(tiny_gt=None, **{name: GT})) == [[0, 1], [3]]


def test_upper_and_lower_case_count_alike(lists):
    array = {"tiny_dbImages": DATABASE, "tiny_qImages": QUERIES, "tiny_qIdx": [0, 2]}
    changed = dict.fromkeys(array) | {name.upper(): np.array(value) for name, value in array.items()}
    assert positives(lists(**changed)) == [[0, 1], [3]]


def test_one_of_several_sets_in_a_folder(lists):
    other = {"Other_dbImages": np.array(DATABASE[:2]), "Other_qImages": np.array(QUERIES[:1]), "Other_gt": objects([1])}
    files = lists(**other)
    assert positives(files, name="tiny") == [[0, 1], [3]]
    assert positives(files, name="other") == [[1]]  # which has no qIdx: the other set's is not taken
    with pytest.raises(ValueError, match=r"2 lists \*_dbImages\.npy; expected one, or one called sped_dbImages\.npy.*"
                                         r"there: Other_dbImages\.npy, Other_gt\.npy"):
        positives(files, name="sped")
    (files[0] / "tiny_gt.npy").rename(files[0] / "tiny_GroundTruth.npy")
    (files[0] / "Other_gt.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no list of right answers"):
        positives(files, name="other")


@pytest.mark.parametrize("changed, kind, said", [
    ({"tiny_dbImages": None}, FileNotFoundError, "0 lists *_dbImages.npy"),
    ({"tiny_qImages": None}, FileNotFoundError, "no tiny_qImages.npy"),
    ({"tiny_gt": None}, FileNotFoundError, "no list of right answers"),
    ({"tiny_pIdx": GT}, ValueError, "2 list of right answers"),
    ({"tiny_gt": None, "tiny_GroundTruth": GT, "tiny_ground_truth": GT}, ValueError, "2 list of right answers"),
])
def test_lists_that_are_missing_or_too_many(lists, changed, kind, said):
    folder, root = lists(**changed)
    with pytest.raises(kind) as error:
        file_lists(folder, root, name="tiny")
    there = ", ".join(sorted(path.name for path in folder.iterdir()))
    assert said in str(error.value) and str(error.value).endswith(f".npy files there: {there}")
    assert "*_pIdx.npy" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("changed, said", [
    ({"tiny_qIdx": np.array([0, 3])}, "tiny_qIdx.npy, row 1: 3; expected 0 to 2, as tiny_qImages.npy lists 3 queries"),
    ({"tiny_qIdx": np.array([-1, 0])}, "row 0: -1"), ({"tiny_qIdx": np.array([0, 0])}, "1 numbers repeat another one"),
    ({"tiny_qIdx": np.array([0.0, 2.0])}, "expected a one-dimensional array of whole numbers"),
    ({"tiny_qIdx": np.array([[0, 2]])}, "one-dimensional"), ({"tiny_qIdx": np.array([], int)}, "at least one"),
    ({"tiny_qIdx": np.array([True, False, True])}, "whole numbers"), ({"tiny_qIdx": objects("0", "2")}, "whole"),
    ({"tiny_gt": objects([0])}, "tiny_gt.npy: 1 rows; expected one for each of the 2 queries of tiny_qIdx.npy"),
    ({"tiny_gt": objects([0], [1], [2])}, "tiny_gt.npy: 3 rows; expected one for each of the 2 queries"),
    ({"tiny_qIdx": None}, "tiny_gt.npy: 2 rows; expected one for each of the 3 queries of tiny_qImages.npy"),
    ({"tiny_gt": objects([0], [1, 4])}, "tiny_gt.npy, row 1: database id 4; expected 0 to 3, as 4 images are listed"),
    ({"tiny_gt": objects([-1, 0], [1])}, "row 0: database id -1"),
    ({"tiny_gt": objects([10**30], [1])}, f"database id {10**30}"),
    ({"tiny_gt": objects(np.array([1.0]), [1])}, "row 0: [1.0]; expected database ids"),
    ({"tiny_gt": np.array([1.0, 2.0])}, "row 0: [1.0]"), ({"tiny_gt": objects("a", [1])}, "row 0: ['a']"),
    ({"tiny_gt": objects(np.array([True]), [1])}, "row 0: [True]"),
    ({"tiny_gt": np.array(3, object)}, "a single int; expected an array with rows"),
    ({"tiny_gt": np.zeros((2, 1, 1), int)}, "no rows"), ({"tiny_gt": np.array(3)}, "no rows"),
    ({"tiny_gt": np.array([[0, 3], [2, 1]])}, "rows like [0, 3], two ids or a query's number and its one id"),
    ({"tiny_gt": np.array([[0, 3], [1, 1]])}, "two ids or a query's number"),
    ({"tiny_gt": objects([1, 3], [0, 1])}, "two ids or a query's number"),
    ({"tiny_gt": np.array([[0, [1]], [0, [2]]], object)}, "the queries' numbers repeat [0]"),
    ({"tiny_gt": np.array([[1, [1]], [2, [2]]], object)}, "the queries' numbers begin with [1, 2]"),
    ({"tiny_dbImages": np.array([DATABASE])}, "tiny_dbImages.npy: expected a one-dimensional array of paths"),
    ({"tiny_dbImages": np.arange(4)}, "array of paths"), ({"tiny_qImages": np.array([], str)}, "at least one"),
    ({"tiny_qImages": np.array(["", "a", "b"])}, "array of paths"), ({"tiny_qImages": objects("a", 1)}, "of paths"),
    ({"tiny_qImages": np.array(["a", "../b.jpg", "c"])}, "row 1: ../b.jpg lies outside of the images' folder"),
    ({"tiny_qImages": np.array(["/etc/x.jpg", "a", "b"])}, "row 0: /etc/x.jpg lies outside"),
    ({"tiny_qImages": np.array(["a/../../b", "a", "b"])}, "row 0: ../b lies outside"),
])
def test_lists_that_do_not_fit(lists, changed, said):
    with pytest.raises(ValueError) as error:
        positives(lists(**changed))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_images_that_are_not_there(lists):
    folder, root = lists(tiny_dbImages=np.array([*DATABASE, "sf/e.jpg", "sf/f.jpg"]))
    with pytest.raises(FileNotFoundError, match=r"images/sf/e\.jpg: not there \(nor are 1 more of 6\); .*tiny_dbIm"
                                                rf"ages\.npy lists it, expected below the images' folder {root}$"):
        file_lists(folder, root, name="tiny")
    folder, root = lists()
    (root / QUERIES[1]).unlink()  # a query that is not used
    assert len(positives((folder, root))) == 2
    (root / QUERIES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=r"q/2\.jpg: not there; .*tiny_qImages\.npy"):
        positives((folder, root))
    for missing in ((folder / "no", root), (folder, root / "no")):
        with pytest.raises(FileNotFoundError, match="no: no such folder; expected the"):
            positives(missing)


def test_repeated_images_are_counted(lists):
    files = lists(tiny_dbImages=np.array([*DATABASE, DATABASE[0], "./" + DATABASE[0]]))
    assert file_lists(*files, name="tiny").warnings[-1].endswith("2 of 6 paths repeat another one")


def test_drawn_images_say_so(lists):
    folder, root = lists()
    (root.parent / "TOY_CITY.json").write_text("{}")
    assert file_lists(folder, root, name="tiny").name == "toy_city/tiny"


class Bad:
    """Whose pickle calls a function of anyone's choice."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("bad, named", [
    (Bad(os.system, "touch ran"), f"{os.system.__module__}.system"), (Bad(eval, "open('ran', 'w')"), "builtins.eval"),
    (Bad(getattr, "", "join"), "builtins.getattr"), (Bad(np.save, "ran", 0), "numpy.save"),
    (Bad(exec, "raise SystemExit"), "builtins.exec"), (np.random.default_rng, "numpy.random"),
    (Bad(np.memmap, "ran", "u1", "w+", 0, (1,)), "numpy.memmap"), (np.ma.masked_array([1]), "numpy.ma"),
])
def test_code_in_a_list_is_refused(lists, monkeypatch, tmp_path, bad, named):
    monkeypatch.chdir(tmp_path)
    files = lists(tiny_gt=objects([0], bad))
    with pytest.raises(ValueError) as error:
        positives(files)
    assert f"tiny_gt.npy: holds {named}" in str(error.value) and "which may run code" in str(error.value)
    assert "expected lists, whole numbers, text and numpy arrays" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("ran*"))


@pytest.mark.parametrize("value, named", [
    (1.5, "float"), (True, "bool"), (None, "NoneType"), ({0: 1}, "dict"), (np.float32(1), "float"),
    (np.datetime64("2020"), "type 'M8'"), (np.array([1j]), "type 'c16'"), (np.zeros(1, "i4,f8"), "type 'V12'"),
])
def test_other_values_are_refused(lists, value, named):
    with pytest.raises(ValueError, match=rf"tiny_gt\.npy: holds .*{named}"):
        positives(lists(tiny_gt=objects([0], [value])))


def with_pickle(path, content):
    """An object array's file whose pickle is `content`."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (2,)})
    path.write_bytes(file.getvalue() + content)
    return path


def test_lists_in_themselves_are_refused(tmp_path):
    loop = [0]
    loop.append(loop)
    with pytest.raises(ValueError, match="holds lists in lists without end"):
        read_npy(with_pickle(tmp_path / "a.npy", pickle.dumps(loop)))


@pytest.mark.parametrize("protocol", range(3, 6))
def test_pickles_of_every_protocol(tmp_path, protocol):
    array = objects([0, np.int64(1)], np.array([2, 3]))[:, None]
    if protocol == 5:
        array = array.tolist()  # numpy's own arrays are never written so
        array[1][0] = [2, 3]
    rows = read_npy(with_pickle(tmp_path / "a.npy", pickle.dumps(array, protocol)))
    assert [list(row) for [row] in rows] == [[0, 1], [2, 3]]


def test_files_of_older_numpy_and_python_2(tmp_path):
    """numpy.core without underscore; arrays' bytes as text, as Python 2 had them."""
    ids = np.array([2, 200], "<i8")
    content = pickle.dumps(objects([0], ids), 3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"numpy.core" in content
    assert [list(row) for row in read_npy(with_pickle(tmp_path / "a.npy", content))] == [[0], [2, 200]]
    raw = ids.tobytes()
    binary = b"C" + bytes([len(raw)]) + raw  # SHORT_BINBYTES, and what Python 2 wrote: SHORT_BINSTRING
    assert binary in content
    content = content.replace(binary, b"U" + binary[1:])
    assert [list(row) for row in read_npy(with_pickle(tmp_path / "a.npy", content))] == [[0], [2, 200]]


def reduced(function, arguments, state=None):
    """A pickle's text of function(*arguments), then told its state."""
    module, name = function
    text = f"c{module}\n{name}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R"
    return text if state is None else text + pickle.dumps(state, 2)[2:-1] + b"b"


RECONSTRUCT, NDARRAY, DTYPE = ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")


@pytest.mark.parametrize("content, said", [
    # What makes numpy itself read or write memory that is not its own, or as much of it as is wanted.
    (reduced(NDARRAY, ((1 << 40,),)), "TypeError"), (reduced(RECONSTRUCT, (None, (1 << 40,), b"b")), ""),
    (reduced(DTYPE, ("i8", False, True), (3, "|", None, ("a",), {"a": 1}, 1 << 30, 1, 27)), ""),
    (reduced(DTYPE, ("i8", False, True), (3, "O,", None, None, None, -1, -1, 0)), "in the order 'O,'"),
    (reduced(DTYPE, ("V8", False, True)), "values of type 'V8'"),
    (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0O8tRC\x08aaaaaaaatR", "ValueError"),
    (b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0i8tRC\x04aaaatR", "ValueError"),
    (b"cnumpy.core.multiarray\nscalar\n}X\x01\0\0\0aK\x01sb", ""),
])
def test_lies_about_types_and_sizes_are_refused(tmp_path, content, said):
    with pytest.raises(ValueError, match=r"a\.npy: ") as error:
        read_npy(with_pickle(tmp_path / "a.npy", b"\x80\x03" + content + b"."))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_reader_is_not_changed_by_what_it_reads(lists, tmp_path):
    """A pickle may set attributes of what it names."""
    for name in ("_reconstruct", "scalar"):
        content = f"cnumpy.core.multiarray\n{name}\n".encode() + b"N}X\x08\0\0\0__init__K\x01s\x86b."
        with pytest.raises(ValueError, match=r"a\.npy: "):
            read_npy(with_pickle(tmp_path / "a.npy", b"\x80\x03" + content))
    assert positives(lists(tiny_gt=objects([np.int64(0)], np.array([3])))) == [[0], [3]]


def test_a_damaged_number_asks_for_no_memory(tmp_path):
    """Python's unpickler in C would make 512 MB of room for the note that this list is said to be."""
    content = pickle.dumps(objects([0], [1]), 3)
    assert content.count(b"]q") == 3
    where = content.rindex(b"]q")
    content = content[:where] + b"]r" + struct.pack("<I", 1 << 25) + content[where + 3:]
    path = with_pickle(tmp_path / "a.npy", content)
    tracemalloc.start()
    try:
        assert read_npy(path) == [[0], [1]]
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"no npy", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00" + bytes(100),
                                     b"\x93NUMPY\x01\x00" + struct.pack("<H", 4) + b"{1:\n"])
def test_files_that_are_no_npy(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: ") as error:
        read_npy(path)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"b\.npy: no such file"):
        read_npy(tmp_path / "b.npy")


def test_truncated_files(lists):
    folder, root = lists()
    for name in ("tiny_gt.npy", "tiny_dbImages.npy"):
        whole = (folder / name).read_bytes()
        for length in range(0, len(whole), 7):
            (folder / name).write_bytes(whole[:length])
            with pytest.raises(ValueError, match=name) as error:
                file_lists(folder, root, name="tiny")
            assert "\n" not in str(error.value)
        (folder / name).write_bytes(whole)


def test_damaged_files_raise_nothing_else(lists):
    folder, root = lists()
    whole = bytearray((folder / "tiny_gt.npy").read_bytes())
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(whole)
        for position in rng.integers(128, len(whole), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        (folder / "tiny_gt.npy").write_bytes(damaged)
        try:
            read = file_lists(folder, root, name="tiny").positives
            outcomes.add(all(0 <= i < len(DATABASE) for ids in read for i in ids))
        except ValueError as error:
            assert "tiny_gt.npy" in str(error) and "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {True, "refused"}
