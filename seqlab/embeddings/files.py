r"""Files of word vectors: those of word2vec, as text or binary, and those of GloVe.

    word2vec, text       "V D\n", then V lines "word number ... number\n"
    word2vec, binary     "V D\n", then V times "word ", D little-endian float32, "\n"
    GloVe                lines "word number ... number\n", without a header

Words are UTF-8. They end at a blank and lines at "\n", at nothing else: any other white space may
be part of a word. Where a name ends in ".gz" the file is packed. Files are read as streams, and
are there whole or not at all when written; equal vectors give equal bytes.

References: the tool word2vec.c, 2013; Pennington et al., 2014 (GloVe).
"""

import gzip
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from seqlab.data.checks import check_at_least, check_known
from seqlab.embeddings.vectors import Vectors
from seqlab.errors import InputError
from seqlab.files import READ_ERRORS, numbered_lines, open_bytes, whole_file

CHUNK_BYTES = 1 << 20
BLOCK_ROWS = 1024  # parsed at a time
LONGEST_WORD = 1 << 16  # bytes; without a blank after so many, a binary file is something else
HEADER = re.compile(rb"\s*(\d{1,15})[ \t]+(\d{1,7})\s*")
NUMERALS = frozenset(b"0123456789+-.eEinfatyINFATY \t\r")

Errors = Literal["strict", "replace", "surrogateescape"]


class Row(NamedTuple):
    """One word of a file and its vector, not yet checked."""

    number: int  # of the line; of the row, from 1, in a binary file
    word: bytes
    vector: np.ndarray  # float32 [D]


def save_word2vec(path: Path | str, vectors: Vectors, *, binary: bool = False) -> None:
    """Writes vectors in word2vec's format.

    Text holds float32 and float64 exactly; binary is float32.

    Raises:
      InputError: a word that the format cannot hold, a number that float32 cannot, or a file that
        cannot be written.
    """
    path = Path(path)
    header = f"{len(vectors)} {vectors.vector_size}\n".encode()
    rows = _binary_rows(path, vectors) if binary else _text_rows(path, vectors)
    _write(path, header, rows)


def save_glove(path: Path | str, vectors: Vectors) -> None:
    """Writes vectors in GloVe's format; see `save_word2vec`.

    Raises:
      InputError: a file that cannot be written, or a word that a text cannot hold.
    """
    path = Path(path)
    _write(path, b"", _text_rows(path, vectors))


def load_word2vec(
    path: Path | str,
    binary: bool | None = None,
    limit: int | None = None,
    *,
    dimension: int | None = None,
    errors: Errors = "strict",
) -> Vectors:
    """Vectors of a file in word2vec's format, in float32.

    Args:
      path: the file; packed where the name ends in ".gz".
      binary: whether it is binary; None to see by its first row.
      limit: None, or how many of the first rows are read.
      dimension: D, if words of a text may hold blanks: then the last D fields of a line are its
        vector, and the rest is the word.
      errors: of words that are not UTF-8: "strict" refuses them, "replace" puts U+FFFD for what
        cannot be read, "surrogateescape" keeps the bytes as lone surrogates, so that words differ.

    Raises:
      InputError: a file that cannot be read as a whole, naming the line (the row, if binary).
    """
    path = Path(path)
    _check_options(limit, dimension, errors)
    num_words, size = _read_header(path)
    if dimension is not None and dimension != size:
        raise InputError(f"{path}:1: the header says {size} dimensions, expected {dimension}")
    if binary is None:
        binary = _looks_binary(path, size)
    wanted = num_words if limit is None else min(limit, num_words)
    if binary:
        rows = _read_binary(path, num_words, size, wanted)
        return _collect(f"{path}: row ", rows, size, errors)
    lines = _after_header(path, num_words, wanted)
    return _collect(f"{path}:", _split(path, lines, size, dimension), size, errors)


def load_glove(
    path: Path | str,
    limit: int | None = None,
    *,
    dimension: int | None = None,
    errors: Errors = "strict",
) -> Vectors:
    """Vectors of a file in GloVe's format, in float32.

    Args:
      path: the file; packed where the name ends in ".gz".
      limit: None, or how many of the first rows are read.
      dimension: D, if words may hold blanks, as some of the 840B vectors do: then the last D fields
        of a line are its vector. If None, a line has as many fields as the first.
      errors: see `load_word2vec`.

    Raises:
      InputError: a file that cannot be read as a whole, naming the line.
    """
    path = Path(path)
    _check_options(limit, dimension, errors)
    first = next(numbered_lines(path), None)
    if first is None:
        raise InputError(f"{path} is empty: expected lines of a word and its vector")
    size = dimension or first[1].rstrip(b" \r\n").count(b" ")
    if size < 1:
        raise InputError(f"{path}:1: expected a word and its vector with blanks between them")
    lines = islice(numbered_lines(path), limit)
    return _collect(f"{path}:", _split(path, lines, size, dimension), size, errors)


