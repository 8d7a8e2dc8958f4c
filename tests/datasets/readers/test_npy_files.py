"""Numpy's files against numpy itself, and files that want to run code or to take memory."""

import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from datasets.readers.npy_files import read_npy


def objects(*rows):
    """A one-dimensional object array, whatever the rows are."""
    return np.fromiter(rows, object, len(rows))


def saved(folder, *rows):
    np.save(folder / "a.npy", objects(*rows))
    return folder / "a.npy"


def plain(rows):
    return [list(row) for row in rows]


def test_an_object_array_of_two_dimensions_is_read_in_its_order(tmp_path):
    array = np.array([[0, [1]], [2, [3, 4]], [5, []]], object, order="F")
    np.save(tmp_path / "a.npy", array)
    assert read_npy(tmp_path / "a.npy") == [[0, [1]], [2, [3, 4]], [5, []]]
    np.save(tmp_path / "b.npy", objects(np.array([[1, 2], [3, 4]], order="F"), np.array([[1, 2], [3, 4]])))
    assert [inner.tolist() for inner in read_npy(tmp_path / "b.npy")] == 2 * [[[1, 2], [3, 4]]]


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
def test_code_is_refused(monkeypatch, tmp_path, bad, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        read_npy(saved(tmp_path, [0], bad))
    assert f"a.npy: holds {named}" in str(error.value) and "which may run code" in str(error.value)
    assert "expected lists, whole numbers, text and numpy arrays" in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("ran*"))


@pytest.mark.parametrize("value, named", [
    (1.5, "float"), (True, "bool"), (None, "NoneType"), ({0: 1}, "EMPTY_DICT"), (np.float32(1), "float"),
    (np.datetime64("2020"), "type 'M8'"), (np.array([1j]), "type 'c16'"), (np.zeros(1, "i4,f8"), "EMPTY_DICT"),
    ({1}, "EMPTY_SET"), (bytearray(2), "bytearray|BYTEARRAY8"),
])
def test_other_values_are_refused(tmp_path, value, named):
    with pytest.raises(ValueError, match=rf"a\.npy: holds .*{named}"):
        read_npy(saved(tmp_path, [0], [value]))


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


@pytest.mark.parametrize("attribute", [b"}X\x08\0\0\0__init__K\x01s", b"N"])
def test_the_reader_is_not_changed_by_what_it_reads(tmp_path, attribute):
    """A pickle may set attributes of what it names."""
    for name in ("_reconstruct", "scalar"):
        content = f"cnumpy.core.multiarray\n{name}\n".encode() + b"N" + attribute + b"\x86b."
        with pytest.raises(ValueError, match=r"a\.npy: "):
            read_npy(with_pickle(tmp_path / "a.npy", b"\x80\x03" + content))
    assert plain(read_npy(saved(tmp_path, [np.int64(0)], np.array([3])))) == [[0], [3]]


def peak_of_reading(path):
    """Most bytes of memory at a time, and what was read or None where that was refused."""
    tracemalloc.start()
    try:
        found = read_npy(path)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error)
        found = None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak, found


@pytest.mark.parametrize("number", [0, 300, 1 << 25, (1 << 32) - 1])
def test_a_number_in_a_memo_asks_for_no_memory(tmp_path, number):
    """Python's unpickler makes room for all numbers up to the one under which a list is said to be noted."""
    content = pickle.dumps(objects([0], [1]), 3)
    assert content.count(b"]q") == 3
    where = content.rindex(b"]q")
    content = content[:where] + b"]r" + struct.pack("<I", number) + content[where + 3:]
    peak, found = peak_of_reading(with_pickle(tmp_path / "a.npy", content))
    assert found == ([[0], [1]] if number <= len(content) else None) and peak < 1e6


