"""Data sets as TFDS builders: prepared once, then read at random, without TensorFlow.

`load("ptb", "train[:80%]")` is all that a study needs. It prepares the set first where that has
not been done: the files that `sources.fetch` has verified are written as records to
`<folder>/<set>/<version>/`, with a manifest of every file's size, time and sha256, and the folder
takes its place in one step when it is whole. A preparation that was killed half way is never seen;
two processes that prepare the same set do it one after the other.

What is checked, and when:

| | the prepared files | the source files |
|---|---|---|
| `load` | sizes; the sha256 of a file whose time of change is not the noted one | not read |
| `prepare` | the sha256 of all | read only if the set has to be prepared |
| `verify` | the sha256 of all | the sha256 of all that are at hand |

`load` and `prepare` prepare a damaged set again, with a warning; `verify` names the files.

TFDS 4.9.10 is kept from three things. Its parquet writer drops most examples after the first 100,
and its parquet reader takes "train[:80%]" for "train": records are written and slices are taken
here. Its default format needs TensorFlow: the format is always given.
"""

import bisect
import contextlib
import itertools
import json
import logging
import operator
import os
import random
import shutil
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from seqlab.data import digits, engines, reviews, sources, tracks
from seqlab.data.checks import check_known
from seqlab.errors import InputError
from seqlab.files import sha256
from seqlab.progress import is_live, tqdm

ARRAY_RECORD, PARQUET = FORMATS = ("array_record", "parquet")
MANIFEST = "manifest.json"
ROWS_AT_ONCE = 1000  # of what is written to parquet, or read by iteration

Example = dict[str, Any]


class Builder(tfds.core.GeneratorBasedBuilder):
    """What every data set shares; a new one says its `features` and its `splits`.

    The first line of a builder's docstring says what the set is. Raise `VERSION` with every change
    to a builder: what was prepared by an earlier version is then not read any more.

    Attributes:
      name: of the set, and its key in `sources.SOURCES`.
      LICENCE: of the data, in a few words.
      CLASSES: names of the values of "label", where an example has one.
    """

    VERSION = tfds.core.Version("1.0.0")
    LICENCE = "not stated"
    CLASSES: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs):
        # Names are kept in `BUILDERS`: TFDS's own list has an "mnist" and refuses a second.
        super().__init_subclass__(skip_registration=True, **kwargs)

    def features(self) -> dict[str, Any]:
        """What an example holds: name -> feature of `tfds.features`."""
        raise NotImplementedError

    def splits(self, files: dict[str, Path]) -> dict[str, Iterable[Example]]:
        """The examples of every split, in the order in which they are to be read.

        Args:
          files: what `sources.fetch` returned, verified.
        """
        raise NotImplementedError

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=about(type(self)),
            features=tfds.features.FeaturesDict(self.features()),
            license=self.LICENCE,
            disable_shuffling=True,  # order may be meaning; shuffling is the pipeline's
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # files come from `sources` alone
        parts = self.splits(sources.fetch(self.name))
        return {split: self._generate_examples(split, part) for split, part in parts.items()}

    def _generate_examples(self, split, examples):
        key = -1
        bar = tqdm(examples, f"{self.name} {split}", disable=not is_live())
        for key, example in enumerate(bar):
            yield key, example
        if key < 0:
            raise InputError(f"{self.name}: split {split} has no example")

    def _example_writer(self):
        file_format = self.info.file_format
        assert file_format is not None
        is_parquet = file_format == tfds.core.FileFormat.PARQUET
        return (_ParquetWriter if is_parquet else tfds.core.ExampleWriter)(file_format)

    def _log_download_bytes(self):
        """Nothing: TFDS would print."""

    def _log_download_done(self):
        """Nothing: TFDS would print."""


class _ParquetWriter(tfds.core.ExampleWriter):
    """Writes every example; TFDS 4.9.10's own skips ever larger parts of what it iterates over."""

    def write(self, path, examples):
        import pyarrow
        import pyarrow.parquet

        schema = pyarrow.schema([("data", pyarrow.binary())])
        records = (record for _, record in examples)
        with pyarrow.parquet.ParquetWriter(os.fspath(path), schema) as writer:
            while rows := list(itertools.islice(records, ROWS_AT_ONCE)):
                writer.write_batch(pyarrow.record_batch([pyarrow.array(rows)], schema=schema))


