"""Text as a stream of sentences, and as a file of word ids that training reads.

`sentences("imdb")` and `sentences(corpus="mine.txt")` give a text a sentence at a time, as often as
it is asked for and never whole in memory. `encode` reads it once, counts its words and writes their
ids to a file; a `Corpus` is that file, mapped into memory.
"""

import codecs
import functools
import gzip
import itertools
import json
import os
import re
import uuid
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from seqlab.data import sources
from seqlab.data.checks import check_at_least, check_known
from seqlab.data.reviews import read_reviews
from seqlab.data.text import load_text, text_digest
from seqlab.data.words import letters
from seqlab.errors import InputError
from seqlab.files import read_object, sha256, to_json, write_whole

DATASETS = ("embedded", "imdb", "ptb", "text8", "tinyshakespeare")
SENTENCE_WORDS = 10_000  # a longer line is cut: what gensim's readers do
END = -1  # in the ids, after each sentence

_KIND = "seqlab corpus 1"  # raised with every change of what is written or of how text is cut
_BLOCK_BYTES = 1 << 18  # of text that is read at once; no word may be longer
_BATCH_WORDS = 1 << 17  # that are looked up at once
_CHUNK_IDS = 1 << 19  # that are counted or renumbered at once
_LEFT_OUT = -2
_IDS = np.dtype("<i4")


@dataclass(frozen=True)
class Sentences:
    """A text as sentences, each a list of words; every iteration reads it from the beginning.

    Attributes:
      source: what is read and how it is cut; where two are equal, so are the sentences.
      read: begins an iteration.
    """

    source: dict[str, Any]
    read: Callable[[], Iterator[list[str]]]

    def __iter__(self) -> Iterator[list[str]]:
        return self.read()


def sentences(
    dataset: str | None = None,
    corpus: Path | str | Sequence[Path | str] | None = None,
    *,
    lower: bool = True,
    blanks_only: bool = False,
) -> Sentences:
    r"""Sentences of a data set or of the user's own text.

    | text | a sentence is | a word is |
    |---|---|---|
    | embedded (the default) | a paragraph | as of a corpus, in lower case |
    | tinyshakespeare | a speech with its speaker | as of a corpus, in lower case |
    | ptb, its training part | a line | what stands between blanks: also `<unk>` and `N` |
    | imdb, train and unsupervised | a review, `<br />` being a blank | `[a-z0-9']+`, lower case |
    | text8 | 10,000 words | what stands between blanks |
    | corpus | a line | letters, digits, `_`, marks of any script; an apostrophe within |

    A review is not cut at its full stops: a window then reaches over them, as it does in text8 and
    in gensim's and the C tool's readers, which know no sentence but a line. A line of more than
    10,000 words gives several sentences. Words are not normalised: "é" of one code point and of
    two are two words.

    Args:
      dataset: one of `DATASETS`; fetched, or read from a mirror.
      corpus: UTF-8 text instead, plain or .gz, or the only file in a .zip; several files are
        read one after the other. A byte order mark is dropped.
      lower: whether a corpus is read in lower case.
      blanks_only: whether a word of a corpus is whatever stands between white space.

    Raises:
      InputError: both given; an unknown data set, or an option of how to cut one; what
        `sources.fetch` raises; a file that cannot be read. When iterated: a file that is not UTF-8,
        or damaged; a word of more than 262,144 characters.
    """
    if corpus is not None:
        if dataset is not None:
            raise InputError(f"give either dataset ({dataset}) or corpus ({corpus}), not both")
        paths = [corpus] if isinstance(corpus, str | os.PathLike) else corpus
        return _files([Path(path) for path in paths], lower, blanks_only)
    dataset = "embedded" if dataset is None else dataset
    check_known(dataset, DATASETS, "dataset")
    if blanks_only or not lower:
        raise InputError(
            f"dataset {dataset} has its own words: lower and blanks_only are of corpus"
        )
    if dataset == "imdb":
        return _imdb()
    if dataset == "text8":
        return _files(list(sources.fetch("text8").values()), lower=False, blanks_only=True)
    text, is_cut = load_text(dataset), dataset == "ptb"
    parts, words = text.split("\n" if is_cut else "\n\n"), _cutter(not is_cut, is_cut)
    return Sentences(
        {"dataset": dataset, "sha256": text_digest(text)},
        lambda: (found for part in parts if (found := words(part))),
    )


