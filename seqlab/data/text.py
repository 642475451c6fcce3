"""Texts, and windows of them to train on."""

import csv
import hashlib
import io
import re
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from seqlab.data import sources
from seqlab.data.checks import check_at_least, check_known
from seqlab.errors import InputError
from seqlab.files import name_of, numbered_lines

PARTS = ("train", "valid", "test")


def load_text(dataset: str | None = None, corpus: Path | None = None) -> str:
    r"""Text to train on, line ends as "\n".

    Args:
      dataset: "embedded" (the default) or "tinyshakespeare", whole; or the training part of one
        that `text_parts` names. All but the first are fetched or read from a mirror.
      corpus: the user's own UTF-8 file instead; a byte order mark is dropped.

    Raises:
      InputError: both given; unknown data set; a file that is missing, a folder, empty or not
        UTF-8; or what `sources.fetch` raises.
    """
    if corpus is not None:
        if dataset is not None:
            raise InputError(f"give either dataset ({dataset}) or corpus ({corpus}), not both")
        return read_utf8(Path(corpus))
    name = "embedded" if dataset is None else dataset
    check_known(name, TEXTS, "dataset")
    return _WHOLE[name]() if name in _WHOLE else _IN_PARTS[name]()["train"]


def text_parts(dataset: str, corpus: Path | None = None) -> dict[str, str]:
    """A text's parts "train", "valid" and "test", each as `load_text` gives it.

    | data set | a line | parts |
    |---|---|---|
    | ptb | a sentence of the Penn Treebank | its own three files |
    | wikitext-2, wikitext-103 | a paragraph or heading of Wikipedia | their own three files |
    | korean | a question or, below it, its answer, in Korean | 90, 5 and 5 % |
    | bilingual | an English sentence or, below it, its Korean | 90, 5 and 5 % |

    The files of the last two are sorted, and one answer serves many questions: pairs that have a
    line in common stay together, and what is left is put in the order of a hash. Any other text
    is cut in order at 90 and 95 % of its lines. So no line of these two is in two parts, and
    no line of another text is cut in two.

    Raises:
      InputError: as `load_text`; or a text of fewer than 20 lines.
    """
    if dataset in _IN_PARTS and corpus is None:
        return _IN_PARTS[dataset]()
    text = load_text(dataset, None) if corpus is None else load_text(None, corpus)
    if corpus is not None and dataset != "embedded":
        raise InputError(f"give either dataset ({dataset}) or corpus ({corpus}), not both")
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    if len(lines) < 20:
        raise InputError(f"text of {len(lines)} lines is too short to be cut in three parts")
    cuts = part_cuts(len(lines))
    return {
        part: "".join(lines[a:b]) for part, a, b in zip(PARTS, cuts[:-1], cuts[1:], strict=True)
    }


def text_blocks(path: Path | str, block_bytes: int = 1 << 24) -> Iterator[str]:
    r"""A file's text in blocks of whole lines, for files that are larger than memory.

    Line ends and a byte order mark are read as `load_text` reads them. A block has about
    `block_bytes` bytes, and more where a single line has. Files whose names end in ".gz" are
    unpacked on the way.

    Raises:
      InputError: a file that cannot be read, is empty or not UTF-8, naming the line.
    """
    check_at_least(block_bytes, 1, "block_bytes")
    path = Path(path)
    lines, size, is_empty = [], 0, True
    for number, line in numbered_lines(path):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not UTF-8: byte 0x{line[error.start]:02x}, line {number}; save it as "
                "UTF-8"
            ) from error
        lines.append(text.removeprefix("\N{BYTE ORDER MARK}") if number == 1 else text)
        size += len(line)
        is_empty = is_empty and not text.strip()
        if size >= block_bytes:
            yield _with_plain_ends("".join(lines))
            lines, size = [], 0
    if is_empty:
        raise InputError(f"{path} is empty")
    if lines:
        yield _with_plain_ends("".join(lines))


def embedded_text() -> str:
    """English prose that every Python carries: the topics of `help()`, about 65,000 words.

    They are sections of the Python language reference, joined in the order of their names. Lines
    that only rule a heading or a table off, trailing blanks and repeated empty lines are left out.

    About a fifth of the text occurs twice, since many sections are topics beside the chapter they
    belong to: a part of it that is held out is not unseen. It differs between Python versions:
    record its `text_digest` beside a result.

    Raises:
      InputError: this Python was installed without `pydoc_data`.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "dataset embedded: this Python lacks pydoc_data.topics; give a corpus file instead"
        ) from error
    sections = "\n\n".join(topics[name].strip() for name in sorted(topics))
    lines = [line.rstrip() for line in sections.split("\n")]
    text = "\n".join(line for line in lines if not re.fullmatch(r"[*=~^+|\- ]{3,}", line))
    return re.sub(r"\n{3,}", "\n\n", text) + "\n"


def text_digest(text: str) -> str:
    """The sha256 of a text in UTF-8, hexadecimal: which text a run has used."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sample_windows(
    ids: np.ndarray, rng: np.random.Generator, count: int, length: int
) -> np.ndarray:
    """Windows at uniformly random places of a text, [count, length]; they may overlap.

    Args:
      ids: the text, [N]. A window for next-step prediction needs one id more than it has steps.
      rng: source of the places.
      count: number of windows.
      length: ids in each.

    Raises:
      InputError: the text is shorter than one window.
    """
    check_at_least(count, 1, "number of windows")
    check_at_least(length, 1, "window length")
    if len(ids) < length:
        raise InputError(f"text of length {len(ids)} is shorter than a window of length {length}")
    starts = rng.integers(len(ids) - length, size=count, endpoint=True)
    return np.asarray(ids)[starts[:, None] + np.arange(length)]