BUILDERS: dict[str, type[Builder]] = {}


def register(builder: type[Builder]) -> type[Builder]:
    """Makes a builder known by its name, as a decorator; a later one of that name replaces it.

    Raises:
      ValueError: `sources.SOURCES` has no entry of that name.
    """
    if builder.name not in sources.SOURCES:
        raise ValueError(
            f"data set {builder.name!r}: give its files first, in sources.SOURCES[{builder.name!r}]"
        )
    BUILDERS[builder.name] = builder
    return builder


@register
class Ptb(Builder):
    """Penn Treebank as preprocessed by T. Mikolov, one sentence an example.

    A text is a line with its line end, so that the texts of a split, joined, are the file.
    """

    name = "ptb"
    LICENCE = "LDC99T42, no open licence: never redistributed"

    def features(self):
        return {"text": tfds.features.Text()}

    def splits(self, files):
        names = {"train": "train", "validation": "valid", "test": "test"}
        return {
            split: ({"text": line} for line in read_lines(files[f"ptb.{name}.txt"]))
            for split, name in names.items()
        }


@register
class TinyShakespeare(Builder):
    """Works of Shakespeare in one file of 1.1 million characters, one line an example.

    A text is a line with its line end, so that all texts, joined, are the file. There is no
    canonical split. This one is nanoGPT's: train is the first 90 % of the characters, and
    validation the rest; the border lies within a line, which is cut in two.
    """

    name = "tinyshakespeare"
    LICENCE = "public domain"

    def features(self):
        return {"text": tfds.features.Text()}

    def splits(self, files):
        text = "".join(read_lines(files["input.txt"]))
        border = len(text) * 9 // 10
        return {
            split: ({"text": line} for line in part.splitlines(keepends=True))
            for split, part in (("train", text[:border]), ("validation", text[border:]))
        }


@register
class Mnist(Builder):
    """MNIST, 28x28 images of handwritten digits; the official test set.

    A mirror may hold the training images in another than the official order (`sources.SOURCES`);
    the manifest names the files that were read.
    """

    name = "mnist"
    LICENCE = "CC BY-SA 3.0"

    def features(self):
        return {
            "image": tfds.features.Tensor(
                shape=(28, 28), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
            ),
            "label": tfds.features.ClassLabel(num_classes=10),
        }

    def splits(self, files):
        def examples(part):
            images, labels = digits.read_images(
                files[f"{part}-images-idx3-ubyte.gz"], files[f"{part}-labels-idx1-ubyte.gz"]
            )
            for image, label in zip(images, labels, strict=True):
                yield {"image": image, "label": int(label)}

        return {"train": examples("train"), "test": examples("t10k")}


@register
class Imdb(Builder):
    """Large Movie Review Dataset (aclImdb v1), 25,000 + 25,000 labelled and 50,000 unlabelled.

    A review is one line; `<br />` is kept. Negative and positive reviews take turns, each in the
    order of its numbers, so that "train[:90%]" is balanced. Of a review in "unsupervised" neither
    label nor rating is known: they are -1 and 0.
    """

    name = "imdb"
    LICENCE = "not stated; the authors ask to be cited"
    CLASSES = ("neg", "pos")

    def features(self):
        return {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
            "rating": tfds.features.Scalar(np.int8),
        }

    def splits(self, files):
        groups = reviews.read_reviews(files)

        def labelled(part):
            pairs = zip(groups[f"{part}_neg"], groups[f"{part}_pos"], strict=True)
            for label, review in itertools.chain.from_iterable(map(enumerate, pairs)):
                yield {"label": label, **review._asdict()}

        unlabelled = ({"label": -1, **review._asdict()} for review in groups["train_unsup"])
        return {
            "train": labelled("train"),
            "test": labelled("test"),
            "unsupervised": unlabelled,
        }


class _Sentences(Builder):
    """What sets of labelled sentences share: a text, without its line end, and its class."""

    def features(self):
        return {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
        }


