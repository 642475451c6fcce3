"""Files that are there whole or not at all, and what is in them."""

import gzip
import hashlib
import json
import os
import sys
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from seqlab.errors import InputError

READ_ERRORS = (OSError, EOFError, zlib.error)  # the last two where a gzip file is damaged


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Writes a UTF-8 file that is there whole or not at all, whenever the process dies.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    with whole_file(path) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to, at `path` only when the `with` block has ended without an error.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def name_of(path: Path) -> str:
    """What a file is called in a message: "-" is standard input."""
    return "standard input" if str(path) == "-" else str(path)


def open_bytes(path: Path) -> BinaryIO:
    """A file to read bytes from, unpacked where its name ends in ".gz".

    Raises:
      OSError: it cannot be opened. Reading it raises one of `READ_ERRORS`.
    """
    return gzip.GzipFile(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    r"""(number, line) for every line of a file, from 1, cut behind every "\n" and nowhere else.

    The file is read as a stream, and unpacked where its name ends in ".gz"; "-" is standard input.

    Raises:
      InputError: a file that is not there or cannot be read, naming the line.
    """
    number, is_input = 0, str(path) == "-"
    try:
        with nullcontext(sys.stdin.buffer) if is_input else open_bytes(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except FileNotFoundError as error:
        raise InputError(f"cannot read: {path} does not exist") from error
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {name_of(path)} after line {number}: {reason}") from error


def to_json(value: dict[str, Any]) -> str:
    """An object as text that people can read; NaN and infinities are refused."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object.

    Raises:
      InputError: a file that cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object")
    return value
