"""Models in the form of the Hugging Face hub.

    python -m utils.huggingface save FILE FOLDER [--results RUN ...]   a model file as a folder with a model card
    python -m utils.huggingface push FOLDER OWNER/REPO                 that folder into a repository

--resume of SelaVPR++'s scripts takes the folder, or OWNER/REPO, then.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..cli.parsing import Defaults, Parser
from ..run import exit_with, start_log
from .models import push, save


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.huggingface", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what, formatter_class=Defaults, allow_abbrev=False)

    saving = command("save", "writes a model file as a folder: model.safetensors, config.json and a model card")
    saving.add_argument("file", type=Path, metavar="FILE", help="what --resume takes: a model file, ours or published")
    saving.add_argument("folder", type=Path, metavar="FOLDER", help="to be made")
    saving.add_argument("--results", type=Path, nargs="+", default=[], metavar="RUN",
                        help="run folders of evaluations of this model, whose figures and warnings the card tells")
    pushing = command("push", "puts such a folder into a repository of the hub; log in before by `hf auth login`")
    pushing.add_argument("folder", type=Path, metavar="FOLDER")
    pushing.add_argument("repository", metavar="OWNER/REPO", help="made if there is none")
    pushing.add_argument("--private", action="store_true", default=None, help="where it is made")
    given = parser.parse_args(argv)
    start_log()
    if given.command == "save":
        save(given.file, given.folder, results=given.results)
        print(given.folder)
    else:
        print(push(given.folder, given.repository, private=given.private))


if __name__ == "__main__":
    exit_with(main)