@pytest.mark.parametrize("content", [
    b"\x95" + struct.pack("<Q", 1 << 40) + b"N.", b"B" + struct.pack("<I", 1 << 31) + b"a.",  # a frame, bytes
    b"\x8e" + struct.pack("<Q", 1 << 40) + b"a.", b"X" + struct.pack("<I", 1 << 31) + b"a.",  # long bytes, text
    b"\x8d" + struct.pack("<Q", 1 << 40) + b"a.", b"T" + struct.pack("<I", 1 << 30) + b"a.",  # long text, Python 2's
    b"\x8b" + struct.pack("<I", 1 << 30) + b"a.", b"p1000000000\n.",  # an integer, a memo's number in decimals
])
def test_lengths_beyond_the_file_ask_for_no_memory(tmp_path, content):
    peak, found = peak_of_reading(with_pickle(tmp_path / "a.npy", b"\x80\x04" + content))
    assert found is None and peak < 1e6


def test_what_is_noted_once_is_made_once(tmp_path):
    """Lists of one list, bytes and text that stand in many places would be 10^15 values, or gigabytes."""
    nested = [1]
    for _ in range(4):
        nested = [nested] * 1000
    for shared in (nested, [b"x" * 100_000] * 20_000, ["x" * 100_000] * 20_000):
        path = with_pickle(tmp_path / "a.npy", pickle.dumps(shared, 4))
        peak, found = peak_of_reading(path)
        assert len(found) == len(shared) and peak < 30 * path.stat().st_size + 1e6
    raw = np.array("x" * 50_000).tobytes()
    path = with_pickle(tmp_path / "a.npy", (
        b"\x80\x03](cnumpy.core.multiarray\nscalar\nq\x01cnumpy\ndtype\nX\x06\0\0\0U50000\x85Rq\x02B"
        + struct.pack("<I", len(raw)) + raw + b"q\x03\x86R" + b"h\x01h\x02h\x03\x86R" * 20_000 + b"e."))
    peak, found = peak_of_reading(path)
    assert found == ["x" * 50_000] * 20_001 and peak < 60 * path.stat().st_size


@pytest.mark.parametrize("shape", [(1 << 40, 0), (0, 1 << 40), (3000, 3000, 0)])
def test_empty_arrays_of_huge_shapes_ask_for_no_memory(tmp_path, shape):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    peak, found = peak_of_reading(path)
    assert found is None and peak < 1e6
    array = np.empty((0,), object)
    content = pickle.dumps(array, 3).replace(pickle.dumps((0,), 3)[2:-3], pickle.dumps(shape, 3)[2:-3])
    peak, found = peak_of_reading(with_pickle(path, content))
    assert found is None and peak < 1e6


def test_arrays_without_rows_or_columns(tmp_path):
    for array, expected in ((np.empty((0,), object), []), (np.empty((3, 0), object), [[], [], []])):
        np.save(tmp_path / "a.npy", array)
        assert read_npy(tmp_path / "a.npy") == expected


def test_what_is_read_takes_a_small_multiple_of_the_file(tmp_path):
    """Of whole files and damaged ones: a number of two bytes takes 28, and 8 in its list."""
    rng = np.random.default_rng(0)
    whole = saved(tmp_path, *(rng.integers(0, 2**31, 5).tolist() for _ in range(60)), *(
        rng.integers(0, 9, 7) for _ in range(60))).read_bytes()
    path = tmp_path / "b.npy"
    peaks = []
    for damage in range(200):
        damaged = bytearray(whole)
        for position in rng.integers(128, len(whole), damage % 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        peaks.append(peak_of_reading(path)[0])
    assert max(peaks) < 40 * len(whole)


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


def test_truncated_files(tmp_path):
    for name, array in (("a", objects(np.array([0, 1]), [np.int64(3)])), ("b", np.array(["x.jpg", "y.jpg"]))):
        np.save(tmp_path / f"{name}.npy", array)
        whole = (tmp_path / f"{name}.npy").read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / f"{name}.npy").write_bytes(whole[:length])
            with pytest.raises(ValueError, match=rf"{name}\.npy") as error:
                read_npy(tmp_path / f"{name}.npy")
            assert "\n" not in str(error.value)


def test_damaged_files_raise_nothing_else(tmp_path):
    whole = saved(tmp_path, np.array([0, 1]), np.array([3])).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        damaged = bytearray(whole)
        for position in rng.integers(128, len(whole), rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        (tmp_path / "a.npy").write_bytes(damaged)
        try:
            outcomes.add(type(read_npy(tmp_path / "a.npy")))
        except ValueError as error:
            assert "a.npy" in str(error) and "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {list, "refused"}