@register
class RtPolarity(_Sentences):
    """Sentences of film reviews (MR), 5,331 negative and 5,331 positive; no test part of its own.

    Already cut into words by blanks, and in lower case. The files are Latin-1 and hold the byte
    0x85, at which `str.splitlines` would cut. Negative and positive sentences take turns, each in
    the order of its file, so that "train[:90%]" is balanced. Published figures are means over ten
    folds. SST was made of the same sentences: never train on one and test on the other.

    References: Pang and Lee, 2005.
    """

    name = "rt_polarity"
    LICENCE = "CC BY 4.0, as NLTK's index states"
    CLASSES = ("neg", "pos")

    def splits(self, files):
        parts = [read_lines(files[f"rt-polarity.{name}"], "latin-1") for name in self.CLASSES]
        pairs = zip(*parts, strict=True)
        examples = (
            {"text": line.removesuffix("\n"), "label": label}
            for label, line in itertools.chain.from_iterable(map(enumerate, pairs))
        )
        return {"train": examples}


class _Treebank(_Sentences):
    """Sentences of the Stanford Sentiment Treebank: a line is a label, a blank and a sentence."""

    LICENCE = "not stated"
    FILES: ClassVar[str]

    def splits(self, files):
        names = {"train": "train", "validation": "dev", "test": "test"}
        return {
            split: self.examples(files[f"{self.FILES}.{name}"]) for split, name in names.items()
        }

    def examples(self, path):
        for line in read_lines(path):
            label, text = line.removesuffix("\n").split(" ", 1)
            yield {"text": text, "label": int(label)}


@register
class Sst2(_Treebank):
    """Stanford Sentiment Treebank, negative or positive: 6,920 sentences, 872 and 1,821.

    Whole sentences only. Published figures are of models trained on the 67,000 labelled phrases
    too, and some points higher than what sentences alone give.

    References: Socher et al., 2013.
    """

    name = "sst2"
    CLASSES = ("neg", "pos")
    FILES = "stsa.binary"


@register
class Sst5(_Treebank):
    """Stanford Sentiment Treebank in five degrees: 8,544 sentences, 1,101 and 2,210.

    Whole sentences only, see `Sst2`; those of SST-2 are the ones of them that are not neutral.

    References: Socher et al., 2013.
    """

    name = "sst5"
    CLASSES = ("very negative", "negative", "neutral", "positive", "very positive")
    FILES = "stsa.fine"


@register
class Trec(Builder):
    """Questions by what they ask for, 6 classes in 50 finer ones: 5,452 and 500.

    Already cut into words by blanks, in their own case. The test part has 42 of the finer classes.
    The files are Latin-1. Ten questions of the training part occur in the test part.

    References: Li and Roth, 2002.
    """

    name = "trec"
    CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    FINE_CLASSES: ClassVar = tuple(
        f"{coarse}:{fine}"
        for coarse, finer in {
            "ABBR": "abb exp",
            "DESC": "def desc manner reason",
            "ENTY": "animal body color cremat currency dismed event food instru lang letter other "
            "plant product religion sport substance symbol techmeth termeq veh word",
            "HUM": "desc gr ind title",
            "LOC": "city country mount other state",
            "NUM": "code count date dist money ord other perc period speed temp volsize weight",
        }.items()
        for fine in finer.split()
    )

    def features(self):
        return {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=list(self.CLASSES)),
            "fine_label": tfds.features.ClassLabel(names=list(self.FINE_CLASSES)),
        }

    def splits(self, files):
        return {split: self.examples(files[f"TREC.{split}"]) for split in ("train", "test")}

    def examples(self, path):
        for line in read_lines(path, "latin-1"):
            fine, text = line.removesuffix("\n").split(" ", 1)
            yield {"text": text, "label": fine.partition(":")[0], "fine_label": fine}


@register
class Text8(Builder):
    """First 100 million characters of English Wikipedia of 2006, only a to z and single blanks.

    A text is 100,000 characters, so that all texts, joined, are the file. There is no canonical
    split. This one is that of character models: train is the first 90 % of the characters,
    validation and test 5 % each.
    """

    name = "text8"
    LICENCE = "that of Wikipedia: GFDL, since 2009 also CC BY-SA 3.0"

    def features(self):
        return {"text": tfds.features.Text()}

    def splits(self, files):
        with zipfile.ZipFile(files["text8.zip"]) as archive:
            text = archive.read("text8").decode("ascii")
        first, second = len(text) * 90 // 100, len(text) * 95 // 100
        parts = {"train": text[:first], "validation": text[first:second], "test": text[second:]}
        return {split: self.pieces(part) for split, part in parts.items()}

    def pieces(self, text):
        for start in range(0, len(text), 100_000):
            yield {"text": text[start : start + 100_000]}


