"""Numpy's .npy files, those with Python objects included: such a file is a pickle, which could run any code.

Here a pickle may only make lists, tuples, whole numbers, text and numpy arrays of them.  Its operations are looked
through before any is done, and numpy's part is done by the classes below: numpy itself believes what a pickle says of
types and sizes.
"""

import io
import math
import pickle
import pickletools
import re
from pathlib import Path

import numpy as np

_DEPTH = 5  # of lists in lists: no list of ids needs more, and one could hold itself
# What pickles of such arrays are made of; the others fill dictionaries, or make or call something else.
_OPERATIONS = {
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE",
    "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ROOM = ("FRAME", "LONG_BINPUT")  # for which the unpickler makes as much room as they ask for


class _Refused(ValueError):
    pass


def read_npy(path: Path) -> np.ndarray | list:
    """An array of numbers or text; an array of objects as nested lists of int, str and arrays of numbers or text.

    Raises FileNotFoundError, and ValueError for a file that is no .npy, is damaged, or holds anything else.  Whatever
    the file says, it takes no more memory than a small multiple of its length.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise _Refused(f"format {version[0]}.{version[1]}")
            shape, _, dtype = _HEADERS[version](file)
            _check_shape(shape, path.stat().st_size)
            if not dtype.hasobject:
                file.seek(0)
                return np.load(file, allow_pickle=False)
            found = _unpickle(file.read())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a .npy") from None
    except Exception as error:  # a damaged pickle raises whatever it runs into
        said = " ".join(str(error).split())[:200]
        if isinstance(error, _Refused):
            raise ValueError(f"{path}: {said}; expected lists, whole numbers, text and numpy arrays of them") from None
        raise ValueError(f"{path}: no readable .npy ({type(error).__name__}: {said})") from None
    if not isinstance(found, list):
        raise ValueError(f"{path}: a single {type(found).__name__}; expected an array with rows")
    return found


def _check_shape(shape: tuple[int, ...], size: int) -> None:
    """An empty array may have any shape, and as lists would take the more memory."""
    if math.prod(filter(None, shape)) > size:
        raise _Refused(f"has {size} bytes for an array of the shape {shape}")


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
        return np.frombuffer(data.encode("latin-1") if isinstance(data, str) else data, self.order + self.code)


class _Array:
    """Stands in for numpy.ndarray, made empty by _reconstruct and then told what it holds."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state: tuple):
        self.state = state


class _Scalar:
    """Stands in for numpy's scalar(dtype, bytes)."""

    def __init__(self, dtype: _Dtype, data: bytes | str):
        self.dtype, self.data = dtype, data


_STAND_INS = {
    ("numpy", "ndarray"): "ndarray", ("numpy", "dtype"): _Dtype,
    **{(f"numpy.{core}.multiarray", name): stand_in for core in ("core", "_core")  # numpy 1 and 2
       for name, stand_in in (("_reconstruct", _Array), ("scalar", _Scalar))},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _STAND_INS:
            raise _Refused(f"holds {module}.{name}, which may run code")
        return _STAND_INS[module, name]


def _unpickle(content: bytes) -> object:
    for operation, argument, _ in pickletools.genops(content):  # raises for texts and numbers that end too early
        if operation.name not in _OPERATIONS:
            raise _Refused(f"holds a pickle's {operation.name}")
        if operation.name in _ROOM and argument > len(content):
            raise _Refused(f"asks for room for {argument} in {len(content)} bytes")
    made: dict[object, object] = {}  # of each part: what stands in many places is made once

    def plain(value: object, depth: int = 0) -> np.ndarray | list | int | str:
        if type(value) in (int, str):
            return value
        if depth > _DEPTH:
            raise _Refused("holds lists in lists without end")
        part = (id(value.data), value.dtype.code, value.dtype.order) if isinstance(value, _Scalar) else id(value)
        if part in made:
            return made[part]
        if isinstance(value, _Scalar):
            value = value.dtype.read(value.data).item()
        if isinstance(value, _Array):
            _, shape, dtype, fortran, data = value.state
            _check_shape(shape, len(content))
            if dtype.code.startswith("O"):
                flat = np.empty(len(data), object)
                for i, item in enumerate(data):
                    flat[i] = plain(item, depth + len(shape))
                value = flat.reshape(shape).tolist()  # the one value where there is no axis
            else:
                value = dtype.read(data).reshape(shape, order="F" if fortran else "C")
        elif isinstance(value, list | tuple):
            value = [plain(item, depth + 1) for item in value]
        elif isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape")
        elif type(value) not in (int, str):  # which a scalar may have been
            raise _Refused(f"holds a {type(value).__name__}")
        return made.setdefault(part, value)

    # Python 2's text would be ASCII otherwise, and the bytes of its arrays were text.
    return plain(_Unpickler(io.BytesIO(content), encoding="latin-1").load())
