"""Images of handwritten digits, read pixel by pixel: 8x8 from scikit-learn, 28x28 MNIST."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqlab.data import sources
from seqlab.data.checks import check_finite, check_known
from seqlab.errors import InputError

IMAGES = ("digits", "permuted-digits", "mnist", "permuted-mnist")
DIGITS_TEST_SIZE = 360  # of 1,797 images
DIGITS_SPLIT_SEED = 0


class Labelled(NamedTuple):
    """Sequences with one class each.

    Attributes:
      xs: pixels in scan-line order, 0 (paper) to 1 (ink), float32 [N, T, 1].
      labels: the digit shown, int32 [N].
    """

    xs: np.ndarray
    labels: np.ndarray


def load_images(dataset: str, permutation_seed: int = 0) -> tuple[Labelled, Labelled]:
    """The images of that name, one of `IMAGES`: (train, test).

    Args:
      dataset: `digits` or `mnist`, whose pixels come in scan-line order, or the same permuted.
      permutation_seed: of the order in which permuted images have their pixels.

    Raises:
      InputError: an unknown name, or images that cannot be had.
    """
    check_known(dataset, IMAGES, "dataset")
    load = mnist if dataset.endswith("mnist") else digits
    return load(permutation_seed if dataset.startswith("permuted") else None)


def pixel_order(num_pixels: int, permutation_seed: int | None) -> np.ndarray:
    """Which pixel is read at each step, [T]: those of the scan line, or one order for all images.

    The order is `RandomState(permutation_seed).permutation(T)`, which no numpy version changes.

    References: Le, Jaitly and Hinton, 2015 (MNIST pixel by pixel, in either order).
    """
    if permutation_seed is None:
        return np.arange(num_pixels)
    return np.random.RandomState(permutation_seed).permutation(num_pixels)


def digits(permutation_seed: int | None = None) -> tuple[Labelled, Labelled]:
    """The 8x8 digits that come with scikit-learn as sequences of T = 64 steps: (train, test).

    Train has 1,437 images and test 360, taken in the order of `RandomState(0).permutation(1797)`,
    which no numpy version changes. The same 13 people wrote both parts. Grey levels 0 .. 16 are
    divided by 16.

    Args:
      permutation_seed: None for scan-line order, else see `pixel_order`.

    Raises:
      InputError: scikit-learn is not installed.

    References: Alpaydin and Kaynak, 1998 (UCI, optical recognition of digits, test set).
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise InputError("dataset digits needs scikit-learn: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    check_finite(images, "digits")
    order = np.random.RandomState(DIGITS_SPLIT_SEED).permutation(len(images))
    pixels = images[:, pixel_order(64, permutation_seed)]
    xs = (pixels[order, :, None] / 16).astype(np.float32)
    labels = labels[order].astype(np.int32)
    return (
        Labelled(xs[:-DIGITS_TEST_SIZE], labels[:-DIGITS_TEST_SIZE]),
        Labelled(xs[-DIGITS_TEST_SIZE:], labels[-DIGITS_TEST_SIZE:]),
    )


def mnist(permutation_seed: int | None = None) -> tuple[Labelled, Labelled]:
    """Sequential MNIST, T = 784 steps, 60,000 and 10,000 images: (train, test).

    Grey levels 0 .. 255 are divided by 255. The official test set; no validation part is set aside.
    A mirror may hold the training images in another than the official order (`sources.SOURCES`).

    Args:
      permutation_seed: None for scan-line order, else see `pixel_order`. Published figures for
        permuted MNIST each use a permutation of their own.

    Raises:
      InputError: a file that cannot be had, or is not what it should be.

    References: Le, Jaitly and Hinton, 2015 (scan-line and permuted order).
    """
    paths = sources.fetch("mnist")
    order = pixel_order(784, permutation_seed)
    return (
        _labelled(paths["train-images-idx3-ubyte.gz"], paths["train-labels-idx1-ubyte.gz"], order),
        _labelled(paths["t10k-images-idx3-ubyte.gz"], paths["t10k-labels-idx1-ubyte.gz"], order),
    )


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """Unsigned bytes of a gzipped IDX file, [N, ...] with `num_axes` axes.

    Raises:
      InputError: naming the file: not gzip, another magic number (0x00000800 + number of axes is
        expected), or fewer or more bytes than its header counts.

    References: the file format section of http://yann.lecun.com/exdb/mnist.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as gzip: {error}") from error
    header_size = 4 + 4 * num_axes
    if len(content) < header_size:
        raise InputError(f"{path} has {len(content)} bytes, fewer than an IDX header")
    magic, *shape = struct.unpack(f">{1 + num_axes}I", content[:header_size])
    expected_magic = 0x0800 + num_axes
    if magic != expected_magic:
        raise InputError(
            f"{path} has IDX magic number 0x{magic:08x}, expected 0x{expected_magic:08x}"
        )
    found, expected = len(content) - header_size, math.prod(shape)
    if found != expected:
        axes = "x".join(map(str, shape))
        raise InputError(f"{path} holds {found} bytes, its header counts {axes} = {expected}")
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def read_images(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One part of MNIST as it is filed: grey levels [N, 28, 28] and labels [N], bytes.

    Raises:
      InputError: as `read_idx`; images of another size; labels that are no digits, or not as many.

    References: LeCun et al., 1998 (MNIST).
    """
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise InputError(
            f"{images_path} has images of {images.shape[1:]} pixels, expected (28, 28)"
        )
    if len(images) != len(labels):
        raise InputError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels"
        )
    if np.any(labels > 9):
        first = np.argmax(labels > 9)
        raise InputError(f"{labels_path} has {labels[first]} as label {first}, expected 0 .. 9")
    return images, labels


def _labelled(images_path: Path, labels_path: Path, order: np.ndarray) -> Labelled:
    """One part of MNIST, its pixels taken in `order` [784]."""
    images, labels = read_images(images_path, labels_path)
    pixels = images.reshape(len(images), -1)[:, order]
    xs = np.divide(pixels, 255, dtype=np.float32)[..., None]
    return Labelled(xs, labels.astype(np.int32))
