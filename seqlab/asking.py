"""Asking the model of a finished run: its parameters, and the lines that it is asked about."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqlab.checkpoint import Checkpoints
from seqlab.data.pairs import as_read
from seqlab.data.text import read_utf8
from seqlab.data.vocabulary import Words
from seqlab.errors import InputError
from seqlab.runlog import CHECKPOINTS
from seqlab.train import TrainState
from seqlab.translator import Translator


def best_state(
    path: Path, names: Sequence[str], build: Callable[[dict[str, Any]], TrainState]
) -> tuple[TrainState, dict[str, Any]]:
    """The state of a run's best step, and the files that were saved with it.

    Args:
      path: of the run.
      names: of the files.
      build: (files) -> a state with the shapes to expect.

    Raises:
      InputError: no checkpoint of the run is good, or it holds other arrays.
    """
    with Checkpoints(path / CHECKPOINTS, writes=False) as checkpoints:
        newest = checkpoints.newest_good()
        if newest is None:
            raise InputError(f"{path} has no good checkpoint")
        files = {name: checkpoints.read_file(newest, name) for name in names}
        like = build(files)
        found = checkpoints.restore(newest, like)
        best, fault = checkpoints.best_good()  # known once a step is restored
        if fault:
            raise InputError(f"{path}: the best step, {best}, is damaged: {fault}")
        if best not in (None, newest):
            found = checkpoints.restore(best, like)
    return found.state, files


def is_typed(source: Path) -> bool:
    """Whether somebody sits before standard input, to be answered line by line."""
    return str(source) == "-" and sys.stdin.isatty()


def asked(source: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of lines before, lines): those of a file, or one at a time that somebody types."""
    if not is_typed(source):
        yield 0, read_lines(source)
        return
    yield from enumerate(_typed())


def _typed() -> Iterator[list[str]]:
    while True:
        sys.stderr.write("> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        yield [line.rstrip("\n")]


def read_lines(source: Path) -> list[str]:
    """The lines of a file, or of standard input."""
    return read_utf8(source).removesuffix("\n").split("\n")


def checked(
    lines: Iterable[str],
    translator: Translator,
    form: str,
    max_source: int,
    name: str,
    before: int = 0,
    *,
    wanted: str = "translate",
) -> list[str]:
    """Lines as the model reads them; what it does not know of them is said on standard error.

    Args:
      lines: as they were typed.
      translator: that will read them.
      form: of the sources, see `seqlab.data.pairs`.
      max_source: the most tokens, `<eos>` too.
      name: of the file, for messages.
      before: lines that were read of it already.
      wanted: what is to be done with them.

    Raises:
      InputError: naming the line: nothing to read, too long, or nothing that the model knows.
    """
    texts = []
    for number, line in enumerate(lines, start=before + 1):
        text = as_read(line, form)
        if not text.strip():
            raise InputError(f"{name}, line {number} is empty: nothing to {wanted}")
        size = len(translator.sides[0].encode(text)) + 1
        if size > max_source:
            raise InputError(
                f"{name}, line {number} has {size - 1} tokens, the model reads "
                f"{max_source - 1} at most: cut it"
            )
        unknown = translator.unknown(text)
        pieces = text.split() if isinstance(translator.sides[0], Words) else text
        if unknown and len(unknown) == len(set(pieces)):
            raise InputError(
                f"{name}, line {number}: the model knows nothing of it ({' '.join(unknown[:5])})"
            )
        if unknown:
            sys.stderr.write(f"{name}, line {number}: unknown {' '.join(unknown)}, read as <unk>\n")
        texts.append(text)
    return texts