def _imdb() -> Sentences:
    files = sources.fetch("imdb")
    words = re.compile(r"[a-z0-9']+").findall

    def read():
        reviews = read_reviews(files)
        for group in ("train_neg", "train_pos", "train_unsup"):
            for review in reviews[group]:
                if found := words(review.text.lower().replace("<br />", " ")):
                    yield found

    return Sentences({"dataset": "imdb", "sha256": [sha256(path) for path in files.values()]}, read)


def _files(paths: list[Path], lower: bool, blanks_only: bool) -> Sentences:
    if not paths:
        raise InputError("corpus names no file")
    try:
        digests = [sha256(path) for path in paths]
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error

    def read():
        for path in paths:
            yield from _sentences_of(path, _cutter(lower, blanks_only))

    return Sentences({"lower": lower, "blanks_only": blanks_only, "sha256": digests}, read)


def _cutter(lower: bool, blanks_only: bool) -> Callable[[str], list[str]]:
    """Words of a text."""
    words = str.split if blanks_only else _word_pattern().findall
    return (lambda text: words(text.lower())) if lower else words


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """Words of any script, an apostrophe within."""
    return re.compile(rf"{letters()}(?:['\u2019]{letters()})*")


def _sentences_of(path: Path, words: Callable[[str], list[str]]) -> Iterator[list[str]]:
    """Sentences of a file, in memory bounded by `_BLOCK_BYTES` however long its lines are."""
    found, rest, line = [], "", 1
    for block in itertools.chain(_blocks(path), ["\n"]):
        *ended, rest = (rest + block).split("\n")
        for part in ended:
            found += words(part)
            while len(found) > SENTENCE_WORDS:
                yield found[:SENTENCE_WORDS]
                found = found[SENTENCE_WORDS:]
            if found:
                yield found
                found = []
        line += len(ended)
        if len(rest) > _BLOCK_BYTES:
            head, rest = _up_to_last_blank(rest)
            if len(rest) > _BLOCK_BYTES:
                raise InputError(
                    f"{path}, line {line}: a word of more than {_BLOCK_BYTES} characters; "
                    "words have to be parted by blanks"
                )
            found += words(head)
            while len(found) > SENTENCE_WORDS:
                yield found[:SENTENCE_WORDS]
                found = found[SENTENCE_WORDS:]


def _up_to_last_blank(text: str) -> tuple[str, str]:
    """A text cut where no word is."""
    end = len(text) if text[-1].isspace() else len(text) - len(text.rsplit(None, 1)[-1])
    return text[:end], text[end:]


