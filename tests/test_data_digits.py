import gzip
import hashlib
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from seqlab.data.digits import digits, load_images, mnist, read_idx
from seqlab.data.sources import SOURCES, File
from seqlab.errors import InputError


def idx(array, magic=None):
    magic = 0x0800 + array.ndim if magic is None else magic
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content, mtime=0))
    return path


def failure(path, num_axes):
    with pytest.raises(InputError) as caught:
        read_idx(path, num_axes)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A mirror with an "mnist" of 5 and 3 images; returns a function that writes a part of it."""
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    names = {file.name: None for file in SOURCES["mnist"]}

    def put(part, images, labels):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte.gz"
            content = write(tmp_path / "mnist" / name, idx(array)).read_bytes()
            names[name] = File(name, "", len(content), hashlib.sha256(content).hexdigest())
        if all(names.values()):
            monkeypatch.setitem(SOURCES, "mnist", tuple(names.values()))

    rng = np.random.default_rng(0)
    images = {
        "train": rng.integers(256, size=(5, 28, 28)),
        "t10k": rng.integers(256, size=(3, 28, 28)),
    }
    put("train", images["train"], np.arange(5))
    put("t10k", images["t10k"], np.arange(3) + 7)
    return put, images


def test_digits_shapes_ranges_and_sizes():
    for part, size in zip(digits(), (1437, 360), strict=True):
        assert part.xs.shape == (size, 64, 1)
        assert part.xs.dtype == np.float32
        assert part.labels.shape == (size,)
        assert part.labels.dtype == np.int32
        assert part.xs.min() == 0
        assert part.xs.max() == 1
        np.testing.assert_array_equal(part.xs * 16, np.round(part.xs * 16))
        assert set(part.labels) == set(range(10))


def test_digits_split_every_image_once_with_its_own_label():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    expected = sorted((*image, label) for image, label in zip(images, labels, strict=True))
    found = sorted(
        (*(xs[:, 0] * 16), label)
        for part in digits()
        for xs, label in zip(part.xs, part.labels, strict=True)
    )
    assert found == expected


def test_digits_split_is_fixed_for_good():
    train, test = digits()
    assert test.labels[:10].tolist() == [7, 9, 4, 7, 0, 2, 6, 1, 3, 1]
    assert hashlib.sha256(train.labels.tobytes()).hexdigest()[:16] == "aa78bab817165183"
    np.testing.assert_array_equal(digits()[1].xs, test.xs)


def test_digits_without_scikit_learn_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match="pip install scikit-learn"):
        digits()


def test_mnist_reads_scan_lines_top_left_first(small):
    _, images = small
    for part, name, labels in zip(mnist(), images, ([0, 1, 2, 3, 4], [7, 8, 9]), strict=True):
        assert part.xs.dtype == np.float32
        np.testing.assert_array_equal(
            part.xs, (images[name].reshape(-1, 784, 1) / 255).astype(np.float32)
        )
        assert part.labels.dtype == np.int32
        assert part.labels.tolist() == labels


def test_permuted_mnist_uses_one_order_for_all_images(small):
    plain, permuted = mnist(), mnist(permutation_seed=7)
    order = np.random.RandomState(7).permutation(784)
    assert order[:4].tolist() == [635, 159, 34, 763]
    for part, moved in zip(plain, permuted, strict=True):
        np.testing.assert_array_equal(part.xs[:, order], moved.xs)
        np.testing.assert_array_equal(part.labels, moved.labels)
    assert not np.array_equal(mnist(permutation_seed=8)[0].xs, permuted[0].xs)


def test_images_by_name(small):
    for name, plain in (("digits", digits()), ("mnist", mnist())):
        order = np.random.RandomState(3).permutation(plain[0].xs.shape[1])
        for part, same, moved in zip(
            plain, load_images(name, 3), load_images(f"permuted-{name}", 3), strict=True
        ):
            np.testing.assert_array_equal(part.xs, same.xs)
            np.testing.assert_array_equal(part.xs[:, order], moved.xs)
            np.testing.assert_array_equal(part.labels, moved.labels)
    with pytest.raises(InputError, match="did you mean 'permuted-mnist'"):
        load_images("permuted-mnst")


def test_images_and_labels_of_unequal_number(small):
    put, images = small
    put("train", images["train"], np.arange(4))
    with pytest.raises(InputError, match=r"train-images.* has 5 images, .*train-labels.* 4 labels"):
        mnist()


def test_label_that_is_no_digit(small):
    put, images = small
    put("t10k", images["t10k"], np.array([1, 10, 12]))
    with pytest.raises(InputError, match=r"t10k-labels.* has 10 as label 1, expected 0 \.\. 9"):
        mnist()


def test_images_of_another_size(small):
    put, images = small
    put("t10k", images["t10k"][:, :27], np.arange(3))
    with pytest.raises(InputError, match=r"t10k-images.*\(27, 28\) pixels"):
        mnist()


def test_idx_round_trip(tmp_path):
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(read_idx(write(tmp_path / "a.gz", idx(array)), 3), array)


def test_idx_with_another_magic_number(tmp_path):
    path = write(tmp_path / "a.gz", idx(np.zeros((2, 3)), magic=0x0D02))
    assert "0x00000d02, expected 0x00000802" in failure(path, 2)


def test_labels_where_images_are_expected(tmp_path):
    path = write(tmp_path / "a.gz", idx(np.zeros(40)))
    assert "0x00000801, expected 0x00000803" in failure(path, 3)


@pytest.mark.parametrize("change", [-1, 1])
def test_idx_with_too_few_or_too_many_bytes(tmp_path, change):
    content = idx(np.zeros((2, 3)))
    path = write(tmp_path / "a.gz", content[:-1] if change < 0 else content + b"\0")
    assert f"holds {6 + change} bytes, its header counts 2x3 = 6" in failure(path, 2)


def test_idx_shorter_than_its_header(tmp_path):
    path = write(tmp_path / "a.gz", b"\0\0\x08\x03")
    assert "4 bytes" in failure(path, 3)


def test_cut_off_gzip(tmp_path):
    path = write(tmp_path / "a.gz", idx(np.arange(200)))
    path.write_bytes(path.read_bytes()[:-20])
    failure(path, 1)


def test_flipped_byte_in_gzip(tmp_path):
    path = write(tmp_path / "a.gz", idx(np.arange(200)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    failure(path, 1)


def test_not_gzip_and_missing(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(idx(np.arange(20)))
    failure(path, 1)
    failure(tmp_path / "missing.gz", 1)


def test_real_mnist_has_the_official_counts(monkeypatch):
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SEQLAB_DATA_MIRROR") or beside)
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no {folder / 'mnist'}: set SEQLAB_DATA_MIRROR to a folder with mnist/ in it")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(folder))
    train, test = mnist()
    assert train.xs.shape == (60_000, 784, 1)
    assert test.xs.shape == (10_000, 784, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(train.labels).tolist() == counts
    assert np.bincount(test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.xs.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert test.xs.min() == 0
    assert test.xs.max() == 1
    # Labels belong to their images: the nearest class mean alone reaches 82 % on the test set.
    means = np.stack([train.xs[train.labels == digit, :, 0].mean(0) for digit in range(10)])
    scores = test.xs[..., 0] @ means.T - 0.5 * np.sum(means**2, axis=1)
    assert np.mean(scores.argmax(1) == test.labels) == pytest.approx(0.8203, abs=1e-3)
