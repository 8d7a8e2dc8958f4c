"""Tables, .npy lists and images, altered at random: each is read, or refused in one line, in bounded time and memory.

    python tests/faults/fuzz_data.py 1000 [SEED]     so many of each kind; exit code 1 where one fell through
"""

import argparse
import collections
import contextlib
import io
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.msls.frames import Table
from datasets.readers.coordinates import from_exif, read_table
from datasets.readers.file_lists import read_file_lists
from datasets.training.tables import read_city
from datasets.transforms import evaluation_transform, read_image

SECONDS, BYTES = 5, 2 << 30  # that one file may take; an image at the limit of its size takes the most
TABLE_WORDS = {b"city_id": b"../../x", b"Rome": b"..", b"40.5": b"1e400", b"7": b"9" * 5000, b",": b"\0", b"\n": b'"'}
LARGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")
LIST_WORDS = {b"<U": b"|O", b"(": b"(-", b"8": b"9" * 30, b"db/": b"../", b"q": b"r"}
IMAGE_KINDS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".jpg", "AVIF": ".jpg", "GIF": ".jpg", "BMP": ".jpg",
               "TIFF": ".jpg", "PPM": ".jpg", "TGA": ".jpg", "ICO": ".jpg", "JPEG2000": ".jpg"}


class TooSlowError(Exception):
    """A file took more than SECONDS."""


def mutated(content: bytes, rng: np.random.Generator, replaced: dict[bytes, bytes] | None = None) -> bytes:
    """One to three changes: bits, bytes, large numbers, cuts, repeats, moved parts, words."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
        match int(rng.integers(8)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                data[at:at + 4] = LARGE[rng.integers(len(LARGE))]
            case 3:
                del data[at:at + length]
            case 4:
                del data[at:]
            case 5:
                data[at:at] = data[at:at + length] * int(rng.integers(1, 20))
            case 6:
                data[at:at] = rng.bytes(length)
            case 7:
                before, after = list((replaced or {b"\0": b"\xff"}).items())[rng.integers(len(replaced or "."))]
                data = bytearray(bytes(data).replace(before, after, int(rng.integers(1, 4))))
    return bytes(data)


def tables(count: int, folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], object]]]:
    """Files of the three kinds of table, and what reads each."""
    rows = {
        "city": ("place_id,year,month,northdeg,city_id,lat,lon,panoid",
                 [f"{i // 4},2018,{i % 12 + 1},{i * 7},Rome,40.5{i},-3.25,pano{i}" for i in range(12)]),
        "own": ("path,lat,lon,heading", [f"a/{i}.jpg,40.5{i},-3.25,{i}" for i in range(12)]),
        "frames": ("key,easting,northing", [f"key{i},{1000 + i},{2000 - i}" for i in range(12)])}
    readers = {"city": read_city, "own": read_table, "frames": lambda path: Table(path, ("key", "easting"))}
    for number in range(count):
        kind = list(rows)[number % 3]
        header, lines = rows[kind]
        path = folder / f"{number}.csv"
        path.write_bytes(mutated("\n".join([header, *lines, ""]).encode(), rng, TABLE_WORDS))
        yield f"{kind} {path.name}", lambda path=path, read=readers[kind]: read(path)


def lists(count: int, folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], object]]]:
    """Sets of .npy lists, one file of each altered."""
    names = [f"db/{i}.jpg" for i in range(8)]
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).touch()
    truth = np.fromiter([np.array([i, i + 1]) for i in range(4)], object, 4)
    sound = {"dbImages": [np.array(names), np.array(names, object)], "qImages": [np.array(names[:4])],
             "qIdx": [np.array([0, 1, 2, 3])], "gt": [truth, np.array([[0, 1], [1, 2], [2, 3], [3, 3]])]}
    files = {kind: [saved(array) for array in arrays] for kind, arrays in sound.items()}
    for number in range(count):
        own = folder / str(number)
        own.mkdir()
        chosen = {kind: variants[rng.integers(len(variants))] for kind, variants in files.items()}
        kind = list(chosen)[number % 4]
        chosen[kind] = mutated(chosen[kind], rng, LIST_WORDS)
        for name, content in chosen.items():
            (own / f"t_{name}.npy").write_bytes(content)
        yield f"{kind} of {number}", lambda own=own: read_file_lists(own, folder / "images", name="t")


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def images(count: int, folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Callable[[], object]]]:
    """Images of every format that is read, with and without EXIF data, through the evaluation's transform."""
    drawn = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((45, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825).update({1: "N", 2: (40.0, 1.0, 2.0), 3: "E", 4: (3.0, 4.0, 5.0)})
    sound = []
    for kind, ending in IMAGE_KINDS.items():
        for options in ({}, {"exif": exif.tobytes()}):
            file = io.BytesIO()
            with contextlib.suppress(KeyError, OSError):  # a Pillow without AVIF
                drawn.save(file, format=kind, **options)
                sound.append((kind, ending, file.getvalue()))
    transform = evaluation_transform((14, 28))
    for number in range(count):
        kind, ending, content = sound[number % len(sound)]
        path = folder / f"{number}{ending}"
        path.write_bytes(mutated(content, rng))

        def read(path: Path = path) -> None:
            with contextlib.suppress(ValueError):
                from_exif(path)
            transform(read_image(path))

        yield f"{kind} {path.name}", read


KINDS = {"tables": tables, "lists": lists, "images": images}


def fuzz(kind: str, count: int, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """How many files of a kind were read, and refused; and what fell through, in words."""
    def too_slow(*_: object) -> None:
        raise TooSlowError

    outcomes: collections.Counter[str] = collections.Counter()
    wrong = []
    before = signal.signal(signal.SIGALRM, too_slow)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for what, read in KINDS[kind](count, Path(name), np.random.default_rng((seed, *kind.encode()))):
            peak = peak_bytes()
            signal.alarm(SECONDS)
            try:
                read()
                outcomes["read"] += 1
            except (ValueError, FileNotFoundError) as error:
                outcomes["refused"] += 1
                if not str(error) or "\n" in str(error) or len(str(error)) > 2000 or name not in str(error):
                    wrong.append(f"{what}: {error!r:.300}")
            except (Exception, RecursionError) as error:
                wrong.append(f"{what}: {type(error).__name__} {error!s:.300}")
            finally:
                signal.alarm(0)
            if peak_bytes() - peak > BYTES:
                wrong.append(f"{what}: {(peak_bytes() - peak) / 2**20:.0f} MiB")
    signal.signal(signal.SIGALRM, before)
    return outcomes, wrong


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    given = parser.parse_args()
    fell = 0
    for kind in KINDS:
        outcomes, wrong = fuzz(kind, given.count, given.seed)
        fell += len(wrong)
        print(f"{kind}: {given.count} altered, {outcomes['read']} read, {outcomes['refused']} refused in one line, "
              f"{len(wrong)} fell through; peak so far {peak_bytes() / 2**20:.0f} MiB")
        print(*wrong[:20], sep="\n", end="\n" if wrong else "")
    return int(fell > 0)


if __name__ == "__main__":
    sys.exit(main())