@register
class WordSimilarity(Builder):
    """What word vectors are judged by: 19,544 analogies, and pairs of words with people's scores.

    An analogy is four words, a is to b as c is to d, in the section of its file; its score is NaN.
    Scores of pairs have another range in every split: compare ranks. `evaluate_word_analogies` and
    `evaluate_word_pairs` read the files themselves, `sources.fetch("word_similarity")`.
    """

    name = "word_similarity"
    LICENCE = "analogies Apache-2.0; none stated beside the pairs"
    PAIRS: ClassVar = {
        "ws353": "EN-WS-353-ALL.txt",
        "ws353_sim": "EN-WS-353-SIM.txt",
        "ws353_rel": "EN-WS-353-REL.txt",
        "simlex999": "EN-SIMLEX-999.txt",
        "rg65": "EN-RG-65.txt",
        "mc30": "EN-MC-30.txt",
    }

    def features(self):
        return {
            "words": tfds.features.Sequence(tfds.features.Text()),
            "section": tfds.features.Text(),
            "score": tfds.features.Scalar(np.float32),
        }

    def splits(self, files):
        parts = {split: _pairs(files[name]) for split, name in self.PAIRS.items()}
        return {"analogies": _analogies(files["questions-words.txt"]), **parts}


@register
class Men(WordSimilarity):
    """3,000 pairs of words with people's scores from 0 to 50, Bruni et al. 2014."""

    name = "men"
    LICENCE = "none stated beside the file"
    PAIRS: ClassVar = {"men": "EN-MEN-TR-3k.txt"}

    def splits(self, files):
        return {split: _pairs(files[name]) for split, name in self.PAIRS.items()}


class _Tracks(Builder):
    """What best tracks share: a storm an example, and splits by the year of the season.

    There is no canonical split. This one has the years to 2010 in train, 2011 to 2014 in validation
    and all later ones in test, so that no storm and no year is in two.
    """

    def features(self):
        # Not a Sequence, which would keep single precision.
        encoding = tfds.features.Encoding.BYTES
        numbers = tfds.features.Tensor(shape=(None,), dtype=np.float64, encoding=encoding)
        return {
            "id": tfds.features.Text(),
            "name": tfds.features.Text(),
            "year": tfds.features.Scalar(np.int32),
            "minutes": tfds.features.Sequence(np.int64),  # since 1970, UTC
            "lat": numbers,
            "lon": numbers,
            "wind_kt": numbers,
            "pressure_hpa": numbers,
        }

    def storms(self, files) -> Iterable[tracks.Storm]:
        """The storms of the set's files."""
        raise NotImplementedError

    def splits(self, files):
        parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
        for storm in self.storms(files):
            part = "train" if storm.year <= 2010 else "validation" if storm.year <= 2014 else "test"
            example = {name: getattr(storm, name) for name in self.features() if name != "minutes"}
            parts[part].append({**example, "minutes": storm.times.astype(np.int64)})
        return dict(parts)


@register
class JmaBestTrack(_Tracks):
    """Typhoon tracks of the western North Pacific, RSMC Tokyo, 1951 to August 2019: 1,788 storms.

    Winds are there from 1977 on, over 10 minutes.
    """

    name = "jma_best_track"
    LICENCE = "Japan Meteorological Agency, free use with attribution"

    def storms(self, files):
        return tracks.read_storms(files["bst_all.csv"], "jma")


@register
class Hurdat2Atlantic(_Tracks):
    """Hurricane tracks of the Atlantic, HURDAT2, 1851 to 2019: 1,893 storms.

    Winds are over 1 minute. 34 rows without a longitude are left out.

    References: Landsea and Franklin, 2013.
    """

    name = "hurdat2_atlantic"
    LICENCE = "public domain (United States government)"

    def storms(self, files):
        path = files["AL.rda"]
        is_table = path.suffix == ".rda"
        return tracks.hurdat2_of_r(path) if is_table else tracks.read_storms(path, "hurdat2-table")


