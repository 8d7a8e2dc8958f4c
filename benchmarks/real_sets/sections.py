"""What commands that train on real photographs share: their options, and a page that is written section by section."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from utils.errors import Parser
from utils.files import temporary_path, write_json

from ..paper.runner import Failed
from ..report import words_under
from .measure import Trainer
from .plan import Place

WORDS = "## What was tried, and what the figures say"
Section = tuple[str, Callable[[], str]]  # a title, and what gives the text once its trainings are done


def command_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Of `python -m benchmarks.<name>`; its texts are written to logs/<name>, unless it is told."""
    made = Parser(prog=f"python -m benchmarks.{name}", description=doc,
                  formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path, metavar="FOLDER", help="holds the real sets and the pre-trained file")
    made.add_argument("--out", type=Path, default=Path("logs", name),
                      help=f"run folders and the page are written here; default: logs/{name}")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    made.add_argument("--jobs", type=int, default=1, help="commands at a time, which share the cores; default: 1")
    return made


def place_of(made: argparse.ArgumentParser, args: argparse.Namespace, needed: Sequence[str]) -> Place:
    """Where the options say that everything lies; needed: what FOLDER must hold."""
    if args.jobs < 1:
        made.error(f"--jobs {args.jobs}: expected at least 1")
    place = Place(args.folder.resolve(), args.out.resolve())
    for path in (place.real / name for name in needed):
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there; expected FOLDER to hold {', '.join(needed)}")
    place.out.mkdir(parents=True, exist_ok=True)
    return place


def measure(name: str, place: Place, introduction: str, sections: Callable[[Trainer], Iterable[Section]], *, jobs: int
            ) -> None:
    """Queues everything, and writes <name>.md and .json anew with every section that is done.

    Ends the process, with 1 where a command failed.
    """
    trainer, failed, text = Trainer(place, jobs), False, [introduction]
    page = place.out / f"{name}.md"
    try:
        for title, write in [*sections(trainer)]:
            try:
                text.append(f"## {title}\n\n{write().strip()}\n")
            except Failed as error:
                text.append(f"## {title}\n\nNot measured: {error}\n")
                failed = True
            _write_page(page, [*text, f"{trainer.seconds() / 3600:.1f} hours of commands.\n"])
            write_json(trainer.samples(), page.with_suffix(".json"))
    finally:
        trainer.close()
    print(page)
    sys.exit(1 if failed else 0)


def _write_page(path: Path, text: list[str]) -> None:
    """What stands under its last heading, where there is one already, stays."""
    kept = words_under(path, WORDS)
    with temporary_path(path) as temporary:
        temporary.write_text("\n".join([*text, *([WORDS, "", kept, ""] if kept else [])]))
