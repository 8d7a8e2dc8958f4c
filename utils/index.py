"""Looks at an index on disk.

    python -m utils.index info FOLDER      what an index holds
    python -m utils.index verify FOLDER    reads every file and compares it with its checksum
"""

from collections.abc import Sequence
from pathlib import Path

from .errors import Parser
from .run import exit_with
from .search import TwoStageIndex


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.index", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("info", "verify"), help="what it holds; or whether every file is as written")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(argv)
    index = TwoStageIndex.open(given.folder)
    if given.what == "verify":
        index.verify()
        print(f"{given.folder}: {len(index)} images, every file is as it was written")
        return
    code_bytes, float_dim, store = index.shape
    print(f"{given.folder}: {len(index)} images of {index.model}, generation {index.generation}")
    print(f"codes: {8 * code_bytes} bits" if code_bytes else "no codes")
    print(f"float descriptors: {float_dim} values, {store}" if float_dim else "no float descriptors")
    print(f"on disk: {index.bytes_on_disk:,} bytes")


if __name__ == "__main__":
    exit_with(main)