class _Cmapss(Builder):
    """What the subsets of C-MAPSS share: an engine an example.

    `cycles_left` counts the cycles after the last until failure, 0 in train.
    """

    SUBSET: ClassVar[str]
    LICENCE = "United States government data, no restriction stated"

    def features(self):
        def table(columns):
            encoding = tfds.features.Encoding.BYTES
            return tfds.features.Tensor(shape=(None, columns), dtype=np.float64, encoding=encoding)

        return {
            "id": tfds.features.Text(),
            "settings": table(engines.NUM_SETTINGS),
            "sensors": table(engines.NUM_SENSORS),
            "cycles_left": tfds.features.Scalar(np.int32),
        }

    def splits(self, files):
        def file(part):
            name = f"{part}_{self.SUBSET}.txt"
            return files[name] if name in files else files[f"{name}.gz"]

        def examples(part, lives=None):
            for engine in engines.read_engines(file(part), lives):
                yield {name: getattr(engine, name) for name in self.features()}

        return {"train": examples("train"), "test": examples("test", file("RUL"))}


@register
class Cmapss(_Cmapss):
    """Simulated turbofan engines that run to failure, C-MAPSS FD001: 100 and 100 engines.

    One operating regime, one kind of fault.

    References: Saxena and Goebel, 2008.
    """

    name = "cmapss"
    SUBSET = "FD001"


@register
class CmapssFd002(_Cmapss):
    """C-MAPSS FD002: 260 and 259 engines, six operating regimes, one kind of fault.

    References: Saxena and Goebel, 2008.
    """

    name = "cmapss_fd002"
    SUBSET = "FD002"


@register
class CmapssFd003(_Cmapss):
    """C-MAPSS FD003: 100 and 100 engines, one operating regime, two kinds of fault.

    References: Saxena and Goebel, 2008.
    """

    name = "cmapss_fd003"
    SUBSET = "FD003"


@register
class CmapssFd004(_Cmapss):
    """C-MAPSS FD004: 249 and 248 engines, six operating regimes, two kinds of fault.

    References: Saxena and Goebel, 2008.
    """

    name = "cmapss_fd004"
    SUBSET = "FD004"


def _analogies(path: Path) -> Iterator[Example]:
    section = ""
    for line in read_lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
        else:
            yield {"words": line.split(), "section": section, "score": float("nan")}


def _pairs(path: Path) -> Iterator[Example]:
    for line in read_lines(path):
        *words, score = line.split("\t")
        yield {"words": words, "section": "", "score": float(score)}


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    r"""Lines of a file with their line ends, cut at "\n" alone: joined they are the file.

    Raises:
      InputError: naming the file, if it is not in that encoding.
    """
    with path.open(encoding=encoding, newline="\n") as file:
        try:
            yield from file
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not {encoding.upper()}: {error.reason}") from error


class Source(Sequence[Example]):
    """Examples of a prepared set by their number, in the order of its files.

    Texts are `str`, numbers numpy scalars or arrays, a sequence of texts a list. Any process can
    read its own copy: what is pickled is the place, not the data.

    Attributes:
      path: the prepared folder.
      split: a split, a slice of one, or a sum of such, in the notation of TFDS: "train",
        "train[:80%]", "test[100:200]", "train+test", "all".
    """

    def __init__(self, path: Path, split: str):
        """Opens the files; nothing is verified here.

        Raises:
          InputError: the split is unknown or empty, or the files cannot be read.
        """
        self.path, self.split = Path(path), str(split)
        self._open()

    def _open(self):
        builder: Any = tfds.builder_from_directory(self.path)
        splits, self._features = builder.info.splits, builder.info.features
        try:
            pieces = tfds.core.ReadInstruction.from_spec(self.split).to_absolute(splits)
        except (ValueError, NotImplementedError) as error:
            raise InputError(
                f"{builder.name}: split {self.split!r} cannot be taken; it has "
                f"{_counts(self.path)}; a slice is written as in 'train[:80%]'"
            ) from error
        names = {str(piece.splitname) for piece in pieces}
        written = builder.info.file_format.value
        if written == ARRAY_RECORD and not _has_array_record():
            raise InputError(
                f"{self.path} is {written}, which cannot be imported here: prepare {builder.name} "
                "in another folder, which then takes parquet"
            )
        records = {name: builder.as_data_source(name) for name in names}
        for name in names:
            if len(records[name]) != splits[name].num_examples:
                raise InputError(
                    f"{self.path} is damaged: split {name} has {len(records[name])} examples, "
                    f"expected {splits[name].num_examples}; {_remedy(builder.name)}"
                )
        self._name = builder.name
        self._pieces = [
            (
                records[str(piece.splitname)],
                range(splits[str(piece.splitname)].num_examples)[piece.from_ : piece.to],
            )
            for piece in pieces
        ]
        self._ends = list(itertools.accumulate(len(rows) for _, rows in self._pieces))
        if not len(self):
            raise InputError(f"{self._name}: split {self.split!r} holds no example")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index):
        piece, row = self._row(index)
        with self._naming_damage():
            value = self._pieces[piece][0][row]
        return _decoded(self._features, value)

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        """Examples of several numbers at once, which is faster than one by one.

        Raises:
          InputError: a file that is damaged, by name.
        """
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place, index in enumerate(indices):
            piece, row = self._row(index)
            wanted.setdefault(piece, []).append((place, row))
        examples: list[Example] = [{}] * len(indices)
        for piece, found in wanted.items():
            places, rows = zip(*found, strict=True)
            with self._naming_damage():
                values = self._pieces[piece][0].__getitems__(rows)
            for place, value in zip(places, values, strict=True):
                examples[place] = _decoded(self._features, value)
        return examples

    def _row(self, index: int) -> tuple[int, int]:
        """Which piece an example is in, and its row in the split that the piece is of."""
        number = range(len(self))[operator.index(index)]  # IndexError where there is none
        piece = bisect.bisect_right(self._ends, number)
        return piece, self._pieces[piece][1][number - self._ends[piece]]

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # array_record's, by the checksum of a record
            raise InputError(
                f"{self.path} is damaged: {' '.join(str(error).split())}; {_remedy(self._name)}"
            ) from error

    def __iter__(self):
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self.__getitems__(range(len(self))[start : start + ROWS_AT_ONCE])

    def __getstate__(self):
        return {"path": self.path, "split": self.split}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        return f"Source({str(self.path)!r}, {self.split!r})"