def load_vectors(path: Path | str) -> Vectors:
    """Vectors of a file in word2vec's format, which begins with two whole numbers, or in GloVe's.

    Raises:
      InputError: as `load_word2vec` and `load_glove`.
    """
    path = Path(path)
    _, first = next(numbered_lines(path), (0, b""))
    fields = first.split()
    has_header = len(fields) == 2 and all(field.isdigit() for field in fields)
    return load_word2vec(path) if has_header else load_glove(path)


# Writing


def _write(path: Path, header: bytes, rows: Iterable[bytes]) -> None:
    try:
        with whole_file(path) as file:
            if path.suffix == ".gz":
                # Without the time and the name that gzip would put in: equal vectors, equal bytes.
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                    packed.write(header)
                    packed.writelines(rows)
            else:
                file.write(header)
                file.writelines(rows)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _text_rows(path: Path, vectors: Vectors) -> Iterator[bytes]:
    words = _encoded(path, vectors.words)
    # So many digits are read back to the same number, also by way of float64.
    digits = "%.9g" if vectors.vectors.dtype == np.float32 else "%.17g"
    line = " ".join([digits] * vectors.vector_size)
    for word, vector in zip(words, vectors.vectors, strict=True):
        yield b"%s %s\n" % (word, (line % tuple(vector.tolist())).encode())


def _binary_rows(path: Path, vectors: Vectors) -> Iterator[bytes]:
    words = _encoded(path, vectors.words)
    for word, vector in zip(words, vectors.vectors, strict=True):
        with np.errstate(over="ignore"):
            numbers = vector.astype("<f4")
        if not np.isfinite(numbers).all():
            raise InputError(
                f"cannot write {path}: the vector of {word.decode()[:40]!r} is too large for "
                "float32; write text"
            )
        yield b"%s %s\n" % (word, numbers.tobytes())


def _encoded(path: Path, words: Iterable[str]) -> Iterator[bytes]:
    for word in words:
        if not word or " " in word or "\n" in word:
            what = "is empty" if not word else "holds a blank or a line end"
            raise InputError(f"cannot write {path}: the word {word[:40]!r} {what}")
        try:
            yield word.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"cannot write {path}: the word {word[:40]!r} is not UTF-8 ({error.reason})"
            ) from error


# Reading


def _check_options(limit: int | None, dimension: int | None, errors: str) -> None:
    if limit is not None:
        check_at_least(limit, 1, "limit")
    if dimension is not None:
        check_at_least(dimension, 1, "dimension")
    check_known(errors, ("strict", "replace", "surrogateescape"), "errors")


def _read_header(path: Path) -> tuple[int, int]:
    """(V, D) of a word2vec file."""
    try:
        with open_bytes(path) as file:
            line = file.readline(LONGEST_WORD)
    except READ_ERRORS as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error
    header = HEADER.fullmatch(line)
    num_words, size = map(int, header.groups()) if header else (0, 0)
    if num_words < 1 or size < 1:
        found = line[:40].decode("utf-8", "replace")
        raise InputError(
            f"{path}:1: expected a header of two numbers, words and dimensions, got {found!r}; "
            "a file without one is GloVe's, see load_glove"
        )
    return num_words, size


def _looks_binary(path: Path, size: int) -> bool:
    """Whether more follows the first word than such bytes as numbers are written with."""
    try:
        with open_bytes(path) as file:
            file.readline(LONGEST_WORD)
            line = file.read(LONGEST_WORD + 4 * size).partition(b"\n")[0]
    except READ_ERRORS as error:
        raise InputError(f"cannot read {path}: {_reason(error)}") from error
    numbers = line.partition(b" ")[2][: 4 * size]
    return len(numbers) < size or not NUMERALS.issuperset(numbers)


def _after_header(path: Path, num_words: int, wanted: int) -> Iterator[tuple[int, bytes]]:
    """The lines wanted of a word2vec text, which has to have as many as it says."""
    number = 1
    for number, line in islice(numbered_lines(path), 1, None):
        if number > num_words + 1:
            raise InputError(f"{path}:{number}: a line too many, the header says {num_words} words")
        yield number, line
        if number - 1 == wanted < num_words:
            return
    if number - 1 < num_words:
        raise InputError(
            f"{path}:{number}: the file ends after {number - 1} of the {num_words} words of its "
            "header; is it cut short?"
        )


