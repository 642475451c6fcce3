"""Data sets: `python -m seqlab.data list`, `prepare NAME` and `verify NAME`.

NAME may be all, of those with records; a set of your own is MODULE:NAME, where the module registers
its builder.
The exit code is 0; 1 if verify found damage; 2 for a mistake, told in one line.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from seqlab.data import builders, sources
from seqlab.data.checks import check_known
from seqlab.errors import InputError

# What needs no file: name -> (what it is, licence). Names as in `problems`, `labelled`,
# `pairs` and `scenes`.
NO_FILES = {
    "embedded": ("Text that every Python carries, the topics of help(), 65,000 words.", "PSF-2.0"),
    "digits": ("8x8 images of handwritten digits, from scikit-learn.", "CC BY 4.0"),
    "negation": ("A made-up language: opinions, and negators far before them.", "-"),
    "dates": ("Dates as people write them in 30 languages, to ISO 8601.", "Unicode-3.0"),
    "copy": ("Strings of letters are to be said again.", "-"),
    "reverse": ("Strings of letters are to be said backwards.", "-"),
    "sort": ("The letters of a string are to be sorted.", "-"),
    "addition": ("Sums of two whole numbers, written out.", "-"),
    "scenes": ("Images of coloured shapes, and sentences that describe them.", "-"),
    "adding": ("Two marked numbers of a sequence are to be added.", "-"),
    "copy-memory": ("Ten symbols are to be copied after a delay.", "-"),
    "temporal-order": ("The order of two or three symbols is to be named.", "-"),
}
# What is read straight from its pinned files, without records: name -> (what it is, licence).
FILES_ONLY = {
    "korean_chatbot": ("Questions and answers in Korean, in three classes: korean.", "MIT"),
    "tatoeba_en_ko": ("English sentences and their Korean: the text bilingual.", "CC BY 2.0"),
    "tatoeba_en_fr": ("English sentences and their French.", "CC BY 2.0"),
    "multi30k_en_de": ("Captions in English and German: Multi30k.", "none stated; research"),
    "flickr8k_captions": ("Five captions each of 8,092 photographs: flickr8k.", "research only"),
    "babi": ("Questions about small stories, 20 tasks.", "CC BY 3.0"),
    "wikitext-2": ("Articles of Wikipedia, 2 million words.", "CC BY-SA 4.0"),
    "wikitext-103": ("Articles of Wikipedia, 103 million words.", "CC BY-SA 4.0"),
}

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    commands: dict[str, Callable[..., int]] = {"list": list_, "prepare": prepare, "verify": verify}
    try:
        return tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m seqlab.data", description=__doc__, args=argv
        )
    except InputError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return _failed("stopped; what was prepared so far of this set is left out", 130)


def list_(folder: Folder = None) -> int:
    """Every data set, what it is, where its files are, and whether it is prepared.

    Args:
      folder: of all prepared sets; by default in the user's cache.
    """
    table = Table("name", "what it is", "licence", "examples", "files", "state", box=None)
    for name in builders.BUILDERS:
        found = builders.describe(name, folder)
        sizes = "\n".join(f"{split} {size:,}" for split, size in found.sizes.items())
        table.add_row(name, found.about, found.licence, sizes, found.origin, found.state)
    for name, (about, licence) in FILES_ONLY.items():
        table.add_row(name, about, licence, "", builders.origin(name), "needs no records")
    for name, (about, licence) in NO_FILES.items():
        table.add_row(name, about, licence, "", "none needed", "always there")
    console = _console()
    console.print(table)
    return 0


def prepare(
    name: Name,
    folder: Folder = None,
    file_format: Literal["array_record", "parquet"] | None = None,
) -> int:
    """Makes a data set ready to be read; does nothing if it is, and is intact.

    Args:
      name: of the set, or all.
      folder: of all prepared sets; by default in the user's cache.
      file_format: array_record wherever that can be imported, by default.

    Raises:
      InputError: an unknown set. What befalls one of several is told and changes the exit code.
    """
    code = 0
    for each in _chosen(name):
        try:
            if each in FILES_ONLY:
                path = next(iter(sources.fetch(each).values())).parent
            else:
                path = builders.prepare(each, folder, file_format)
        except InputError as error:  # the other sets may fare better
            code = _failed(error)
        else:
            _say(f"{each}: prepared in {path}")
    return code


def verify(name: Name, folder: Folder = None) -> int:
    """Compares every file of a prepared set, and its source files, with their sha256.

    Args:
      name: of the set, or all that are prepared.
      folder: of all prepared sets; by default in the user's cache.

    Raises:
      InputError: a set whose files are not at hand.
    """
    code = 0
    for each in _chosen(name):
        if name == "all" and builders.describe(each, folder).state == "not prepared":
            _say(f"{each}: not prepared")
            continue
        in_files = each in FILES_ONLY
        damaged = builders.damaged_files(each) if in_files else builders.verify(each, folder)
        if in_files and not damaged and builders.origin(each) not in ("mirror", "cache"):
            raise InputError(f"{each} is not at hand: {builders.origin(each)}")
        for line in damaged or ["intact"]:
            _say(f"{each}: {line}")
        if damaged:
            code = 1
    return code


def _chosen(name: str) -> list[str]:
    """The sets that a name stands for, all those with builders for all.

    A module before a colon is imported first.
    """
    if name == "all":
        return list(builders.BUILDERS)
    module, _, name = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise InputError(f"{module}:{name}: {error}") from error
    if name in NO_FILES:
        _say(f"{name}: nothing to prepare")
        return []
    check_known(name, [*builders.BUILDERS, *FILES_ONLY, *NO_FILES, "all"], "data set")
    return [name]


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console


def _say(line: str) -> None:
    _console().print(line, soft_wrap=True, markup=False, highlight=False)


def _failed(reason: InputError | str, code: int = 2) -> int:
    sys.stderr.write(f"error: {' '.join(str(reason).splitlines())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