def load(
    name: str, split: str, folder: Path | str | None = None, file_format: str | None = None
) -> Source:
    """Examples of a data set, prepared first if need be; the module's table says what is checked.

    Args:
      name: a key of `BUILDERS`.
      split: as in `Source`: "train", "train[:80%]", "train+test" ...
      folder: of all prepared sets; `sources.cache_folder() / "prepared"` if None.
      file_format: as in `prepare`.

    Raises:
      InputError: as `prepare` and `Source`.
    """
    return Source(_prepared(name, folder, file_format, in_full=False), split)


def prepare(name: str, folder: Path | str | None = None, file_format: str | None = None) -> Path:
    """The folder of a prepared data set; it is prepared where it is not there, whole and intact.

    Args:
      name: a key of `BUILDERS`.
      folder: of all prepared sets; `sources.cache_folder() / "prepared"` if None.
      file_format: "array_record" or "parquet"; a set that is there in the other one is prepared
        anew. None takes it as it is, and a new one as array_record wherever that can be imported.

    Raises:
      InputError: an unknown name or format; what `sources.fetch` raises; a folder that cannot be
        written.
    """
    return _prepared(name, folder, file_format, in_full=True)


def verify(name: str, folder: Path | str | None = None) -> list[str]:
    """One line for each file that is damaged, by its sha256; none if all are intact.

    Source files that are not at hand are left out: nothing is fetched.

    Raises:
      InputError: an unknown name, or a set that is not prepared.
    """
    check_known(name, BUILDERS, "data set")
    path = _place(name, folder)
    if not path.exists():
        raise InputError(
            f"{name} is not prepared in {path.parent.parent}; python -m seqlab.data prepare {name}"
        )
    return damaged_files(name) + _faults(name, path, in_full=True)


def damaged_files(name: str) -> list[str]:
    """One line for each source file of a set that is at hand and damaged; nothing is fetched."""
    return [
        f"{file} is damaged: its sha256 is not {expected.sha256[:12]}"
        for file, expected in _sources_at_hand(name)
        if sha256(file) != expected.sha256
    ]


class Description(NamedTuple):
    """What is known of a data set without reading it.

    Attributes:
      about: what it is, in a line.
      licence: of the data.
      origin: where its source files are, or would come from.
      state: "prepared", "not prepared", or "damaged" by the sizes of its files.
      sizes: examples of each split, once prepared.
    """

    about: str
    licence: str
    origin: str
    state: str
    sizes: dict[str, int]