def _blocks(path: Path) -> Iterator[str]:
    """Text of a file, a block at a time.

    Raises:
      InputError: naming the file, and the line where its bytes are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, line, content = 0, 1, None
    with _opened(path) as file:
        while content != b"":
            content = file.read(_BLOCK_BYTES)
            try:
                text = decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                start = size + len(content) - len(error.object) + error.start
                line += error.object.count(b"\n", 0, error.start)
                raise InputError(
                    f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                    f"{start}, line {line}; save it as UTF-8"
                ) from error
            if size == 0:
                text = text.removeprefix("\N{BYTE ORDER MARK}")
            size += len(content)
            line += text.count("\n")
            yield text


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Bytes of a file, unpacked; errors in opening and reading are told in one line."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if len(names) != 1:
                    raise InputError(f"{path} holds {len(names)} files, expected one")
                with archive.open(names[0]) as file:
                    yield file
        else:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no {path.suffix} file, or damaged: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as word ids in a file, and the words.

    Words seen less than `min_count` times are not in it: windows reach over them.

    Attributes:
      path: of the ids; `path` + ".json" holds the rest.
      words: V words by id, in falling frequency, those of equal frequency by code points.
      counts: how often each is in the text, int64 [V].
      ids: of all words in the order of the text, `END` after each sentence; int32 [N], mapped.
      num_words: words of the text, those that were left out too.
      min_count: as given to `encode`.
      max_vocab: as given to `encode`.
      source: `Sentences.source`; None of sentences that have none.
    """

    path: Path
    words: tuple[str, ...]
    counts: np.ndarray
    ids: np.ndarray
    num_words: int
    min_count: int
    max_vocab: int | None
    source: dict[str, Any] | None

    @classmethod
    def open(cls, path: Path | str) -> "Corpus":
        """The corpus that `encode` has written, compared with its sha256.

        Raises:
          InputError: a file that is missing, cut off, damaged or something else.
        """
        path = Path(path)
        noted = _read_sidecar(path)
        remedy = "encode it anew"
        try:
            size = path.stat().st_size
            if size != noted["size"]:
                raise InputError(f"{path} has {size} bytes, expected {noted['size']}; {remedy}")
            if sha256(path) != noted["sha256"]:
                raise InputError(f"{path} is damaged: its sha256 is not as noted; {remedy}")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}; {remedy}") from error
        return cls(
            path=path,
            words=tuple(noted["words"]),
            counts=np.array(noted["counts"], np.int64),
            ids=np.memmap(path, _IDS, "r"),
            num_words=noted["num_words"],
            min_count=noted["min_count"],
            max_vocab=noted["max_vocab"],
            source=noted["source"],
        )

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Id of each word."""
        return {word: i for i, word in enumerate(self.words)}

    def __iter__(self) -> Iterator[list[str]]:
        """Sentences as words, those that were left out being absent."""
        words = np.array(self.words, object)
        for ids in self._sentences():
            yield words[ids].tolist()

    def _sentences(self) -> Iterator[np.ndarray]:
        begun = np.zeros(0, np.int32)
        for chunk in self.chunks(_CHUNK_IDS):
            *ended, rest = np.split(chunk, np.flatnonzero(chunk == END) + 1)
            for sentence in ended:
                yield np.concatenate([begun, sentence[:-1]])
                begun = rest[:0]
            begun = np.concatenate([begun, rest])

    def chunks(self, num_tokens: int) -> Iterator[np.ndarray]:
        """The ids in order, int32 arrays of up to `num_tokens`, each `END` counted as one.

        A chunk ends with a sentence; only a sentence of more than `num_tokens` is cut, and the
        chunks before its last then end without `END`.

        Raises:
          InputError: `num_tokens` below 1.
        """
        check_at_least(num_tokens, 1, "num_tokens")
        start = 0
        while start < len(self.ids):
            chunk = np.array(self.ids[start : start + num_tokens])
            if start + len(chunk) < len(self.ids):
                ends = np.flatnonzero(chunk == END)
                chunk = chunk[: ends[-1] + 1] if len(ends) else chunk
            start += len(chunk)
            yield chunk

    def keep_probability(self, sample: float) -> np.ndarray:
        """Probability that an occurrence of each word is kept in subsampling, float64 [V].

        p = min(1, (sqrt(f / s) + 1) s / f), with f the word's share of all words in `ids` and s
        `sample`: the C tool's form, where Mikolov et al. 2013, section 2.3, keep sqrt(s / f).

        Args:
          sample: 1e-3 to 1e-5 as a rule; 0 keeps everything.

        Raises:
          InputError: a negative or non-finite `sample`.
        """
        if not 0 <= sample < float("inf"):
            raise InputError(f"sample must be 0 or more and finite, got {sample}")
        if sample == 0:
            return np.ones(len(self.words))
        ratio = sample * self.counts.sum() / self.counts
        return np.minimum(1.0, np.sqrt(ratio) + ratio)

    def noise_distribution(self, power: float = 0.75) -> np.ndarray:
        """Probability of each word as a negative sample, count^power / sum, float64 [V].

        References: Mikolov et al. 2013, section 2.2.
        """
        weights = self.counts.astype(np.float64) ** power
        return weights / weights.sum()


def encode(
    sentences: Iterable[Sequence[str]],
    path: Path | str,
    *,
    min_count: int = 5,
    max_vocab: int | None = None,
) -> Corpus:
    """Counts the words of sentences and writes their ids to a file, in one pass.

    A file that is there already is taken as it is, if it was made of equal `Sentences` with equal
    settings and is intact. What is written is there whole or not at all.

    All distinct words are held in memory while the text is read, about 150 bytes each: 1.5 GB for
    10 million. The text itself is not. The disk takes 4 bytes for each word and sentence of it.

    Args:
      sentences: as `sentences` gives them, or any iterable of lists of words, read once. A sentence
        that is empty, or from which all words are left out, is not written.
      path: of the ids; `path` + ".json" is written beside it.
      min_count: words seen less often are left out.
      max_vocab: the most frequent words that are kept; all if None.

    Raises:
      InputError: limits that allow no word, or text that leaves none; a file that cannot be
        written, or is there and is no corpus; what `sentences` raises.
      ValueError: a sentence that is a str; a word that is none, is empty or holds white space.
    """
    check_at_least(min_count, 1, "min_count")
    if max_vocab is not None:
        check_at_least(max_vocab, 1, "max_vocab")
    path, source = Path(path), getattr(sentences, "source", None)
    settings = {"min_count": min_count, "max_vocab": max_vocab, "source": source}
    if path.exists() or _sidecar(path).exists():
        noted = _read_sidecar(path)  # raises where the file is something else
        if source is not None and all(noted[key] == value for key, value in settings.items()):
            try:
                return Corpus.open(path)
            except InputError:
                pass  # damaged: it is encoded again
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        names, num_words = _write_numbers(sentences, partial)
        words, counts = _renumber(partial, names, min_count, max_vocab)
        content = {
            "kind": _KIND,
            **settings,
            "num_words": num_words,
            "size": partial.stat().st_size,
            "sha256": sha256(partial),
            "words": words,
            "counts": counts,
        }
        # The sidecar comes first: one without its ids can be told from a file that is not ours.
        write_whole(_sidecar(path), to_json({**content, "digest": _digest(content)}))
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return Corpus.open(path)


def _write_numbers(sentences: Iterable[Sequence[str]], path: Path) -> tuple[list[Any], int]:
    """Writes each word as the number of distinct words before it; the words, and how many in all.

    `END` has the number 0.
    """
    end = object()
    numbers: dict[Any, int] = defaultdict(itertools.count().__next__, {})
    numbers[end]
    num_words = 0
    with path.open("xb") as file:
        batch: list[Any] = []

        def write():
            ids = np.fromiter(map(numbers.__getitem__, batch), _IDS, len(batch))
            file.write(ids.data)
            batch.clear()

        for sentence in sentences:
            if isinstance(sentence, str):
                raise ValueError(f"a sentence must be a list of words, got {sentence[:40]!r}")
            batch.extend(sentence)
            batch.append(end)
            num_words -= 1
            if len(batch) >= _BATCH_WORDS:
                num_words += len(batch)
                write()
        num_words += len(batch)
        write()
    return list(numbers), num_words


def _renumber(
    path: Path, names: list[Any], min_count: int, max_vocab: int | None
) -> tuple[list[str], list[int]]:
    """Turns the numbers of a file into ids in place, and gives the words by id and their counts."""
    if not path.stat().st_size:
        raise InputError("there is no sentence: a corpus needs words")
    numbers = np.memmap(path, _IDS, "r+")
    starts = range(0, len(numbers), _CHUNK_IDS)
    counts = np.zeros(len(names), np.int64)
    for start in starts:
        counts += np.bincount(numbers[start : start + _CHUNK_IDS], minlength=len(names))
    counts[0] = 0
    kept = np.flatnonzero(counts >= min_count).tolist()
    if not kept:
        most = f"the most frequent of {len(names) - 1} is there {counts.max()} times"
        raise InputError(f"no word is seen min_count = {min_count} times ({most}): lower it")
    for number in kept:
        _check_word(names[number])
    kept = sorted(kept, key=lambda number: (-counts[number], names[number]))[:max_vocab]

    id_of = np.full(len(names), _LEFT_OUT, _IDS)
    id_of[0] = END
    id_of[kept] = np.arange(len(kept))
    size, last = 0, np.array([END], _IDS)
    for start in starts:  # what is written never overtakes what is read
        ids = id_of[numbers[start : start + _CHUNK_IDS]]
        ids = ids[ids != _LEFT_OUT]
        before = np.concatenate([last, ids])
        last = before[-1:]
        ids = ids[(ids != END) | (before[:-1] != END)]  # no sentence is empty
        numbers[size : size + len(ids)] = ids
        size += len(ids)
    numbers.flush()
    del numbers
    with path.open("r+b") as file:
        file.truncate(size * _IDS.itemsize)
        os.fsync(file.fileno())
    return [names[number] for number in kept], counts[kept].tolist()


def _check_word(word: Any) -> None:
    if not isinstance(word, str):
        raise ValueError(f"a word must be a str, got {word!r}")
    if word.split() != [word]:
        raise ValueError(f"a word must neither be empty nor hold white space, got {word[:40]!r}")
    try:
        word.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"a word must be text that UTF-8 can hold, got {word[:40]!r}") from error


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_sidecar(path: Path) -> dict[str, Any]:
    """What was noted beside a corpus.

    Raises:
      InputError: nothing, or something else, or it is damaged.
    """
    sidecar = _sidecar(path)
    if path.exists() and not sidecar.exists():
        raise InputError(f"{path} is no corpus: {sidecar.name} is not beside it; name another file")
    noted = read_object(sidecar)
    if noted.get("kind") != _KIND:
        raise InputError(f"{sidecar} is not of a corpus: kind {noted.get('kind')!r}, not {_KIND!r}")
    if noted.pop("digest", None) != _digest(noted):
        raise InputError(f"{sidecar} is damaged: remove it and {path.name}, and encode anew")
    return noted


def _digest(content: dict[str, Any]) -> str:
    return text_digest(json.dumps(content, sort_keys=True))