def _split(
    path: Path, lines: Iterable[tuple[int, bytes]], size: int, dimension: int | None
) -> Iterator[Row]:
    """The rows of lines of text."""
    lines = iter(lines)
    while block := list(islice(lines, BLOCK_ROWS)):
        words, texts = [], []
        for number, line in block:
            word, *fields = line.rstrip(b" \r\n").rsplit(b" ", size)
            if len(fields) != size or (dimension is None and b" " in word):
                raise InputError(f"{path}:{number}: {_wrong_fields(line, size)}")
            if not line.endswith(b"\n"):
                raise InputError(
                    f"{path}:{number}: the last line has no end; is the file cut short? "
                    "If not, add one"
                )
            words.append(word)
            texts.append(b" ".join(fields).decode("latin-1"))
        numbers = _numbers(path, block[0][0], texts, size)
        for (number, _), word, vector in zip(block, words, numbers, strict=True):
            yield Row(number, word, vector)


def _wrong_fields(line: bytes, size: int) -> str:
    found = len(line.split(b" ")) if line.strip() else 0
    message = f"expected a word and {size} numbers, got {found} fields"
    if found <= size:
        return message + "; is the file cut short?"
    if size == 1:
        return message + "; if the first line is a header, see load_word2vec"
    return message + f"; if words may hold blanks, give dimension={size}"


def _numbers(path: Path, first: int, texts: list[str], size: int) -> np.ndarray:
    """float32 [N, size] of N lines of numbers, the first of which has the number `first`."""
    try:
        return np.loadtxt(texts, np.float32, comments=None, delimiter=" ", ndmin=2)
    except ValueError:  # in one of them
        for number, text in enumerate(texts, start=first):
            for i, field in enumerate(text.split(" "), start=1):
                if not _is_number(field):
                    raise InputError(
                        f"{path}:{number}: entry {i} is no number: {field[:40]!r}"
                    ) from None
        raise


def _is_number(field: str) -> bool:
    try:
        np.loadtxt([f"{field} 0"], np.float32, comments=None, delimiter=" ")
    except ValueError:
        return False
    return True


def _read_binary(path: Path, num_words: int, size: int, wanted: int) -> Iterator[Row]:
    """The rows of a binary file, which has to have as many as its header says."""
    number = 0
    try:
        with open_bytes(path) as file:
            file.readline()
            chunk, at = b"", 0
            for number in range(1, wanted + 1):
                while (end := chunk.find(b" ", at)) < 0 or len(chunk) < end + 1 + 4 * size:
                    if end < 0 and len(chunk) - at > LONGEST_WORD:
                        raise InputError(f"{path}: row {number}: a word has no end; is it text?")
                    more = file.read(CHUNK_BYTES)
                    if not more:
                        raise InputError(
                            f"{path}: row {number}: the file ends within it, its header says "
                            f"{num_words} rows; is it cut short?"
                        )
                    chunk, at = chunk[at:] + more, 0
                # word2vec.c ends a row with "\n", gensim does not.
                word = chunk[at:end].lstrip(b"\n")
                yield Row(number, word, np.frombuffer(chunk, "<f4", size, end + 1))
                at = end + 1 + 4 * size
            rest = chunk[at:] + file.read(2)
            if wanted == num_words and rest.strip(b"\n"):
                raise InputError(
                    f"{path}: row {number + 1}: a row too many, its header says {num_words}"
                )
    except READ_ERRORS as error:
        raise InputError(f"cannot read {path} after row {number}: {_reason(error)}") from error


def _collect(place: str, rows: Iterable[Row], size: int, errors: Errors) -> Vectors:
    """The vectors of all rows, each of them checked."""
    number_of: dict[str, int] = {}
    vectors = np.empty((1 + CHUNK_BYTES // size, size), np.float32)
    for number, encoded, vector in rows:
        at = f"{place}{number}"
        try:
            word = encoded.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{at}: the word {encoded[:40]!r} is not UTF-8 ({error.reason}); "
                "errors='replace' reads it all the same"
            ) from error
        if not word:
            raise InputError(f"{at}: the word is empty")
        if word in number_of:
            first = f"{place}{number_of[word]}"
            raise InputError(
                f"{at}: the word {word[:40]!r} is there already, at {first}"
                + "; errors='surrogateescape' tells broken words apart" * (errors == "replace")
            )
        if not np.isfinite(vector).all():
            i = int(np.argmin(np.isfinite(vector)))
            raise InputError(f"{at}: entry {i + 1} of {word[:40]!r} is {vector[i]} in float32")
        if len(number_of) == len(vectors):
            # In place, without a second copy of all that has been read.
            vectors.resize((2 * len(vectors), size), refcheck=False)
        vectors[len(number_of)] = vector
        number_of[word] = number
    vectors.resize((len(number_of), size), refcheck=False)
    vectors.flags.writeable = False
    return Vectors(tuple(number_of), vectors)


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error