def describe(name: str, folder: Path | str | None = None) -> Description:
    """What is known of a data set from the sizes of its files; nothing is fetched.

    Raises:
      InputError: an unknown name.
    """
    check_known(name, BUILDERS, "data set")
    path = _place(name, folder)
    sizes, state = {}, "not prepared"
    if path.exists():
        state = "damaged" if _faults(name, path, in_full=False) else "prepared"
        if state == "prepared":
            sizes = _read_manifest(path)["splits"]
    return Description(about(BUILDERS[name]), BUILDERS[name].LICENCE, origin(name), state, sizes)


def about(builder: type[Builder]) -> str:
    """The first line of a builder's docstring."""
    return next(iter((builder.__doc__ or "").strip().splitlines()), "")


def origin(name: str) -> str:
    """Where the source files of a set are, or would come from: a name of `sources.SOURCES`."""
    files = sources.SOURCES[name]
    if not files:
        return "generated"
    sizes = {path.name: path.stat().st_size for path, _ in _sources_at_hand(name)}
    is_there = all(
        any(
            each and all(sizes.get(part.name) == part.size for part in each)
            for each in ((file,), file.stand_ins)
        )
        for file in files
    )
    if os.environ.get(sources.MIRROR_VARIABLE):
        return "mirror" if is_there else f"not in the mirror ({sources.MIRROR_VARIABLE})"
    return "cache" if is_there else f"download, {sum(file.size for file in files) / 1e6:.1f} MB"


def _place(name: str, folder: Path | str | None) -> Path:
    root = sources.cache_folder() / "prepared" if folder is None else Path(folder).expanduser()
    return root / name / str(BUILDERS[name].VERSION)


def _prepared(name: str, folder: Path | str | None, file_format: str | None, in_full: bool) -> Path:
    """The folder of a set, after it was prepared if `_stale` finds a reason."""
    check_known(name, BUILDERS, "data set")
    if file_format is not None:
        check_known(file_format, FORMATS, "file format")
    path = _place(name, folder)
    try:
        if not _stale(name, path, file_format, in_full):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path.parent) as is_alone:
            if is_alone:
                for left_by_a_killed_process in path.parent.glob(".*.part"):
                    shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
            reason = _stale(name, path, file_format, in_full)
            if reason:  # no other process did it meanwhile
                if path.exists():
                    message = "%s; %s is prepared again"
                    logging.getLogger(__name__).warning(message, reason, name)
                _build(name, path, file_format or _format_to_write(path))
    except OSError as error:
        raise InputError(
            f"cannot prepare {name} in {path}: {error}; name a folder that can be written, or set "
            f"{sources.CACHE_VARIABLE} to one"
        ) from error
    return path


def _stale(name: str, path: Path, file_format: str | None, in_full: bool) -> str:
    """Why a set has to be prepared; empty if it has not."""
    if not path.exists():
        return f"{path} does not exist"
    faults = _faults(name, path, in_full)
    if faults:
        return faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")
    if file_format not in (None, _read_manifest(path)["format"]):
        return f"{path} is not {file_format}"
    return ""


def _build(name: str, path: Path, file_format: str) -> None:
    """Prepares a set beside its place, then moves it there in one step."""
    files = sources.fetch(name)
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    replaced = path.with_name(f".{uuid.uuid4().hex}.part")
    builder = BUILDERS[name](data_dir=partial, file_format=file_format)
    try:
        with _without_traces():
            builder.download_and_prepare(download_dir=partial)
        written = Path(builder.data_dir)
        counts = {split: info.num_examples for split, info in builder.info.splits.items()}
        _write_manifest(written, file_format, counts, files)
        for split in counts:
            Source(written, split)[-1]  # nothing was lost on the way
        if path.exists():
            path.rename(replaced)
        written.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _without_traces() -> Iterator[None]:
    """Keeps TFDS from drawing its own bars, and from drawing on Python's random numbers."""
    state = random.getstate()
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
        random.setstate(state)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Waits until no other process prepares a set; a killed process's lock goes with it.

    Yields:
      bool: False where there are no locks (Windows, some network drives).
    """
    with (folder / ".lock").open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            is_alone = True
        except (ImportError, OSError):
            is_alone = False
        yield is_alone


def _format_to_write(path: Path) -> str:
    """The format where the caller chose none: parquet where it was, or has to be."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if _read_manifest(path)["format"] == PARQUET:
            return PARQUET
    return ARRAY_RECORD if _has_array_record() else PARQUET


