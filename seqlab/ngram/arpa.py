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

import math
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from seqlab.data.vocabulary import EOS, PAD, SOS, SPECIALS, UNK, Vocabulary, Words
from seqlab.errors import InputError
from seqlab.files import numbered_lines, whole_file
from seqlab.ngram.counts import LARGEST_ORDER
from seqlab.ngram.model import Level, NGram

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
      vocabulary: whose ids the model takes: that of the model that was written. None for `Words` of
        the file's unigrams in their order, which is the same one for a model of words.

    Raises:
      InputError: a file that is none or is broken, naming the line; or one whose words are not
        those of the vocabulary.
    """
    path = Path(path)
    reader = _Reader(path)
    numbers = reader.header()
    unigrams = list(reader.section(1, numbers[0], is_last=len(numbers) == 1))
    if vocabulary is None:
        names = set(NAMES.values())
        try:
            vocabulary = Words(tuple(row[2][0] for row in unigrams if row[2][0] not in names))
        except ValueError as error:
            raise InputError(f"{path}: its unigrams make no vocabulary: {error}") from error
    id_of = {name: i for i, name in enumerate(_words(vocabulary)) if i != PAD}
    levels = [_first_level(path, unigrams, vocabulary, id_of)]
    for n in range(2, len(numbers) + 1):
        rows = reader.section(n, numbers[n - 1], is_last=n == len(numbers))
        levels.append(_level(path, rows, n, numbers[n - 1], levels, id_of))
    reader.end()
    last = levels[-1]
    levels[-1] = Level(last.keys, last.log10_probs, np.zeros(0))
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
            probs = np.maximum(level.log10_probs[some], LOG10_ZERO) if n == 1 else (
                level.log10_probs[some]
            )
            columns = [map(repr, probs.tolist()), texts[some].tolist()]
            if len(level.log10_weights):
                columns.append(map(repr, level.log10_weights[some].tolist()))
            yield "".join(["\t".join(row) + "\n" for row in zip(*columns, strict=True)])
