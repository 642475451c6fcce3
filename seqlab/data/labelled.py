"""Texts with one class each: sets to classify, and files or folders of the user's own.

`load_labelled("sst2")` and `load_labelled(corpus="mine.csv")` give the same thing, `Labelled`: all
texts, their labels, and which of them are to train on, to choose by and to test on.

| data set | texts | classes | parts | a new text is cut by |
|---|---|---|---|---|
| negation (the default) | made up, see `seqlab.data.negation` | 2 | made for each part | blanks |
| rt_polarity (MR) | sentences of film reviews | 2 | ten folds | words |
| sst2, sst5 | sentences of film reviews | 2, 5 | its own three | treebank |
| trec, trec_fine | questions | 6, 50 | its own train and test | treebank-cased |
| imdb | film reviews | 2 | its own train and test | words |
| korean | questions in Korean | 3 | ten folds | words |
| a corpus | | | ten folds | words |

The first four kinds come cut into words, and are cut at blanks; the others by "words". Where a set
has no part to choose by, a tenth of train is held out; where it has no test part, that is one of
ten folds. Both are stratified, depend on nothing but the seed, and keep texts that are the same
together.
"""

import csv
import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from seqlab.data import negation
from seqlab.data.checks import check_at_least, check_known
from seqlab.data.text import PARTS, chatbot_rows, read_utf8, text_digest
from seqlab.data.vocabulary import Vocabulary, Words, learn_vocabulary
from seqlab.data.words import cut_words
from seqlab.errors import InputError

NUM_FOLDS = 10
FEWEST_TEXTS = 3  # of a class: one to train on, one to choose by, one to test on
KOREAN_CLASSES = ("daily", "parting", "love")

_NEGATION_SIZES = {"train": 400, "valid": 48, "test": 200}  # of each distance, in the mean
_CSV, _TSV = ",", "\t"


@dataclass(frozen=True, eq=False)
class Labelled:
    """Texts, one class each.

    Attributes:
      name: of the data set, or of the user's file.
      classes: names of the classes; `labels` are places in it.
      texts: N of them, as they were written.
      labels: int32 [N].
      rows: which texts are of the parts "train", "valid" and "test", int64 [N] each, increasing.
      cut: the rule of `cut_words` by which the texts are cut.
      new_cut: the rule for a text that somebody types.
      num_folds: of a cross-validation, for a set without a test part of its own; or 0.
      seed: of the folds and of what is held out.
      distances: of the made-up language, the distance of each text, int32 [N].
      notes: what has to be said beside a result.
    """

    name: str
    classes: tuple[str, ...]
    texts: tuple[str, ...]
    labels: np.ndarray
    rows: dict[str, np.ndarray]
    cut: str
    new_cut: str
    num_folds: int = 0
    seed: int = 0
    distances: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> tuple[list[str], np.ndarray]:
        """Texts and labels, int32 [N], of "train", "valid" or "test".

        Raises:
          InputError: a part that there is not.
        """
        check_known(name, self.rows, "part")
        rows = self.rows[name]
        return [self.texts[row] for row in rows.tolist()], self.labels[rows]

    def fold(self, number: int) -> "Labelled":
        """The same texts with fold `number` to test on, from 0; only the `rows` are others.

        Raises:
          InputError: there is no such fold.
        """
        if not 0 <= number < self.num_folds:
            known = f"0 .. {self.num_folds - 1}" if self.num_folds else "none: it has a test part"
            raise InputError(f"{self.name} has no fold {number}; its folds are {known}")
        return replace(self, rows=_fold_rows(self.labels, self._keys, number, self.seed))

    @cached_property
    def digest(self) -> str:
        """Which texts, labels and parts these are: a sha256, hexadecimal."""
        part_of = {row: part for part, rows in self.rows.items() for row in rows.tolist()}
        rows = zip(self.texts, self.labels.tolist(), strict=True)
        lines = (f"{part_of.get(i)} {self.classes[k]} {text}" for i, (text, k) in enumerate(rows))
        return text_digest("\n".join(lines))

    @cached_property
    def _keys(self) -> list[str]:
        return _keys(self.texts)


