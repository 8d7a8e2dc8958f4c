"""Numpy's files against numpy itself, and files that want to run code."""

import io
import os
import pickle
import struct

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
    (1.5, "float"), (True, "bool"), (None, "NoneType"), ({0: 1}, "dict"), (np.float32(1), "float"),
    (np.datetime64("2020"), "type 'M8'"), (np.array([1j]), "type 'c16'"), (np.zeros(1, "i4,f8"), "type 'V12'"),
    ({1}, "set"), (bytearray(2), "bytearray"),
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
    with pytest.raises(ValueError, match="RecursionError"):
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
    (reduced(NDARRAY, ((1 << 40,),)), "NoneType"), (reduced(RECONSTRUCT, (None, (1 << 40,), b"b")), ""),
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


def test_arrays_without_rows_or_columns(tmp_path):
    for array, expected in ((np.empty((0,), object), []), (np.empty((3, 0), object), [[], [], []])):
        np.save(tmp_path / "a.npy", array)
        assert read_npy(tmp_path / "a.npy") == expected


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


# --- files that say more than they hold

def test_an_array_that_is_larger_than_its_file(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<U100", "fortran_order": False, "shape": (10**8,)})
    (tmp_path / "a.npy").write_bytes(file.getvalue() + b"abc")
    with pytest.raises(ValueError, match=r"a\.npy: no readable .npy .* an array of 40000000000 bytes, of which 3 are"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("mark", [b"r\xff\xff\xff\x7f", b"p2000000000\n"])
def test_objects_that_are_numbered_beyond_the_file(tmp_path, mark):
    """C Python would make room for 2^31 of them."""
    with pytest.raises(ValueError, match=r"a\.npy: no readable .npy \(ValueError: object number 2\d{9} in \d+ bytes"):
        read_npy(with_pickle(tmp_path / "a.npy", b"\x80\x02]" + mark + b"K\x01a."))


def test_text_that_looks_like_such_a_number(tmp_path):
    assert read_npy(saved(tmp_path, "reference/x.jpg", "p123456789", "r\x7f\x7f\x7f\x7f")) == [
        "reference/x.jpg", "p123456789", "r\x7f\x7f\x7f\x7f"]


def test_lists_of_one_list_again_and_again(tmp_path):
    many = [1] * 100
    for _ in range(6):
        many = [many] * 100
    with pytest.raises(ValueError, match=r"a\.npy: holds more values than its size allows"):
        read_npy(with_pickle(tmp_path / "a.npy", pickle.dumps(many)))


def test_text_of_numbers_that_are_no_characters(tmp_path):
    for array in (np.array([97, 0x110000], "<u4").view("<U1"), np.array([97, 0x110000], ">u4").view(">U1"),
                  np.array([[97, 97], [97, 0x110000]], np.uint32).view("U2"), objects(
                      np.array([0x110000], np.uint32).view("U1"))):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=r"a\.npy: .*ValueError: text with the character 0x110000"):
            read_npy(tmp_path / "a.npy")
