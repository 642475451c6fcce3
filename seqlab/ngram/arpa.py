r"""ARPA files of back-off models, as KenLM, SRILM and others read and write them.

    \data\
    ngram 1=<number>
    ...
    \1-grams:
    <log10 p>\t<word>\t<log10 weight>
    ...
    \2-grams:
    <log10 p>\t<word> <word>\t<log10 weight>
    ...
    \end\

Numbers are written so that they are read back to the last bit. `<s>`, `</s>` and `<unk>` stand for
SOS, EOS and UNK. Fields end at white space, so a token that holds some (as characters may) writes
it as `<0x20>`, its code point; so is a "<" that would be taken for the beginning of that.

Reference: SRILM's manual, ngram-format(5).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqlab.data.vocabulary import EOS, SOS, SPECIALS, UNK, Characters, Vocabulary, Words
from seqlab.errors import InputError
from seqlab.files import numbered_lines, whole_file
from seqlab.ngram.counts import LARGEST_ORDER
from seqlab.ngram.model import Level, NGram
from seqlab.ngram.sorting import find

NAMES = {SOS: "<s>", EOS: "</s>", UNK: "<unk>"}
LOG10_ZERO = -99.0  # what stands for the probability of <s>, which is never predicted
ROWS_AT_ONCE = 1 << 16
_ESCAPED = re.compile("[\\s\x00-\x1f\x7f-\x9f\ud800-\udfff]|<(?=0x|/?s>|unk>)")
_ESCAPE = re.compile("<0x([0-9a-f]+)>")


def write_arpa(path: Path | str, model: NGram) -> None:
    """Writes a model as an ARPA file, whole or not at all; equal models give equal bytes.

    Raises:
      InputError: a model that the format has no place for (scores that are no probabilities, add-k,
        whose order below is uniform, or probabilities of 0), or a file that cannot be written.
    """
    path = Path(path)
    _check_writable(model)
    words = _words(model.vocabulary)
    numbers = [len(level) for level in model.levels]
    numbers[0] = len(_written_ids(model))
    head = "".join(f"ngram {n}={number}\n" for n, number in enumerate(numbers, start=1))
    try:
        with whole_file(path) as file:
            file.write(f"\\data\\\n{head}".encode())
            for block in _sections(model, words):
                file.write(block.encode("utf-8"))
            file.write(b"\n\\end\\\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def read_arpa(path: Path | str, vocabulary: Vocabulary | None = None) -> NGram:
    """The model of an ARPA file; packed where its name ends in ".gz".

    Args:
      path: the file.
      vocabulary: whose ids the model takes. None for one of the file's unigrams: `Characters` where
        white space is among them, else `Words` in the order of the file, which are the ones that
        the model was written with.

    Raises:
      InputError: a file that is none or is broken, naming the line; or one whose words are not
        those of the vocabulary.
    """
    reader = _Reader(Path(path))
    num_ngrams = reader.header()
    order = len(num_ngrams)
    unigrams = reader.section(1, num_ngrams[0], is_last=order == 1)
    vocabulary = _vocabulary_of(reader.path, unigrams) if vocabulary is None else vocabulary
    id_of = {word.encode(): i for i, word in enumerate(_words(vocabulary))}
    levels = [_first_level(unigrams, id_of)]
    for n in range(2, order + 1):
        section = reader.section(n, num_ngrams[n - 1], is_last=n == order)
        levels.append(_level(section, levels, id_of))
    reader.end()
    highest = levels[-1]
    levels[-1] = Level(highest.keys, highest.log10_probs, np.zeros(0))
    return NGram(vocabulary, tuple(levels), "arpa")


def _check_writable(model: NGram) -> None:
    if not model.is_normalised or model.to_uniform:
        raise InputError(
            f"{model.smoothing} has no ARPA form: fit with modified-kneser-ney, kneser-ney, "
            "absolute or witten-bell"
        )
    ids = _written_ids(model)
    first, *rest = (level.log10_probs for level in model.levels)
    weights = [level.log10_weights for level in model.levels]
    predicted = first[ids[ids != SOS]]
    if not all(np.isfinite(array).all() for array in (predicted, *rest, *weights)):
        raise InputError(
            f"{model.smoothing}: some words have probability 0, which ARPA files have no number "
            "for; fit with a smoothing that leaves none, such as modified-kneser-ney"
        )


def _written_ids(model: NGram) -> np.ndarray:
    """Ids that a file lists as unigrams: those that may be predicted, and SOS."""
    may = model.levels[0].log10_probs > -np.inf
    may[SOS] = True
    return np.flatnonzero(may)


def _words(vocabulary: Vocabulary) -> list[str]:
    """How a file spells each id."""
    words = [
        NAMES.get(i, token) if i < len(SPECIALS) else _ESCAPED.sub(_hexadecimal, token)
        for i, token in enumerate(vocabulary.tokens)
    ]
    if len(set(words)) != len(words):
        raise InputError("two tokens of the vocabulary look alike: an ARPA file cannot hold them")
    return words


def _hexadecimal(match: re.Match) -> str:
    return f"<0x{ord(match.group()):x}>"


def _sections(model: NGram, words: list[str]) -> Iterator[str]:
    """The n-grams of every order, in blocks of lines."""
    texts = np.array(words, dtype=object)
    for n, level in enumerate(model.levels, start=1):
        yield f"\n\\{n}-grams:\n"
        if n == 1:
            places = _written_ids(model)
        else:
            parents, last = np.divmod(level.keys, len(words))
            texts = texts[parents] + " " + np.array(words, dtype=object)[last]
            places = np.arange(len(level))
        for begin in range(0, len(places), ROWS_AT_ONCE):
            some = places[begin : begin + ROWS_AT_ONCE]
            probs = level.log10_probs[some]
            if n == 1:
                probs = np.where(some == SOS, LOG10_ZERO, probs)
            columns = [map(repr, probs.tolist()), texts[some].tolist()]
            if len(level.log10_weights):
                columns.append(map(repr, level.log10_weights[some].tolist()))
            yield "".join(["\t".join(row) + "\n" for row in zip(*columns, strict=True)])


class _Section(NamedTuple):
    """The n-grams of one order as they stand in a file, [m]."""

    path: Path
    lines: list[int]  # where each stands
    log10_probs: np.ndarray
    log10_weights: np.ndarray
    words: list[bytes]  # of all of them, one after the other, [m * n]

    def error(self, row: int, what: str) -> InputError:
        return InputError(f"{self.path}:{self.lines[row]}: {what}")

    def ids(self, id_of: dict[bytes, int]) -> np.ndarray:
        """Ids of the words, int64 [m, n]."""
        ids = np.array([id_of.get(word, -1) for word in self.words], np.int64)
        ids = ids.reshape(len(self.lines), -1) if len(ids) else ids.reshape(0, 2)
        if (ids < 0).any():
            row, n = map(int, np.argwhere(ids < 0)[0])
            word = _shown(self.words[row * ids.shape[1] + n])
            known = "vocabulary that was given" if ids.shape[1] == 1 else "unigrams"
            raise self.error(row, f"the word {word} is not among the {known}")
        return ids

    def order_of(self, keys: np.ndarray) -> np.ndarray:
        """The places of the keys [m] in rising order; none may be there twice."""
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(np.diff(keys[order]) == 0)
        if len(same):
            first, second = order[same[0] : same[0] + 2]
            raise self.error(second, f"its words are those of line {self.lines[first]}")
        return order


class _Reader:
    """A file's parts, one after the other."""

    def __init__(self, path: Path):
        self.path, self.number = path, 0
        self._lines = numbered_lines(path)
        self._ahead: bytes | None = None

    def header(self) -> list[int]:
        """Numbers of n-grams by order; what stands before them is comment."""
        while self._next("\\data\\") != b"\\data\\":
            pass
        found: list[int] = []
        while (line := self._next("ngram 1=<number>")).startswith(b"ngram"):
            match = re.fullmatch(rb"ngram\s+(\d+)\s*=\s*(\d{1,18})", line)
            if match is None or int(match[1]) != len(found) + 1:
                raise self._error(f"expected 'ngram {len(found) + 1}=<number>', got {_shown(line)}")
            found.append(int(match[2]))
        self._ahead = line
        if not 1 <= len(found) <= LARGEST_ORDER:
            raise self._error(f"order must be in 1 .. {LARGEST_ORDER}, the file has {len(found)}")
        return found

    def section(self, n: int, num_ngrams: int, *, is_last: bool) -> _Section:
        """The n-grams of one order."""
        self._expect(f"\\{n}-grams:")
        lines: list[int] = []
        log10_probs: list[float] = []
        log10_weights: list[float] = []
        words: list[bytes] = []
        while not (line := self._next("\\end\\")).startswith(b"\\"):
            fields = line.split()
            has_weight = len(fields) == n + 2 and not is_last
            if len(fields) != n + 1 + has_weight:
                perhaps = "" if is_last else ", perhaps a weight"
                raise self._error(f"expected log10 p, {n} words{perhaps}, got {_shown(line)}")
            try:
                log10_probs.append(float(fields[0]))
                log10_weights.append(float(fields[-1]) if has_weight else 0.0)
            except ValueError:
                raise self._error(
                    f"log10 p and weight must be numbers, got {_shown(line)}"
                ) from None
            lines.append(self.number)
            words += fields[1 : n + 1]
        self._ahead = line
        if len(lines) != num_ngrams:
            raise self._error(
                f"{len(lines)} {n}-grams, and the header says {num_ngrams}: the file is cut or was "
                "changed"
            )
        section = _Section(self.path, lines, np.array(log10_probs), np.array(log10_weights), words)
        bad = ~(np.isfinite(section.log10_probs) & (section.log10_probs <= 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise section.error(row, f"log10 p is {log10_probs[row]}, expected 0 or less")
        bad = ~np.isfinite(section.log10_weights)
        if bad.any():
            row = int(np.argmax(bad))
            raise section.error(row, f"weight is {log10_weights[row]}, expected a finite number")
        return section

    def end(self) -> None:
        """Holds the file to its last line."""
        self._expect("\\end\\")

    def _next(self, expected: str) -> bytes:
        """The next line that is not blank, without white space at its ends."""
        if self._ahead is not None:
            line, self._ahead = self._ahead, None
            return line
        for number, content in self._lines:
            self.number = number
            if line := content.strip():
                return line
        raise InputError(f"{self.path} ends after line {self.number}: expected {expected}")

    def _expect(self, expected: str) -> None:
        line = self._next(expected)
        if line != expected.encode():
            raise self._error(f"expected {expected}, got {_shown(line)}")

    def _error(self, what: str) -> InputError:
        return InputError(f"{self.path}:{self.number}: {what}")


def _shown(text: bytes) -> str:
    return repr(text[:60].decode("utf-8", "backslashreplace"))


def _vocabulary_of(path: Path, unigrams: _Section) -> Vocabulary:
    tokens = []
    for row, word in enumerate(unigrams.words):
        try:
            name = word.decode("utf-8")
        except UnicodeDecodeError:
            raise unigrams.error(
                row, f"{_shown(word)} is not UTF-8; save the file as UTF-8"
            ) from None
        if name not in NAMES.values():
            tokens.append(_ESCAPE.sub(lambda match: chr(int(match[1], 16)), name))
    try:
        if any(token.isspace() for token in tokens):
            return Characters("".join(sorted(tokens)))
        return Words(tuple(tokens))
    except ValueError as error:
        raise InputError(f"{path}: its unigrams make no vocabulary: {error}") from error


def _first_level(unigrams: _Section, id_of: dict[bytes, int]) -> Level:
    """Unigrams, with a row for every id of the vocabulary."""
    ids = unigrams.ids(id_of)[:, 0]
    unigrams.order_of(ids)
    missing = set(id_of.values()) - {*range(len(SPECIALS)), *ids.tolist()}
    if missing:
        word = _shown(list(id_of)[min(missing)])
        raise InputError(
            f"{unigrams.path} lacks {len(missing)} words of the vocabulary, {word} the first: give "
            "the vocabulary that the model was made with"
        )
    log10_probs, log10_weights = np.full(len(id_of), -np.inf), np.zeros(len(id_of))
    log10_probs[ids], log10_weights[ids] = unigrams.log10_probs, unigrams.log10_weights
    log10_probs[SOS] = -np.inf  # whatever stands in its place, it is never predicted
    return Level(np.arange(len(id_of)), log10_probs, log10_weights)


def _level(section: _Section, levels: list[Level], id_of: dict[bytes, int]) -> Level:
    """N-grams in the order of their keys."""
    ids = section.ids(id_of)
    contexts = ids[:, 0]
    for n, level in enumerate(levels[1:], start=2):
        contexts = find(level.keys, contexts * len(id_of) + ids[:, n - 1])
        if (contexts < 0).any():
            row = int(np.argmax(contexts < 0))
            raise section.error(row, f"its first {n} words are not among the {n}-grams")
    keys = contexts * len(id_of) + ids[:, -1]
    order = section.order_of(keys)
    return Level(keys[order], section.log10_probs[order], section.log10_weights[order])