def load_labelled(
    dataset: str = "negation",
    *,
    corpus: Path | str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    keep_shared: bool = False,
    distances: Sequence[int] = range(21),
) -> Labelled:
    """A set to classify; the module says which there are and how they are cut.

    A text of train that is in another part too is left out of train, so that the parts for choosing
    and for testing are whole and none of their texts has been seen. This matters for imdb, where
    123 texts are in both halves, and for trec, with ten; `notes` tell how many.

    Args:
      dataset: one of `DATASETS`; fetched, or read from a mirror.
      corpus: the user's own instead, see `read_corpus`.
      text_column: of a corpus.
      label_column: of a corpus.
      seed: of folds and held-out parts, and of the made-up language.
      keep_shared: whether such texts stay in train, as in most published figures.
      distances: of the made-up language, words between negator and opinion.

    Raises:
      InputError: both given; unknown data set; what `read_corpus`, `builders.load` or
        `sources.fetch` raises; a class of fewer than three texts.
    """
    if corpus is not None:
        if dataset != "negation":
            raise InputError(f"give either dataset ({dataset}) or corpus ({corpus}), not both")
        texts, names = read_corpus(corpus, text_column, label_column)
        return _own(Path(corpus), texts, names, seed)
    check_known(dataset, DATASETS, "dataset")
    if text_column is not None or label_column is not None:
        raise InputError("text_column and label_column are of a corpus: give one")
    if dataset == "negation":
        return _negation(distances, seed)
    if dataset == "korean":
        return _korean(seed)
    return _from_builder(dataset, seed, keep_shared)


def read_corpus(
    path: Path | str, text_column: str | None = None, label_column: str | None = None
) -> tuple[list[str], list[str]]:
    """Texts and names of their classes, from a table or a folder, in UTF-8.

    A folder has a folder for each class, with a file for each text; names that begin with a point
    are passed over.

    A table has a text and a class in each row. Its columns are separated by commas if its name ends
    in ".csv", by tabs if it ends in ".tsv", and else by tabs if there is one in the first line.
    Between commas, a text may stand in double quotes, and go over several lines there; between
    tabs, quotes are quotes. Empty lines are passed over. White space around the name of a class is
    none of it.

    Args:
      path: of the table or folder.
      text_column: its name in the first row, "text" by default; or its number from 1 on, in a table
        whose first row is a text already.
      label_column: likewise, "label" by default. Both have names, or both have numbers.

    Raises:
      InputError: naming the file, and the line and column where there are some: what cannot be
        read or is not UTF-8; an unknown column; a row of more or fewer columns than the first; no
        text or no class in a row; a quote that is not closed; no texts, or one class only.
    """
    path = Path(path)
    if path.is_dir():
        if text_column is not None or label_column is not None:
            raise InputError(f"{path} is a folder: it has no columns")
        texts, names = _read_folder(path)
    else:
        text_column = "text" if text_column is None else text_column
        label_column = "label" if label_column is None else label_column
        texts, names = _read_table(path, text_column, label_column)
    if len(set(names)) < 2:
        raise InputError(
            f"{path}: every text is of class {names[0]!r}; there have to be two classes or more"
        )
    return texts, names


def folds(
    labels: np.ndarray, num_folds: int, seed: int, keys: Sequence[Any] | None = None
) -> np.ndarray:
    """The fold that each example is tested in, int64 [N].

    The folds differ by one example at most, and by one of each class. The order is that of
    `RandomState(seed)`, which no numpy version changes.

    Args:
      labels: classes, [N].
      num_folds: k, the folds being 0 .. k - 1.
      seed: of the order.
      keys: examples with the same key come to the same fold, that of the first; the folds then
        differ by more.

    Raises:
      InputError: fewer than two folds, or fewer examples than folds.
    """
    check_at_least(num_folds, 2, "num_folds")
    labels = np.asarray(labels)
    firsts, group = _groups(range(len(labels)) if keys is None else keys)
    check_at_least(len(firsts), num_folds, "number of distinct examples", f"{num_folds} folds")
    order = np.random.RandomState(seed).permutation(len(firsts))
    by_class = order[np.argsort(labels[firsts][order], kind="stable")]
    fold_of_group = np.empty(len(firsts), np.int64)
    # Dealt out class after class without beginning anew: classes and folds are even at once.
    fold_of_group[by_class] = np.arange(len(firsts)) % num_folds
    return fold_of_group[group]


