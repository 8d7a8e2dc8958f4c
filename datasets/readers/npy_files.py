"""Numpy's .npy files, those with Python objects included: such a file is a pickle, which could run any code.

Here a pickle may only make lists, tuples, whole numbers, text and numpy arrays of them. Numpy's part is done by the
classes below: numpy itself believes what a pickle says of types and sizes.
"""

import functools
import io
import math
import os
import pickle
import pickletools
import re
import sys
from pathlib import Path

import numpy as np

from ..files import is_regular

BUDGET = 1 << 16  # values that any file may hold, beside 16 for each of its bytes
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Refused(ValueError):
    pass


def read_npy(path: Path) -> np.ndarray | list:
    """An array of numbers or text; an array of objects as nested lists of int, str and arrays of numbers or text.

    Raises FileNotFoundError, and ValueError for a file that is no .npy, is damaged, or holds anything else.  Takes no
    more memory than a multiple of the file's size, whatever the file says.
    """
    if not is_regular(path):
        raise FileNotFoundError(f"{path}: no such file; expected a .npy")
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise _Refused(f"format {version[0]}.{version[1]}")
            shape, _, dtype = _HEADERS[version](file)
            if not dtype.hasobject:
                needed, size = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
                if needed > size:
                    raise ValueError(f"an array of {needed} bytes, of which {size} are there")
                file.seek(0)
                return _checked(np.load(file, allow_pickle=False))
            content = file.read()
            _check_marks(content)
            # Python 2's text would be ASCII otherwise, and the bytes of its arrays were text.
            found = _plain(_Unpickler(io.BytesIO(content), encoding="latin-1").load(), [BUDGET + 16 * len(content)])
    except Exception as error:  # a damaged pickle raises whatever it runs into
        said = " ".join(str(error).split())[:200]
        if isinstance(error, _Refused):
            raise ValueError(f"{path}: {said}; expected lists, whole numbers, text and numpy arrays of them") from None
        raise ValueError(f"{path}: no readable .npy ({type(error).__name__}: {said})") from None
    if not isinstance(found, list):
        raise ValueError(f"{path}: a single {type(found).__name__}; expected an array with rows")
    return found


class _Dtype:
    """Stands in for numpy.dtype(code, ...), of numbers, text, bytes or objects."""

    def __init__(self, code: str, *_):
        if not re.fullmatch(r"[biufSUO]\d*", code):
            raise _Refused(f"holds values of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple):
        if state[1] not in ("<", ">", "=", "|"):
            raise _Refused(f"holds values in the order {state[1]!r}")
        self.order = state[1].replace("|", "=")

    def read(self, data: bytes | str) -> np.ndarray:
        # Python 2's bytes come as text.
        data = data.encode("latin-1") if isinstance(data, str) else data
        return _checked(np.frombuffer(data, self.order + self.code))


def _checked(array: np.ndarray) -> np.ndarray:
    """Raises ValueError for text whose numbers are no characters: numpy would make broken strings of them."""
    if array.dtype.kind == "U" and array.nbytes:
        code = int(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1).view(np.uint32).max())
        if code > sys.maxunicode:
            raise ValueError(f"text with the character {code:#x}, which does not exist")
    return array


class _Array:
    """Stands in for numpy.ndarray, made empty by _reconstruct and then told what it holds."""

    def __init__(self, *_):
        self.value = None

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        if dtype.code.startswith("O"):  # an array without axes becomes its one value
            self.value = np.fromiter(data, object, len(data)).reshape(shape).tolist()
        else:
            self.value = dtype.read(data).reshape(shape, order="F" if fortran else "C")


def _scalar(dtype: _Dtype, data: bytes | str) -> object:
    return dtype.read(data).item()


_STAND_INS = {
    ("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", name): stand_in for core in ("core", "_core")  # numpy 1 and 2
       for name, stand_in in (("_reconstruct", _Array), ("scalar", _scalar))},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _STAND_INS:
            raise _Refused(f"holds {module}.{name}, which may run code")
        return functools.partial(_STAND_INS[module, name])  # a pickle may set attributes of what it is given


def _check_marks(content: bytes) -> None:
    """Raises ValueError for a pickle that numbers an object beyond its own length: C Python makes room for so many."""
    if re.search(rb"r...[^\0]|p\d{8}", content, re.DOTALL):  # else none is numbered beyond 2^24
        for operation, number, _ in pickletools.genops(content):
            if operation.name in ("PUT", "LONG_BINPUT") and number > len(content):
                raise ValueError(f"object number {number} in {len(content)} bytes")


def _plain(value: object, budget: list[int]) -> np.ndarray | list | int | str:
    """budget: how many values may be made yet; lists that hold one list again and again may stand for any number."""
    budget[0] -= 1
    if budget[0] < 0:
        raise _Refused("holds more values than its size allows")
    if isinstance(value, _Array):
        value = value.value
    if isinstance(value, list | tuple):
        return [_plain(item, budget) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if type(value) not in (int, str, np.ndarray):
        raise _Refused(f"holds a {type(value).__name__}")
    return value
