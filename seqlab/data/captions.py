"""Images with sentences that describe them, in parts; sets of the user's own from two places.

A set of the user's own is a folder of images and a file of captions, a line each, the name of the
image before a tab; "#" and a number behind the name are allowed, as in Flickr8k's own file:

    1000268201_693b08cb0e.jpg#0     A child in a pink dress is climbing up a set of stairs .
    dog.png                         a dog on a beach

Captions are cut by the rule "words" of `seqlab.data.words` (lower case, words and signs with blanks
between); images are made 64x64, bicubic, whatever their sides were.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqlab.data.text import PARTS, part_cuts, read_utf8, text_digest
from seqlab.data.words import cut_words
from seqlab.errors import InputError

IMAGE_SIZE = 64  # pixels a side
FEWEST_IMAGES = 20  # of a set of the user's own: one each to choose by and to test on


@dataclass(frozen=True)
class Captioned:
    """Images of each part with all of their sentences.

    Attributes:
      name: of the set.
      images: part -> bytes [N, 64, 64, 3], red, green, blue. The parts are "train", "valid" and
        "test", and perhaps more to test on.
      sentences: part -> of each image its sentences, words with blanks between.
      names: part -> of each image its name.
      notes: what has to be said beside a result.
    """

    name: str
    images: dict[str, np.ndarray]
    sentences: dict[str, list[list[str]]]
    names: dict[str, list[str]]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Which images and sentences these are, and in which part: a sha256, hexadecimal."""
        found = hashlib.sha256()
        for part, images in self.images.items():
            found.update(f"{part} {images.shape}\n".encode())
            found.update(np.ascontiguousarray(images).tobytes())
            for sentences in self.sentences[part]:
                found.update(("\t".join(sentences) + "\n").encode())
        return found.hexdigest()

    def with_few(self, num_train: int) -> "Captioned":
        """The same, but only the first so many of the images to train on."""

        def few(parts):
            return {**parts, "train": parts["train"][:num_train]}

        return replace(
            self, images=few(self.images), sentences=few(self.sentences), names=few(self.names)
        )


class Captions(NamedTuple):
    """What a file says of an image.

    Attributes:
      line: where it is first named.
      sentences: of it, in order.
    """

    line: int
    sentences: list[str]


def load_captioned(folder: Path, captions: Path) -> Captioned:
    """A set of the user's own; images are cut at 90 and 95 % in the order of a hash of their names.

    Args:
      folder: of the images.
      captions: the file of captions.

    Raises:
      InputError: fewer than 20 images; an image that is not in the folder, naming the line; what
        `read_captions` and `read_image` raise.
    """
    found = read_captions(captions)
    if len(found) < FEWEST_IMAGES:
        raise InputError(f"{captions} names {len(found)} images, expected {FEWEST_IMAGES} or more")
    for name, own in found.items():
        if not (folder / name).is_file():
            raise InputError(f"{captions}, line {own.line}: {folder} has no image {name}")
    order = sorted(found, key=text_digest)
    cuts = part_cuts(len(order))
    names = {part: order[a:b] for part, a, b in zip(PARTS, cuts[:-1], cuts[1:], strict=True)}
    return Captioned(
        captions.name,
        {part: read_images(folder, own) for part, own in names.items()},
        {part: [found[name].sentences for name in own] for part, own in names.items()},
        names,
    )


def read_captions(path: Path) -> dict[str, Captions]:
    """Captions by the name of their image, in the order in which images are first named.

    Raises:
      InputError: naming file and line: a line without a tab, without a name before it or a word
        behind it; what `read_utf8` raises.
    """
    found: dict[str, Captions] = {}
    for number, line in enumerate(read_utf8(path).removesuffix("\n").split("\n"), start=1):
        head, tab, caption = line.partition("\t")
        if not tab:
            raise InputError(
                f"{path}, line {number}: expected an image's name, a tab and a caption, got "
                f"{line[:40]!r}"
            )
        name = re.sub(r"#\d+$", "", head.strip())
        if not name:
            raise InputError(f"{path}, line {number}: no name of an image before the tab")
        words = cut_words(caption, "words")
        if not words:
            raise InputError(f"{path}, line {number}: no caption behind the tab")
        found.setdefault(name, Captions(number, [])).sentences.append(" ".join(words))
    return found


def read_images(folder: Path, names: Iterable[str]) -> np.ndarray:
    """Images of a folder, bytes [N, 64, 64, 3]; raises what `read_image` does."""
    images = [read_image(folder / name) for name in names]
    return np.stack(images) if images else np.zeros((0, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


def read_image(path: Path) -> np.ndarray:
    """An image file as the models see it: bytes [64, 64, 3], bicubic, its sides not kept.

    Raises:
      InputError: a file that is not there, or that Pillow cannot read as an image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image that can be read") from error
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow says that a file is damaged
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return np.asarray(small)