def class_vocabulary(
    data: Labelled, level: str = "word", *, min_count: int = 1, max_size: int | None = None
) -> Vocabulary:
    """The vocabulary of a set's training part: of its "word"s, or of "char" or "subword".

    Args:
      data: the set; its other parts are not read.
      level: what a token is.
      min_count: words seen less often are left out.
      max_size: of words, or of byte pairs: None for all words and for 2000 byte pairs.

    Raises:
      InputError: an unknown level, or as the vocabulary's own `of`.
    """
    check_known(level, ("word", "char", "subword"), "level")
    texts, _ = data.part("train")
    pieces = (_as_read(text, data.cut if level == "word" else None) for text in texts)
    return learn_vocabulary(" ".join(pieces), level, min_count=min_count, max_size=max_size)


def encode_texts(vocabulary: Vocabulary, texts: Iterable[str], cut: str) -> list[np.ndarray]:
    """Tokens of each text, int32 [T] each; none where there is nothing but white space.

    Args:
      vocabulary: as from `class_vocabulary`.
      texts: of a set, or typed by somebody.
      cut: `Labelled.cut` or `Labelled.new_cut`, the rule for a vocabulary of words.
    """
    rule = cut if isinstance(vocabulary, Words) else None
    return [vocabulary.encode(_as_read(text, rule)) for text in texts]


def _as_read(text: str, cut: str | None) -> str:
    """A text as a vocabulary reads it: its words with blanks between, or its characters."""
    if cut is None:
        return unicodedata.normalize("NFC", text.strip())
    return " ".join(cut_words(text, cut))


def _keys(texts: Iterable[str]) -> list[str]:
    """What makes two texts the same: all but their white space."""
    return [" ".join(text.split()) for text in texts]


