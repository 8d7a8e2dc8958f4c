"""Checkpoints that a disk, a copy or a hand has changed, drawn from a seed; and what reading one may end in."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from model import CheckpointError, read_checkpoint

BLOCK = 4096


def changed_bytes(whole: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(kind, content) of `count` files: flips, zeroed, exchanged and foreign blocks, cuts, bytes too many or too few.
    Half of them near the ends, where a zip file has its tables."""
    rng = random.Random(seed)

    def place() -> int:
        at = rng.randrange(len(whole))
        return rng.choice((at, at, at % 2000, len(whole) - 1 - at % 2000))

    def flipped(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1:]

    def replaced(at: int, block: bytes) -> bytes:
        return whole[:at] + block + whole[at + len(block):]

    kinds: dict[str, Callable[[int], bytes]] = {
        "flip": flipped,
        "zeroed": lambda at: replaced(at // BLOCK * BLOCK, bytes(len(whole[at // BLOCK * BLOCK:][:BLOCK]))),
        "foreign": lambda at: replaced(at, rng.randbytes(min(64, len(whole) - at))),
        "exchanged": lambda at: replaced(at // BLOCK * BLOCK, whole[:len(whole[at // BLOCK * BLOCK:][:BLOCK])]),
        "cut": lambda at: whole[:at],
        "head lost": lambda at: whole[at + 1:],
        "less": lambda at: whole[:at] + whole[at + rng.randint(1, 100):],
        "more": lambda at: whole[:at] + rng.randbytes(rng.randint(1, 100)) + whole[at:],
    }
    for number in range(count):
        kind = [*kinds][number % len(kinds)]
        yield kind, kinds[kind](place())


def odd_values() -> list:
    """What a field or a weight should not be."""
    return [None, True, -1, 2**70, 1e400, float("nan"), "", "x" * 50, [], [[1], 2], {}, {"a": {}}, (), (1, "a"), b"b",
            torch.zeros(()), torch.zeros(3, dtype=torch.int8), torch.zeros(2, 2, dtype=torch.bool),
            torch.eye(3).to_sparse(), torch.empty(4, device="meta"), torch.zeros(3, dtype=torch.complex64),
            torch.zeros(1).expand(10**12)]


def places(content: object, path: tuple = ()) -> Iterator[tuple]:
    """The path, by keys and positions, of everything inside dictionaries and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed_content(content: dict, count: int, seed: int) -> Iterator[tuple[str, dict]]:
    """(what, content) of `count` dictionaries in which one thing, deep inside or not, is lost or odd; each field as
    often as each weight."""
    rng = random.Random(seed)
    found = list(places(content))
    values = odd_values()
    for _ in range(count):
        depth = rng.choice(range(1, 1 + max(map(len, found))))
        path = rng.choice([path for path in found if len(path) == depth])
        changed = copy.deepcopy(content)
        inside = changed
        for key in path[:-1]:
            inside = inside[key]
        if rng.random() < 0.2:
            del inside[path[-1]]
            yield f"{path} lost", changed
        else:
            value = rng.choice(values)
            inside[path[-1]] = value
            yield f"{path} is {str(value)[:40]!r}", changed


def outcomes(files: Iterator[tuple[str, bytes | dict]], path: Path, use: Callable[[Path], bool]) -> Counter:
    """How often each kind of outcome came: "refused" in one line that names the file, "equal" as `use` has it, or what
    must never be."""
    found: Counter = Counter()
    for what, content in files:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        try:
            found["equal" if use(path) else f"OTHER VALUES: {what}"] += 1
        except CheckpointError as error:
            sound = "\n" not in str(error) and path.name in str(error)
            found["refused" if sound else f"NOT IN ONE LINE: {what}: {error}"] += 1
        except Exception as error:  # whatever it is, a user would see its traceback
            found[f"TRACEBACK: {what}: {type(error).__name__}: {error}"] += 1
    return found


def same(one: object, other: object) -> bool:
    """Whether two contents hold the same: structure, kinds and every bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def reads_as(reference: Path) -> Callable[[Path], bool]:
    """Whether a file reads as the reference does."""
    expected = read_checkpoint(reference)

    def equal(path: Path) -> bool:
        found = read_checkpoint(path)
        return found.config == expected.config and found.pretrained == expected.pretrained and same(
            [found.state_dict, found.training], [expected.state_dict, expected.training])

    return equal
