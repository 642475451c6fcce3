"""Machines that run to failure: one `Engine` record, and a strict reader of the C-MAPSS files.

A C-MAPSS file has a line a cycle, 26 numbers with blanks between: unit, cycle, 3 operational
settings, 21 sensors. Each engine of a train file runs to its failure; one of a test file is cut off
before, and `RUL_FD00x.txt` has the cycles that were left, a line an engine.

References: Saxena and Goebel, 2008; Saxena et al., 2008 (the simulation).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqlab.errors import InputError
from seqlab.files import name_of, numbered_lines

NUM_SETTINGS, NUM_SENSORS = 3, 21
SUBSETS = ("FD001", "FD002", "FD003", "FD004")


@dataclass(frozen=True, eq=False)
class Engine:
    """What was measured of one engine, cycle by cycle.

    Attributes:
      id: of the file, unique in it.
      settings: of operation, float64 [T, S]; NaN where missing.
      sensors: float64 [T, D]; NaN where missing.
      cycles_left: after its last cycle until failure; 0 of one that ran to failure, None where it
        is not known (censored).
    """

    id: str
    settings: np.ndarray
    sensors: np.ndarray
    cycles_left: int | None = 0

    def __len__(self) -> int:
        return len(self.sensors)

    @property
    def remaining_life(self) -> np.ndarray:
        """Cycles to failure after each cycle, int64 [T].

        Raises:
          ValueError: it is not known when the engine fails.
        """
        if self.cycles_left is None:
            raise ValueError(f"engine {self.id}: its life is censored")
        return self.cycles_left + np.arange(len(self))[::-1]


def read_engines(path: Path | str, lives: Path | str | None = None) -> Iterator[Engine]:
    """Engine after engine of a C-MAPSS file, perhaps gzipped.

    Args:
      path: a train or test file; "-" is standard input.
      lives: for a test file, that of the cycles that were left; engines of a file without it are
        taken to have run to failure.

    Raises:
      InputError: naming file, line and field: not 26 numbers (a missing one is written nan); units
        or cycles out of order; as many lives as engines are expected.
    """
    path, name = Path(path), name_of(Path(path))
    left = None if lives is None else _read_lives(Path(lives))
    number, rows, count = None, [], 0

    def engine():
        if left is not None and count > len(left):
            raise InputError(f"{lives} has {len(left)} lives, {name} more engines")
        values = np.array(rows)
        return Engine(
            str(number),
            values[:, :NUM_SETTINGS],
            values[:, NUM_SETTINGS:],
            0 if left is None else left[count - 1],
        )

    for place, line in numbered_lines(path):
        words = line.split()
        if not words:
            continue
        try:
            unit, cycle, *values = map(float, words)
        except ValueError as error:
            raise InputError(f"{name}, line {place}: {_reason(error, words)}") from error
        if len(values) != NUM_SETTINGS + NUM_SENSORS:
            raise InputError(f"{name}, line {place}: {len(words)} numbers, expected 26")
        if np.isinf(values).any():
            raise InputError(f"{name}, line {place}: column {3 + _first_inf(values)} is infinite")
        if unit != number:
            if number is not None:
                count += 1
                yield engine()
                if unit < number:
                    raise InputError(f"{name}, line {place}: unit {unit:g} after unit {number}")
            if not unit.is_integer():
                raise InputError(f"{name}, line {place}: unit {unit:g}, expected a whole number")
            number, rows = int(unit), []
        if cycle != len(rows) + 1:
            raise InputError(
                f"{name}, line {place}: cycle {cycle:g} of unit {number}, expected {len(rows) + 1}"
            )
        rows.append(values)
    if number is None:
        raise InputError(f"{name} holds no engine")
    count += 1
    yield engine()
    if left is not None and count != len(left):
        raise InputError(f"{lives} has {len(left)} lives, {name} has {count} engines")


def read_subset(folder: Path | str, subset: str) -> tuple[list[Engine], list[Engine]]:
    """(train, test) of FD001 .. FD004 from a folder that holds the files, perhaps gzipped.

    Raises:
      InputError: a file that is not there, or as `read_engines`.
    """
    folder = Path(folder)

    def find(stem):
        for name in (f"{stem}_{subset}.txt", f"{stem}_{subset}.txt.gz"):
            if (folder / name).is_file():
                return folder / name
        raise InputError(f"{folder} has no {stem}_{subset}.txt (or .txt.gz)")

    return list(read_engines(find("train"))), list(read_engines(find("test"), find("RUL")))


def _read_lives(path: Path) -> list[int]:
    lives = []
    for place, line in numbered_lines(path):
        if word := line.strip():
            if not word.isdigit():
                raise InputError(f"{path}, line {place}: {word.decode('latin-1')!r} is no number")
            lives.append(int(word))
    return lives


def _first_inf(values: list[float]) -> int:
    return int(np.argmax(np.isinf(values)))


def _reason(error: ValueError, words: list[bytes]) -> str:
    if len(words) < 2:
        return f"{len(words)} numbers, expected 26"
    return str(error)