def _groups(keys: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each distinct key, and which of them each place has."""
    number: dict[Any, int] = {}
    firsts, group = [], []
    for place, key in enumerate(keys):
        if key not in number:
            number[key] = len(number)
            firsts.append(place)
        group.append(number[key])
    return np.array(firsts, np.int64), np.array(group, np.int64)


def _fold_rows(
    labels: np.ndarray, keys: Sequence[str], number: int, seed: int
) -> dict[str, np.ndarray]:
    """Parts of a set whose fold `number` is test; of the others a tenth is to choose by."""
    is_test = folds(labels, NUM_FOLDS, seed, keys) == number
    train, valid = _held_out(labels, keys, np.flatnonzero(~is_test), seed + 1)
    return {"train": train, "valid": valid, "test": np.flatnonzero(is_test)}


def _held_out(
    labels: np.ndarray, keys: Sequence[str], rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows without a tenth of them, and that tenth."""
    is_valid = folds(labels[rows], NUM_FOLDS, seed, [keys[row] for row in rows.tolist()]) == 0
    return rows[~is_valid], rows[is_valid]


def _in_folds(name, classes, texts, labels, seed, notes=()) -> Labelled:
    """A set without a test part of its own, its first fold to test on."""
    note = f"no test part of its own: fold 0 of {NUM_FOLDS} is test, a tenth of the others valid"
    return Labelled(
        name=name,
        classes=tuple(classes),
        texts=tuple(texts),
        labels=labels,
        rows=_fold_rows(labels, _keys(texts), 0, seed),
        cut="words",
        new_cut="words",
        num_folds=NUM_FOLDS,
        seed=seed,
        notes=(*notes, note),
    )


def _negation(distances: Sequence[int], seed: int) -> Labelled:
    made = [
        negation.negation_sentences(
            np.random.default_rng([seed, number]),
            size * len(distances),
            distances,
            near_more_often=part == "train",
        )
        for number, (part, size) in enumerate(_NEGATION_SIZES.items())
    ]
    ends = np.cumsum([len(each.texts) for each in made])
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    return Labelled(
        name="negation",
        classes=negation.CLASSES,
        texts=tuple(text for each in made for text in each.texts),
        labels=np.concatenate([each.labels for each in made]),
        rows=dict(zip(_NEGATION_SIZES, rows, strict=True)),
        cut="blanks",
        new_cut="words",
        seed=seed,
        distances=np.concatenate([each.distances for each in made]),
        notes=("generated",),
    )


def _korean(seed: int) -> Labelled:
    rows = list(chatbot_rows())
    labels = np.array([int(row["label"]) for row in rows], np.int32)  # one has blanks behind it
    return _in_folds("korean", KOREAN_CLASSES, [row["Q"] for row in rows], labels, seed)


def _from_builder(dataset: str, seed: int, keep_shared: bool) -> Labelled:
    from seqlab.data import builders  # heavy: TFDS

    name, label = ("trec", "fine_label") if dataset == "trec_fine" else (dataset, "label")
    builder: Any = builders.BUILDERS[name]
    classes = builder.FINE_CLASSES if dataset == "trec_fine" else builder.CLASSES
    texts: list[str] = []
    labels: list[int] = []
    rows: dict[str, np.ndarray] = {}
    for part, split in _SPLITS[dataset].items():
        first = len(texts)
        for example in builders.load(name, split):
            texts.append(example["text"].replace("<br />", " "))
            labels.append(int(example[label]))
        rows[part] = np.arange(first, len(texts))
    found = np.array(labels, np.int32)
    cut = "words" if dataset == "imdb" else "blanks"
    if list(rows) == ["train"]:
        data = _in_folds(dataset, classes, texts, found, seed)
        return replace(data, cut=cut, new_cut=_NEW_CUTS[dataset])
    rows, notes = _kept_apart(_keys(texts), found, rows, seed, keep_shared)
    return Labelled(
        name=dataset,
        classes=tuple(classes),
        texts=tuple(texts),
        labels=found,
        rows=rows,
        cut=cut,
        new_cut=_NEW_CUTS[dataset],
        seed=seed,
        notes=notes,
    )


def _kept_apart(
    keys: list[str], labels: np.ndarray, rows: dict[str, np.ndarray], seed: int, keep_shared: bool
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Parts of which none has seen another's texts, and what is to be said of it."""
    notes = []
    others = {keys[row] for part, each in rows.items() if part != "train" for row in each.tolist()}
    is_shared = np.array([keys[row] in others for row in rows["train"].tolist()])
    if is_shared.any():
        parts = " or ".join(part for part in rows if part != "train")
        done = "kept" if keep_shared else "left out"
        notes.append(
            f"{is_shared.sum()} texts of train are in {parts} too, and are {done} in train"
        )
    train = rows["train"] if keep_shared else rows["train"][~is_shared]
    if "valid" in rows:
        return {**rows, "train": train}, tuple(notes)
    train, valid = _held_out(labels, keys, train, seed + 1)
    notes.append("no part of its own to choose by: a tenth of train is valid")
    return {"train": train, "valid": valid, "test": rows["test"]}, tuple(notes)


def _own(path: Path, texts: list[str], names: list[str], seed: int) -> Labelled:
    """The user's texts as a set."""
    classes = sorted(set(names), key=_class_order(names))
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], np.int32)
    firsts, _ = _groups(_keys(texts))
    sizes = np.bincount(labels[firsts], minlength=len(classes))
    if sizes.min() < FEWEST_TEXTS:
        raise InputError(
            f"{path}: class {classes[sizes.argmin()]!r} has {sizes.min()} distinct texts, "
            f"{FEWEST_TEXTS} or more are needed; is its column the right one, and has the first "
            "row names of columns (then give names, not numbers)?"
        )
    check_at_least(len(firsts), 2 * NUM_FOLDS, f"{path}: number of distinct texts")
    return _in_folds(path.name, classes, texts, labels, seed)