def _has_array_record() -> bool:
    try:
        import array_record.python.array_record_module  # noqa: F401
    except ImportError:  # it is not built for every platform
        return False
    return True


def _write_manifest(
    path: Path, file_format: str, counts: dict[str, int], files: dict[str, Path]
) -> None:
    """Notes what was prepared, from what; the last file to be written."""
    manifest = {
        "format": file_format,
        "splits": counts,
        "sources": {
            key: {"file": file.name, "sha256": sha256(file)} for key, file in files.items()
        },
        "files": {
            file.name: {
                "size": file.stat().st_size,
                "mtime_ns": file.stat().st_mtime_ns,
                "sha256": sha256(file),
            }
            for file in sorted(path.iterdir())
        },
    }
    (path / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))


def _faults(name: str, path: Path, in_full: bool) -> list[str]:
    """One line for each prepared file that is not as the manifest says.

    Args:
      name: of the set.
      path: its prepared folder.
      in_full: whether the sha256 is taken even of files with the noted size and time of change.
    """
    manifest_path = path / MANIFEST
    try:
        manifest = _read_manifest(path)
        files, read = manifest["files"].items(), manifest["sources"]
        if manifest["format"] not in FORMATS or not manifest["splits"]:
            return [f"{manifest_path} is damaged"]
        if not _is_made_of({each["sha256"] for each in read.values()}, sources.SOURCES[name]):
            return [f"{manifest_path} names other source files than those of {name}"]
        faults = (_fault(path / file, noted, in_full) for file, noted in files)
        return [fault for fault in faults if fault]
    except FileNotFoundError:
        return [f"{manifest_path} does not exist"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{manifest_path} is damaged"]


def _is_made_of(read: set[str], files: Iterable[sources.File]) -> bool:
    """Whether the sha256s that were read are those of every file, or of its stand-ins; no more."""
    expected = set()
    for file in files:
        stand_ins = {each.sha256 for each in file.stand_ins}
        expected |= stand_ins if stand_ins and stand_ins <= read else {file.sha256}
    return read == expected


def _fault(file: Path, noted: dict[str, Any], in_full: bool) -> str:
    """How a prepared file differs from what was noted; empty if it does not."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return f"{file} does not exist"
    if found.st_size != noted["size"]:
        return f"{file} is damaged: it has {found.st_size} bytes, expected {noted['size']}"
    if in_full or found.st_mtime_ns != noted["mtime_ns"]:
        if sha256(file) != noted["sha256"]:
            return f"{file} is damaged: its sha256 is not {noted['sha256'][:12]}"
    return ""


def _sources_at_hand(name: str) -> Iterator[tuple[Path, sources.File | sources.StandIn]]:
    """The source files of a set that are there, in the mirror or else in the cache."""
    mirror = os.environ.get(sources.MIRROR_VARIABLE)
    folder = (Path(mirror).expanduser() if mirror else sources.cache_folder()) / name
    for file in sources.SOURCES[name]:
        for expected in (file, *(file.stand_ins if mirror else ())):
            if (folder / expected.name).is_file():
                yield folder / expected.name, expected


def _decoded(feature: Any, value: Any) -> Any:
    """A value as TFDS reads it, with texts as `str` and numbers in the feature's own dtype."""
    kinds = tfds.features
    if isinstance(feature, kinds.FeaturesDict):
        return {key: _decoded(feature[key], each) for key, each in value.items()}
    if isinstance(feature, kinds.Text):
        return value.decode("utf-8")
    if isinstance(feature, kinds.Sequence):
        inner = feature.feature
        if isinstance(inner, kinds.FeaturesDict):
            return {key: _decoded(kinds.Sequence(inner[key]), each) for key, each in value.items()}
        items = [_decoded(inner, each) for each in value]
        if isinstance(inner, kinds.Tensor) and inner.shape == () and not _dtype(inner).hasobject:
            return np.asarray(items, _dtype(inner))
        return items
    if isinstance(feature, kinds.Tensor) and not isinstance(value, np.ndarray | bytes):
        return _dtype(feature).type(value)
    return value


def _dtype(feature: Any) -> np.dtype:
    return np.dtype(feature.np_dtype)


def _counts(path: Path) -> str:
    counts = _read_manifest(path)["splits"]
    return ", ".join(f"{split} ({count} examples)" for split, count in counts.items())


def _remedy(name: str) -> str:
    return f"python -m seqlab.data prepare {name} puts it right"
