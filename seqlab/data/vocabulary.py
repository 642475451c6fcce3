"""Vocabularies: texts as numbers and back, by characters, words or byte pairs.

Every vocabulary begins with the same four special tokens: `<pad>` (0), `<unk>` (1), `<sos>` (2) and
`<eos>` (3). No text can spell them: only the arguments of `encode`, `encode_lines` and the batching
put `<pad>`, `<sos>` and `<eos>` into ids.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from seqlab.data.checks import check_at_least
from seqlab.errors import InputError
from seqlab.files import write_whole

SPECIALS = ("<pad>", "<unk>", "<sos>", "<eos>")
PAD, UNK, SOS, EOS = range(len(SPECIALS))
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what cannot be shown is shown as


class Vocabulary(ABC):
    """Texts to ids and back. A frozen value: equal vocabularies give equal ids.

    A subclass is a frozen dataclass that says how a text is cut (`_ids`), how ids read (`_text`),
    what its tokens are and what is written of it (`to_json`).
    """

    @property
    @abstractmethod
    def tokens(self) -> tuple[str, ...]:
        """All tokens by id, the special ones first."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All of it in plain JSON values; `vocabulary_from_json` is the inverse."""

    @abstractmethod
    def _ids(self, text: str) -> np.ndarray:
        """Ids of a text, int32 [N], without PAD, SOS or EOS."""

    @abstractmethod
    def _text(self, ids: np.ndarray) -> str:
        """Text of ids that hold no PAD, SOS or EOS."""

    def __len__(self) -> int:
        """V, the number of ids, the special ones included."""
        return len(self.tokens)

    def token(self, token_id: int) -> str:
        """The token of an id, for showing.

        Raises:
          ValueError: an id outside 0 .. len(self) - 1.
        """
        if not 0 <= token_id < len(self):
            raise ValueError(f"id must be in 0 .. {len(self) - 1}, got {token_id}")
        return self.tokens[token_id]

    def encode(self, text: str, *, sos: bool = False, eos: bool = False) -> np.ndarray:
        """Ids of a text, int32 [N].

        Args:
          text: any text; what the vocabulary lacks becomes UNK.
          sos: whether SOS is put before it.
          eos: whether EOS is put after it.
        """
        first, last = [SOS] * sos, [EOS] * eos
        return np.concatenate([first, self._ids(text), last], dtype=np.int32, casting="unsafe")

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """Text of ids [N]; PAD, SOS and EOS are left out.

        Raises:
          ValueError: not one axis of whole numbers in 0 .. len(self) - 1.
        """
        ids = self._checked(ids)
        return self._text(ids[(ids != PAD) & (ids != SOS) & (ids != EOS)])

    def encode_lines(self, text: str) -> np.ndarray:
        r"""Ids of a text whose lines end with "\n", EOS in the place of every line end, int32 [N].

        The stream that word language models are trained on. An empty line is an EOS alone, and
        a last line without an end gets one.
        """
        lines = text.removesuffix("\n").split("\n") if text else []
        parts = [np.zeros(0, np.int32), *(self.encode(line, eos=True) for line in lines)]
        return np.concatenate(parts)

    def decode_lines(self, ids: np.ndarray | Sequence[int]) -> str:
        r"""Text of ids [N] with "\n" for every EOS; PAD and SOS are left out.

        Raises:
          ValueError: an id that the vocabulary has not.
        """
        ids = self._checked(ids)
        ends = np.flatnonzero(ids == EOS)
        return "\n".join(self.decode(line) for line in np.split(ids, ends))

    @cached_property
    def digest(self) -> str:
        """Which vocabulary this is: the sha256 of its JSON, hexadecimal."""
        content = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    def save(self, path: Path | str) -> None:
        """Writes a JSON file, whole or not at all; `load_vocabulary` reads it.

        Raises:
          InputError: the file cannot be written.
        """
        path = Path(path)
        content = {**self.to_json(), "digest": self.digest}
        try:
            write_whole(path, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error

    def _checked(self, ids: np.ndarray | Sequence[int]) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ValueError(
                f"ids must be one axis of whole numbers, got {ids.dtype} {list(ids.shape)}"
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
            raise ValueError(f"ids must be in 0 .. {len(self) - 1}, got {ids.min()} .. {ids.max()}")
        return ids.astype(np.int64)


@dataclass(frozen=True)
class Characters(Vocabulary):
    """Vocabulary of single characters: code points, not what a reader may see as one letter.

    Any of them: Hangul syllables and jamo each as it stands, NUL, lone surrogates. A character
    outside the vocabulary is UNK, and UNK is decoded to U+FFFD: texts keep their length.

    Attributes:
      symbols: the distinct characters in code point order; `symbols[i]` has the id 4 + i.

    Raises:
      ValueError: symbols that are not sorted and distinct.
    """

    symbols: str

    def __post_init__(self):
        """Holds `symbols` to what it is documented to be."""
        if list(self.symbols) != sorted(set(self.symbols)):
            raise ValueError(f"symbols must be sorted and distinct, got {self.symbols[:40]!r}")

    @classmethod
    def of(cls, text: str) -> "Characters":
        """The vocabulary of all characters in a text.

        Raises:
          InputError: an empty text.
        """
        if not text:
            raise InputError("text is empty: a vocabulary of characters needs at least one")
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        """V, the number of ids, the special ones included."""
        return len(SPECIALS) + len(self.symbols)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens by id, the special ones first."""
        return (*SPECIALS, *self.symbols)

    def to_json(self) -> dict[str, Any]:
        """All of it in plain JSON values; `vocabulary_from_json` is the inverse."""
        return {"kind": "characters", "symbols": _plain(self.symbols)}

    @cached_property
    def _known(self) -> np.ndarray:
        return _code_points(self.symbols)

    def _ids(self, text: str) -> np.ndarray:
        codes = _code_points(text)
        if not self.symbols:
            return np.full(len(codes), UNK, np.int32)
        places = np.minimum(np.searchsorted(self._known, codes), len(self._known) - 1)
        ids = np.where(self._known[places] == codes, places + len(SPECIALS), UNK)
        return ids.astype(np.int32)

    def _text(self, ids: np.ndarray) -> str:
        special = [UNKNOWN_CHARACTER] * len(SPECIALS)
        codes = np.concatenate([_code_points("".join(special)), self._known])[ids]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(frozen=True)
class Words(Vocabulary):
    """Vocabulary of words: whatever stands between white space, as `str.split` cuts it.

    A word outside the vocabulary is UNK. So is a literal `<unk>`, which is how Penn Treebank writes
    a word that its own vocabulary lacks, and so are the other special tokens where a text spells
    them. UNK is decoded to `<unk>`; words are joined by single blanks.

    Attributes:
      words: the distinct words; `words[i]` has the id 4 + i.

    Raises:
      ValueError: words that are not distinct, hold white space or are special tokens.
    """

    words: tuple[str, ...]

    def __post_init__(self):
        """Holds `words` to what it is documented to be."""
        if len(set(self.words)) != len(self.words):
            repeated = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words must be distinct, {repeated[:40]!r} is not")
        for word in self.words:
            if word.split() != [word] or word in SPECIALS:
                raise ValueError(
                    f"words must be neither special nor hold blanks, got {word[:40]!r}"
                )

    @classmethod
    def of(
        cls, text: str | Iterable[str], *, min_count: int = 1, max_size: int | None = None
    ) -> "Words":
        """The most frequent words of a text, most frequent first, ties in code point order.

        Args:
          text: at least one word in it; or pieces of it, cut between words.
          min_count: words seen less often are left out.
          max_size: `len` of the vocabulary at most, its four special tokens included.

        Raises:
          InputError: a text that leaves no word, or a limit that allows none.
        """
        check_at_least(min_count, 1, "min_count")
        if max_size is not None:
            check_at_least(max_size, len(SPECIALS) + 1, "max_size", "four ids are special")
        counts = Counter()
        for piece in [text] if isinstance(text, str) else text:
            counts.update(piece.split())
        for special in SPECIALS:
            counts.pop(special, None)
        if not counts:
            raise InputError("text has no words: a vocabulary of words needs at least one")
        kept = [(-count, word) for word, count in counts.items() if count >= min_count]
        if not kept:
            raise InputError(
                f"min_count {min_count} leaves no word: the most frequent one is seen "
                f"{max(counts.values())} times; give a smaller min_count"
            )
        limit = None if max_size is None else max_size - len(SPECIALS)
        return cls(tuple(word for _, word in islice(sorted(kept), limit)))

    def __len__(self) -> int:
        """V, the number of ids, the special ones included."""
        return len(SPECIALS) + len(self.words)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """All tokens by id, the special ones first."""
        return (*SPECIALS, *self.words)

    def to_json(self) -> dict[str, Any]:
        """All of it in plain JSON values; `vocabulary_from_json` is the inverse."""
        return {"kind": "words", "words": [_plain(word) for word in self.words]}

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, start=len(SPECIALS))}

    def _ids(self, text: str) -> np.ndarray:
        id_of = self._id_of
        return np.array([id_of.get(word, UNK) for word in text.split()], np.int32)

    def _text(self, ids: np.ndarray) -> str:
        return " ".join([self.tokens[i] for i in ids.tolist()])


@dataclass(frozen=True)
class BytePairs(Vocabulary):
    """Byte-level byte pair encoding: any text in few ids, without unknown characters or losses.

    A text is cut in front of blanks, letters, digits and signs as GPT-2 does; within a piece, the
    bytes of its UTF-8 are joined pair by pair in the order of `merges`. NUL, U+2581 and the special
    tokens' spellings are bytes like others; a lone surrogate is three bytes that are never joined.
    Ids that are not UTF-8 together, as a model may emit, are decoded with U+FFFD for what cannot be
    read; so is UNK, which `encode` never gives.

    Byte b has the id 4 + b. Each merge makes the next id, unless its bytes are a token already.

    Needs `tokenizers` (extra `subword`) to learn and to encode, not to decode.

    Attributes:
      merges: pairs of ids to be joined, in order.

    Raises:
      ValueError: merges that are not distinct, or of an id that is not there yet.

    References: Sennrich et al., 2016 (byte pair encoding); Radford et al., 2019 (of bytes).
    """

    merges: tuple[tuple[int, int], ...]

    def __post_init__(self):
        """Holds `merges` to what it is documented to be."""
        if len(set(self.merges)) != len(self.merges):
            raise ValueError("merges must be distinct")
        self._pieces  # noqa: B018 reads every merge

    @classmethod
    def of(cls, text: str, *, size: int) -> "BytePairs":
        """The vocabulary of a text's most frequent byte pairs; the same for the same text.

        Args:
          text: what to learn from.
          size: `len` of the vocabulary at most, with its four special tokens and 256 bytes; it is
            smaller where the text runs out of pairs that are seen twice.

        Raises:
          InputError: an empty text, too small a size, or `tokenizers` is not installed.
        """
        check_at_least(size, _FIRST_MERGE, "size", "four special tokens and 256 bytes")
        if not text:
            raise InputError("text is empty: a vocabulary of byte pairs has nothing to learn from")
        tokenizer = _byte_pair_tokenizer({}, [])
        trainer = _tokenizers().trainers.BpeTrainer(
            vocab_size=size - len(SPECIALS),
            min_frequency=2,
            # None here: a special token's spelling in the text would be taken for the token.
            special_tokens=[],
            initial_alphabet=sorted(_BYTE_NAMES),
            show_progress=False,
        )
        tokenizer.train_from_iterator((run for run, _ in _runs(text)), trainer)
        id_of = {name: len(SPECIALS) + byte for byte, name in enumerate(_BYTE_NAMES)}
        merges = []
        for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
            merges.append((id_of[left], id_of[right]))
            id_of.setdefault(left + right, len(SPECIALS) + len(id_of))
        return cls(tuple(merges))

    def __len__(self) -> int:
        """V, the number of ids, the special ones included."""
        return len(self._pieces)

    @cached_property
    def utf8_steps(self) -> np.ndarray:
        """What may follow what for ids to be UTF-8 together: state after each id, int8 [8, V].

        A text begins in state 0 and may end there; -1 is an id that is no UTF-8 after what was
        before, and so is every special token. Given to `sample`, no broken character is written.
        """
        return np.array(
            [
                [_utf8_state(state, piece) if i >= len(SPECIALS) else -1
                 for i, piece in enumerate(self._pieces)]
                for state in range(len(_UTF8) + 1)
            ],
            np.int8,
        )  # fmt: skip

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        r"""All tokens by id, the special ones first; bytes that are not UTF-8 shown as "\xed"."""
        shown = (piece.decode("utf-8", "backslashreplace") for piece in self._pieces)
        return (*SPECIALS, *islice(shown, len(SPECIALS), None))

    def to_json(self) -> dict[str, Any]:
        """All of it in plain JSON values; `vocabulary_from_json` is the inverse."""
        return {"kind": "byte-pairs", "merges": [list(pair) for pair in self.merges]}

    @cached_property
    def _pieces(self) -> tuple[bytes, ...]:
        """The bytes of every id."""
        unknown = UNKNOWN_CHARACTER.encode()
        pieces = [unknown] * len(SPECIALS) + [bytes([byte]) for byte in range(256)]
        known = set(pieces[len(SPECIALS) :])
        for left, right in self.merges:
            if not (len(SPECIALS) <= min(left, right) and max(left, right) < len(pieces)):
                raise ValueError(f"merge ({left}, {right}) joins ids that are not there yet")
            piece = pieces[left] + pieces[right]
            if piece not in known:
                known.add(piece)
                pieces.append(piece)
        return tuple(pieces)

    @cached_property
    def _tokenizer(self) -> Any:
        """The same in `tokenizers`, whose ids have no special ones before them."""
        names = ["".join(_BYTE_NAMES[byte] for byte in piece) for piece in self._pieces]
        id_of = {name: i for i, name in enumerate(names[len(SPECIALS) :])}
        merges = [(names[left], names[right]) for left, right in self.merges]
        return _byte_pair_tokenizer(id_of, merges)

    def _ids(self, text: str) -> np.ndarray:
        ids = []
        for run, surrogates in _runs(text):
            ids += self._tokenizer.encode(run).ids
            ids += surrogates.encode("utf-8", "surrogatepass")
        return np.array(ids, np.int32) + np.int32(len(SPECIALS))

    def _text(self, ids: np.ndarray) -> str:
        content = b"".join([self._pieces[i] for i in ids.tolist()])
        try:
            return content.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return content.decode("utf-8", "replace")


def learn_vocabulary(
    text: str, level: str, *, min_count: int = 1, max_size: int | None = None
) -> Vocabulary:
    """The vocabulary of a text at a level: "char", "word", or "subword" for byte pairs.

    Args:
      text: what to learn from.
      level: what a token is.
      min_count: words seen less often are left out.
      max_size: of words, or of byte pairs: None for all words and for 2000 byte pairs.

    Raises:
      InputError: as the vocabulary's own `of`.
    """
    if level == "char":
        return Characters.of(text)
    if level == "subword":
        return BytePairs.of(text, size=max_size or 2000)
    return Words.of(text, min_count=min_count, max_size=max_size)


def encode_text(vocabulary: Vocabulary, text: str) -> np.ndarray:
    """Ids of a text, int32 [N]; of words, with <eos> at the end of each line."""
    is_words = isinstance(vocabulary, Words)
    return vocabulary.encode_lines(text) if is_words else vocabulary.encode(text)


def vocabulary_from_json(value: Any) -> Vocabulary:
    """The vocabulary that `to_json` has written.

    Raises:
      InputError: no such kind of vocabulary, or values that make none.
    """
    fields = {"characters": "symbols", "words": "words", "byte-pairs": "merges"}
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in fields:
        raise InputError(f"not a vocabulary: its kind is {kind!r}, known: {', '.join(fields)}")
    field = fields[kind]
    content = value.get(field)
    try:
        if kind == "characters":
            return Characters(_from_plain(content))
        if not isinstance(content, list):
            raise ValueError(f"expected a list, got {type(content).__name__}")
        if kind == "words":
            return Words(tuple(_from_plain(word) for word in content))
        return BytePairs(tuple((_whole(left), _whole(right)) for left, right in content))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"not a vocabulary of kind {kind}: field {field}: {error}") from error


def load_vocabulary(path: Path | str) -> Vocabulary:
    """The vocabulary of a file that `Vocabulary.save` has written.

    Raises:
      InputError: a file that is missing, damaged or something else.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        value = json.loads(content)
        vocabulary = vocabulary_from_json(value)
    except ValueError as error:  # InputError is one
        raise InputError(f"{path} is no vocabulary, or damaged: {error}") from error
    if value.get("digest") != vocabulary.digest:
        raise InputError(f"{path} is damaged: its content does not match its digest; make it anew")
    return vocabulary


def _code_points(text: str) -> np.ndarray:
    """Code point of every character, uint32 [N]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _plain(text: str) -> str | list[int]:
    """A text as JSON can hold it: one with surrogates as its code points.

    JSON reads a high surrogate and a low one after it as one character.
    """
    return [ord(char) for char in text] if _SURROGATES.search(text) else text


def _from_plain(value: Any) -> str:
    if isinstance(value, list):
        return "".join(chr(_whole(code)) for code in value)
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {type(value).__name__}")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def _utf8_state(state: int, piece: bytes) -> int:
    """The state of UTF-8 after some bytes, -1 if they are none; see `_UTF8`."""
    for byte in piece:
        if state == 0:
            starts = ((0x7F, 0), (0xC1, -1), (0xDF, 1), (0xE0, 3), (0xEC, 2), (0xED, 4), (0xEF, 2),
                      (0xF0, 5), (0xF3, 6), (0xF4, 7), (0xFF, -1))  # fmt: skip
            state = -1 if 0x80 <= byte <= 0xBF else next(s for last, s in starts if byte <= last)
        else:
            first, last, after = _UTF8[state - 1]
            state = after if first <= byte <= last else -1
        if state < 0:
            break
    return state


def _byte_names() -> tuple[str, ...]:
    """The printable character by which `tokenizers` calls each byte, as GPT-2 did.

    Bytes that Latin-1 prints are called by it, the others by the characters from 256 on.
    """
    names, spare = [], 256
    for byte in range(256):
        if 0x21 <= byte <= 0x7E or (0xA1 <= byte <= 0xFF and byte != 0xAD):
            names.append(chr(byte))
        else:
            names.append(chr(spare))
            spare += 1
    return tuple(names)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        raise InputError(
            "a vocabulary of byte pairs needs tokenizers: pip install 'seqlab[subword]' "
            "(or pip install tokenizers)"
        ) from error
    return tokenizers


def _byte_pair_tokenizer(id_of: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """A tokenizer without special tokens, so that no text can spell one."""
    tokenizers = _tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=id_of, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=True
    )
    return tokenizer


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """Stretches without lone surrogates, each with the surrogates after it."""
    start = 0
    for match in _SURROGATES.finditer(text):
        yield text[start : match.start()], match.group()
        start = match.end()
    yield text[start:], ""


_SURROGATES = re.compile("[\ud800-\udfff]+")  # halves of UTF-16, no characters, not in UTF-8
# Within a character: the first and the last byte that may follow, and the state after it. States 1
# and 2 want one and two more bytes, 3 .. 7 stand behind E0, ED, F0, F1 .. F3 and F4.
_UTF8 = ((0x80, 0xBF, 0), (0x80, 0xBF, 1), (0xA0, 0xBF, 1), (0x80, 0x9F, 1), (0x90, 0xBF, 2),
         (0x80, 0xBF, 2), (0x80, 0x8F, 2))  # fmt: skip
_BYTE_NAMES = _byte_names()
_FIRST_MERGE = len(SPECIALS) + 256