def _class_order(names: Iterable[str]) -> Callable[[str], Any]:
    """Whole numbers by size, other names by their characters."""
    return int if all(name.isdecimal() for name in names) else str


def _read_folder(path: Path) -> tuple[list[str], list[str]]:
    texts, names = [], []
    for folder in sorted(path.iterdir()):
        if folder.name.startswith("."):
            continue
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; {path} has to have a folder for each class")
        files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
        if not files:
            raise InputError(f"{folder} holds no text")
        texts += [read_utf8(file) for file in files]
        names += [folder.name] * len(files)
    if not texts:
        raise InputError(f"{path} is empty; it has to have a folder for each class")
    return texts, names


def _read_table(path: Path, text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    rows = list(_table_rows(path, read_utf8(path)))
    first_line, first = rows[0]
    columns = {"text_column": text_column, "label_column": label_column}
    are_numbers = {column.isdecimal() for column in columns.values()}
    if len(are_numbers) == 2:
        raise InputError(
            f"give names or numbers for both columns, not text_column {text_column} and "
            f"label_column {label_column}"
        )
    if are_numbers.pop():
        header = [str(number) for number in range(1, len(first) + 1)]
    else:
        header = [name.strip() for name in first]
        rows = rows[1:]
    places = [_place(path, header, column) for column in columns.values()]
    if places[0] == places[1]:
        raise InputError(f"{path}: text_column and label_column are both {text_column}")
    if not rows:
        raise InputError(f"{path} has no row below its names of columns")
    found: tuple[list[str], list[str]] = ([], [])
    for line, fields in rows:
        if len(fields) != len(first):
            raise InputError(
                f"{path}, line {line}: {len(fields)} columns, but line {first_line} has "
                f"{len(first)}; between commas, a text that has one itself stands in double quotes"
            )
        for values, place, what in zip(found, places, ("text", "class"), strict=True):
            if not fields[place].strip():
                raise InputError(f"{path}, line {line}, column {header[place]}: no {what}")
            values.append(fields[place].strip())
    return found


def _place(path: Path, header: list[str], column: str) -> int:
    check_known(column, header, f"column of {path}")
    if header.count(column) > 1:
        raise InputError(f"{path}: {header.count(column)} columns have the name {column}")
    return header.index(column)


def _table_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, fields) of each row; not of empty lines."""
    first_line = text.lstrip("\n").partition("\n")[0]
    separators = {".csv": _CSV, ".tsv": _TSV}
    separator = separators.get(path.suffix.lower(), _TSV if _TSV in first_line else _CSV)
    if separator == _TSV:
        for line, row in enumerate(text.split("\n"), start=1):
            if row.strip():
                yield line, row.split(_TSV)
        return
    limit = csv.field_size_limit(len(text) + 1)  # Python's own is 131,072 characters of a field
    reader = csv.reader(io.StringIO(text), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}; is a quote not closed there?") from error
    finally:
        csv.field_size_limit(limit)


# The splits of a builder that are a set's parts.
_SPLITS = {
    "rt_polarity": {"train": "train"},
    "sst2": dict(zip(PARTS, ("train", "validation", "test"), strict=True)),
    "sst5": dict(zip(PARTS, ("train", "validation", "test"), strict=True)),
    "trec": {"train": "train", "test": "test"},
    "trec_fine": {"train": "train", "test": "test"},
    "imdb": {"train": "train", "test": "test"},
}
_NEW_CUTS = {
    "rt_polarity": "words",
    "sst2": "treebank",
    "sst5": "treebank",
    "trec": "treebank-cased",
    "trec_fine": "treebank-cased",
    "imdb": "words",
}
DATASETS = ("negation", *_SPLITS, "korean")
