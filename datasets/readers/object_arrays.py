"""Numpy's .npy files, those with Python objects included: such a file is a pickle, which could run any code.

Here a pickle may only make lists, tuples, whole numbers, text and numpy arrays of them, and numpy's part of that is
read by the classes below: numpy itself believes what a pickle says of types and sizes.
"""

import io
import pickle
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

_DEPTH = 5  # of lists in lists: no list of ids needs more, and one could hold itself


class _Refused(ValueError):
    pass


def read_npy(path: Path) -> np.ndarray | list:
    """An array of numbers or text; an array of objects as nested lists of int, str and arrays of numbers or text.

    Raises FileNotFoundError, and ValueError for a file that is no .npy, is damaged, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            if not _read_dtype(file).hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
            # Python 2's text would be ASCII otherwise, and the bytes of its arrays were text.
            found = _plain(_Unpickler(io.BytesIO(file.read()), encoding="latin-1").load())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a .npy") from None
    except _Refused as error:
        raise ValueError(f"{path}: {_line(error)}; expected lists, whole numbers, text and numpy arrays of them"
                         ) from None
    except Exception as error:  # a damaged pickle raises whatever it runs into
        raise ValueError(f"{path}: no readable .npy ({type(error).__name__}: {_line(error)})") from None
    if not isinstance(found, list):
        raise ValueError(f"{path}: a single {type(found).__name__}; expected an array with rows")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read_dtype(file: BinaryIO) -> np.dtype:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise _Refused(f"format {version[0]}.{version[1]}")
    return readers[version](file)[2]


class _Dtype:
    """numpy.dtype(code, ...), of numbers, text, bytes or objects."""

    def __init__(self, code: str, *_):
        if not re.fullmatch(r"[biufSUO]\d*", code):
            raise _Refused(f"holds values of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple):
        if state[1] not in ("<", ">", "=", "|"):
            raise _Refused(f"holds values in the order {state[1]!r}")
        self.order = state[1]

    def read(self, data: bytes | str) -> np.ndarray:
        data = data.encode("latin-1") if isinstance(data, str) else data
        return np.frombuffer(data, np.dtype(self.order.replace("|", "=") + self.code))


class _Array:
    """numpy.ndarray, made empty by _reconstruct and then told what it holds."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state: tuple):
        self.state = state

    def plain(self, depth: int) -> np.ndarray | list:
        _, shape, dtype, fortran, data = self.state
        if not dtype.code.startswith("O"):
            return dtype.read(data).reshape(shape, order="F" if fortran else "C")
        flat = np.empty(len(data), object)
        for i, value in enumerate(data):
            flat[i] = _plain(value, depth + len(shape))
        return flat.reshape(shape).tolist() if shape else flat[0]


class _Scalar:
    """numpy's scalar(dtype, bytes)."""

    def __init__(self, dtype: _Dtype, data: bytes | str):
        self.value = dtype.read(data).item()

    def __setstate__(self, state: object):
        raise _Refused("holds a number with attributes")


_NUMPY = {"_reconstruct": _Array, "scalar": _Scalar}
_STAND_INS = {
    ("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", name): stand_in for core in ("core", "_core") for name, stand_in in _NUMPY.items()},
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (list, tuple, int, str)},
}  # fmt: skip


# Of classes that are called otherwise, of parts that lie elsewhere: no array is written with them.
_OPERATIONS = {pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
               pickle.PERSID, pickle.BINPERSID, pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER}


class _Unpickler(pickle._Unpickler):
    """Python's own, not the one in C: there a damaged file may ask for gigabytes before anything is noticed."""

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if bytes([code]) not in _OPERATIONS}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _STAND_INS:
            raise _Refused(f"holds {module}.{name}, which may run code")
        return _STAND_INS[module, name]


def _plain(value: object, depth: int = 0) -> np.ndarray | list | int | str:
    if depth > _DEPTH:
        raise _Refused("holds lists in lists without end")
    if isinstance(value, _Array):
        return value.plain(depth)
    if isinstance(value, _Scalar):
        value = value.value
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if type(value) not in (int, str):
        raise _Refused(f"holds a {type(value).__name__}")
    return value
