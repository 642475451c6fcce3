"""Movie reviews of Maas et al. 2011 (aclImdb v1), from the published archive or its stand-ins."""

import gzip
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

GROUPS = ("train_neg", "train_pos", "test_neg", "test_pos", "train_unsup")
ARCHIVE = "aclImdb_v1.tar.gz"

# What ends a line for some reader of text: a review is one line, each of these a blank.
_LINE_BREAKS = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")
_MEMBER = re.compile(r"aclImdb/(train|test)/(neg|pos|unsup)/(\d+)_(\d+)\.txt")


class Review(NamedTuple):
    """One review.

    Attributes:
      rating: stars, 1 to 10; 0 where the set does not tell.
      text: on one line, with `<br />` where the reviewer began a new one.
    """

    rating: int
    text: str


def read_reviews(files: dict[str, Path]) -> dict[str, Iterable[Review]]:
    """Reviews of each of `GROUPS`, in the order of their numbers: the same from either form.

    Args:
      files: what `sources.fetch("imdb")` returned. The archive is read into memory, 200 MB;
        its stand-ins as streams.
    """
    if ARCHIVE in files:
        return _in_archive(files[ARCHIVE])
    return {group: _in_lines(files[f"{group}.tsv.gz"]) for group in GROUPS}


def _in_lines(path: Path) -> Iterator[Review]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            _, rating, text = line.removesuffix("\n").split("\t")
            yield Review(int(rating), text)


def _in_archive(path: Path) -> dict[str, Iterable[Review]]:
    found: dict[str, dict[int, Review]] = {group: {} for group in GROUPS}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            match = _MEMBER.fullmatch(member.name)
            content = archive.extractfile(member) if match else None
            if match and content:
                part, kind, number, rating = match.groups()
                text = content.read().decode("utf-8").translate(_LINE_BREAKS)
                found[f"{part}_{kind}"][int(number)] = Review(int(rating), text)
    return {group: [texts[number] for number in sorted(texts)] for group, texts in found.items()}
