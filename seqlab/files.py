"""Files that are there whole or not at all, and what is in them."""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from seqlab.errors import InputError


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Writes a UTF-8 file that is there whole or not at all, whenever the process dies.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
