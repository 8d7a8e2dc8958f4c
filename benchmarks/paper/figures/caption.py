"""Writing a figure: the image, and beside it a page with its caption."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from utils.files import temporary_path
from utils.sheets import write_sheet


def write_figure(image: Image.Image, path: Path, *, title: str, drawn: Sequence[str], warnings: Sequence[str]) -> Path:
    """Writes the image, and <its name>.md with what it shows and every warning; returns the image's path."""
    lines = [f"# {title}", "", f"![{title}]({path.name})", "", *(f"* {line}" for line in drawn)]
    if warnings:
        lines += ["", "Warnings:", "", *(f"* {line}" for line in warnings)]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names of files need not be UTF-8: their bytes are written as they are.
    text = ("\n".join(lines) + "\n").encode(errors="surrogateescape")
    with temporary_path(path.with_suffix(".md")) as temporary:
        temporary.write_bytes(text)
    write_sheet(image, path)
    return path