def _penn_treebank() -> dict[str, str]:
    files = sources.fetch("ptb")
    return {part: read_utf8(files[f"ptb.{part}.txt"]) for part in PARTS}


def _wikitext(name: str) -> dict[str, str]:
    (path,) = sources.fetch(name).values()
    with zipfile.ZipFile(path) as archive:
        return {
            part: _with_plain_ends(archive.read(f"{name}/wiki.{part}.tokens").decode("utf-8"))
            for part in PARTS
        }


def _korean() -> dict[str, str]:
    return _joined(pairs_in_parts((row["Q"], row["A"]) for row in chatbot_rows()))


def _bilingual() -> dict[str, str]:
    text = read_utf8(sources.fetch("tatoeba_en_ko")["kor.txt"])
    rows = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    return _joined(pairs_in_parts((english, korean) for english, korean, *_ in rows))


def pairs_in_parts(pairs: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of lines in the parts "train", "valid" and "test": 90, 5 and 5 % of their groups.

    Pairs that have a line in common are one group, so that no line is in two parts. The order is
    that of a hash, which no version of anything changes.

    Args:
      pairs: lines; their characters are composed (NFC), and white space is made single blanks.
    """
    # Syllables composed, whatever system wrote them; and never more than a line.
    lines = [(composed_line(one), composed_line(other)) for one, other in pairs]
    leader: dict[str, str] = {}  # of each line one that it hangs together with

    def first_of(line: str) -> str:
        while leader.setdefault(line, line) != line:
            leader[line] = leader[leader[line]]  # so that no way stays long
            line = leader[line]
        return line

    for one, other in lines:
        leader[first_of(one)] = first_of(other)
    groups: dict[str, list[tuple[str, str]]] = {}
    for one, other in lines:
        groups.setdefault(first_of(one), []).append((one, other))

    def place(group: list[tuple[str, str]]) -> str:
        return text_digest(min(f"{one}\n{other}\n" for one, other in group))

    order = sorted(groups.values(), key=place)
    cuts = part_cuts(len(order))
    return {
        part: [pair for group in order[a:b] for pair in group]
        for part, a, b in zip(PARTS, cuts[:-1], cuts[1:], strict=True)
    }


def _joined(parts: dict[str, list[tuple[str, str]]]) -> dict[str, str]:
    """Each part's pairs as a text, two lines each."""
    return {
        part: "".join(f"{one}\n{other}\n" for one, other in pairs) for part, pairs in parts.items()
    }


def composed_line(text: str) -> str:
    """A text with composed characters (NFC), any white space made single blanks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def part_cuts(count: int) -> list[int]:
    """Where so many things are cut into train, valid and test, [0, 90 %, 95 %, count]."""
    return [0, count * 90 // 100, count * 95 // 100, count]


def chatbot_rows() -> Iterator[dict[str, str]]:
    """Rows of the Korean chatbot's table: question "Q", answer "A" and "label" 0, 1 or 2.

    Raises:
      InputError: as `sources.fetch`.
    """
    text = read_utf8(sources.fetch("korean_chatbot")["ChatbotData.csv"])
    return iter(csv.DictReader(io.StringIO(text)))


def read_utf8(path: Path) -> str:
    """Text of a file, line ends as in Python's text mode, without a byte order mark.

    The path "-" is standard input.

    Raises:
      InputError: a file that is missing, a folder, empty or not UTF-8.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a text file")
    is_input = str(path) == "-"
    name = name_of(path)
    try:
        content = sys.stdin.buffer.read() if is_input else path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8").removeprefix("\N{BYTE ORDER MARK}")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}, "
            f"line {line}; save it as UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{name} is empty")
    return _with_plain_ends(text)


def _with_plain_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


_WHOLE: dict[str, Callable[[], str]] = {
    "embedded": embedded_text,
    "tinyshakespeare": lambda: read_utf8(sources.fetch("tinyshakespeare")["input.txt"]),
}
_IN_PARTS: dict[str, Callable[[], dict[str, str]]] = {
    "ptb": _penn_treebank,
    "korean": _korean,
    "bilingual": _bilingual,
    "wikitext-2": lambda: _wikitext("wikitext-2"),
    "wikitext-103": lambda: _wikitext("wikitext-103"),
}
TEXTS = (*_WHOLE, *_IN_PARTS)  # every data set that is a text
