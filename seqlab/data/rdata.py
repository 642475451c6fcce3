"""Tables of numbers and texts in files of R (`.rda`): as much of the format as data sets need.

References: R Internals, section 1.8 (serialization formats), version 2, binary XDR.
"""

import bz2
import gzip
import lzma
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from seqlab.errors import InputError

_SYMBOL, _PAIRS, _CHARS, _REFERENCE, _NIL = 1, 2, 9, 255, 254
_LOGICAL, _INTEGER, _REAL, _STRINGS, _LIST = 10, 13, 14, 16, 19
_NA_INTEGER = -(2**31)
_HEADER = b"RDX2\nX\n"
_PACKED = ((b"BZh", bz2.decompress), (b"\x1f\x8b", gzip.decompress), (b"\xfd7zXZ", lzma.decompress))


def read_tables(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The data frames of a file: name -> column -> array [N].

    Numbers are float64 with NaN where R has NA, factors and texts are `str` with "" for NA.

    Raises:
      InputError: a file that is damaged, or is not an `.rda` of version 2 in XDR, or holds what no
        table has.
    """
    content = path.read_bytes()
    try:
        for magic, unpack in _PACKED:
            if content.startswith(magic):
                content = unpack(content)
        if not content.startswith(_HEADER):
            raise InputError(f"{path} is not an .rda file of version 2")
        reader = _Reader(content, len(_HEADER) + 12)
        objects, _ = reader.item()
        return {name: _frame(*value) for name, value in objects.items()}
    except (OSError, EOFError, zlib.error, lzma.LZMAError, struct.error, KeyError) as error:
        raise InputError(f"{path} cannot be read as an .rda table: {error}") from error


def _frame(columns: list[Any], attributes: dict[str, Any]) -> dict[str, np.ndarray]:
    names, _ = attributes["names"]
    return {name: _column(values, own) for name, (values, own) in zip(names, columns, strict=True)}


def _column(values: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    if "levels" not in attributes:
        return values
    levels = np.array(["", *attributes["levels"][0]])
    return levels[np.where(np.isnan(values), 0, values).astype(int)]


class _Reader:
    """Walks a serialised object; every item is (value, attributes)."""

    def __init__(self, content: bytes, place: int):
        self.content, self.place = content, place
        self.symbols: list[str] = []

    def integer(self) -> int:
        (value,) = struct.unpack_from(">i", self.content, self.place)
        self.place += 4
        return value

    def array(self, dtype: str) -> np.ndarray:
        count = self.integer()
        found = np.frombuffer(self.content, dtype, count, self.place)
        self.place += found.nbytes
        return found

    def item(self) -> tuple[Any, dict[str, Any]]:
        flags = self.integer()
        kind, has_attributes, has_tag = flags & 0xFF, flags & 0x200, flags & 0x400
        if kind == _PAIRS:
            return self.pairs(has_attributes, has_tag), {}
        if kind == _NIL:
            return None, {}
        if kind == _SYMBOL:
            self.symbols.append(self.item()[0])
            return self.symbols[-1], {}
        if kind == _REFERENCE:
            return self.symbols[(flags >> 8 or self.integer()) - 1], {}
        value = self.vector(kind)
        attributes = self.item()[0] if has_attributes else None
        return value, attributes or {}

    def vector(self, kind: int) -> Any:
        if kind == _CHARS:
            count = self.integer()
            text = self.content[self.place : self.place + max(count, 0)]
            self.place += len(text)
            return text.decode("utf-8", errors="replace")
        if kind in (_LOGICAL, _INTEGER):
            values = self.array(">i4")
            return np.where(values == _NA_INTEGER, np.nan, values.astype(float))
        if kind == _REAL:
            return self.array(">f8").astype(float)
        if kind == _STRINGS:
            return np.array([self.item()[0] for _ in range(self.integer())])
        if kind == _LIST:
            return [self.item() for _ in range(self.integer())]
        raise KeyError(f"R's type {kind} is not read")

    def pairs(self, has_attributes: int, has_tag: int) -> dict[str, tuple[Any, dict[str, Any]]]:
        """A list of tagged items, one cell after the other."""
        found = {}
        while True:
            if has_attributes:
                self.item()
            name = self.item()[0] if has_tag else str(len(found))
            found[name] = self.item()
            flags = self.integer()
            if flags & 0xFF != _PAIRS:
                return found
            has_attributes, has_tag = flags & 0x200, flags & 0x400
