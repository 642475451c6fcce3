"""Images with captions: small made-up files, read strictly; Flickr8k, made up and as it is."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqlab.data import flickr, sources
from seqlab.data.captions import load_captioned, read_captions, read_image
from seqlab.data.flickr import LISTS, SET, SMALL_IMAGES, load_flickr
from seqlab.errors import InputError

BESIDE_CHECKOUT = Path(__file__).parents[2] / "shared" / "data"
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or BESIDE_CHECKOUT)


def painted(folder, names, colour=(200, 30, 30)):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (30, 20), colour).save(folder / name)
    return folder


@pytest.fixture
def own(tmp_path):
    """A folder of 20 images and a file with two captions of each."""
    names = [f"image_{i}.png" for i in range(20)]
    lines = [f"{name}#{k}\tA {word} , No {i}!" for i, name in enumerate(names)
             for k, word in enumerate(("dog", "Cat"))]  # fmt: skip
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    return painted(tmp_path / "images", names), tmp_path / "captions.txt"


def test_a_set_of_ones_own_is_cut_by_image(own):
    data = load_captioned(*own)
    sizes = {part: len(names) for part, names in data.names.items()}
    assert sizes == {"train": 18, "valid": 1, "test": 1}
    assert {part: images.shape for part, images in data.images.items()} == {
        part: (size, 64, 64, 3) for part, size in sizes.items()
    }
    every = [name for names in data.names.values() for name in names]
    assert sorted(every) == sorted({f"image_{i}.png" for i in range(20)})
    (name,), (sentences,) = data.names["test"], data.sentences["test"]
    number = name.removeprefix("image_").removesuffix(".png")
    assert sentences == [f"a dog , no {number} !", f"a cat , no {number} !"]
    assert np.abs(data.images["test"].astype(int) - (200, 30, 30)).max() <= 1
    assert load_captioned(*own).digest == data.digest
    other = {**data.sentences, "test": [["a dog"]]}
    assert replace(data, sentences=other).digest != data.digest


def test_a_few_to_train_on_leave_the_other_parts_as_they_are(own):
    data = load_captioned(*own)
    few = data.with_few(3)
    assert few.names == {**data.names, "train": data.names["train"][:3]}
    assert few.sentences["train"] == data.sentences["train"][:3]
    np.testing.assert_array_equal(few.images["train"], data.images["train"][:3])
    np.testing.assert_array_equal(few.images["test"], data.images["test"])
    assert few.digest != data.digest


def test_parts_do_not_depend_on_the_order_of_lines(own):
    _, captions = own
    names = load_captioned(*own).names
    captions.write_text("\n".join(captions.read_text().splitlines()[::-1]) + "\n")
    assert load_captioned(*own).names == names


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("image_0.png a dog", "line 41: expected an image's name, a tab and a caption, got 'im"),
        ("\ta dog", "line 41: no name of an image before the tab"),
        ("#3\ta dog", "line 41: no name of an image before the tab"),
        ("image_0.png#2\t  ", "line 41: no caption behind the tab"),
        ("other.png#0\ta dog", "line 41: {folder} has no image other.png"),
    ],
)
def test_what_is_wrong_in_a_file_of_captions_is_named(line, words, own):
    folder, captions = own
    captions.write_text(captions.read_text() + line + "\n")
    with pytest.raises(InputError) as error:
        load_captioned(folder, captions)
    assert str(error.value).startswith(f"{captions}, {words.format(folder=folder)}")


def test_few_images_and_what_is_no_image_are_refused(own, tmp_path):
    folder, captions = own
    (folder / "image_3.png").write_text("not an image")
    with pytest.raises(InputError, match=r"image_3\.png is not an image that can be read"):
        load_captioned(folder, captions)
    Image.effect_noise((40, 40), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:400])
    with pytest.raises(InputError, match=r"cannot read .*cut\.png: "):
        read_image(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")
    captions.write_text("image_0.png\ta dog\n")
    with pytest.raises(InputError, match="names 1 images, expected 20 or more"):
        load_captioned(folder, captions)


def test_numbers_behind_names_are_no_part_of_them(tmp_path):
    lines = ["b#1.jpg#0\tOne .", "a.jpg\ttwo", "b#1.jpg#1\tthree"]
    (tmp_path / "c.txt").write_text("\n".join(lines) + "\n")
    found = read_captions(tmp_path / "c.txt")
    assert {name: (own.line, own.sentences) for name, own in found.items()} == {
        "b#1.jpg": (1, ["one .", "three"]), "a.jpg": (2, ["two"]),
    }  # fmt: skip


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Flickr8k with two images listed in each part."""
    files = {"Flickr8k.token.txt": tmp_path / "token.txt"}
    names = {part: [f"{part}_{i}.jpg" for i in range(2)] for part in LISTS}
    every = [name for own in names.values() for name in own]
    files["Flickr8k.token.txt"].write_text(
        "".join(f"{name}#{k}\tA dog {k} .\n" for name in [*every, "unlisted.jpg"] for k in range(5))
    )
    for part, file in LISTS.items():
        files[file] = tmp_path / file
        files[file].write_text("\n".join(names[part]) + "\n")
    monkeypatch.setattr(flickr.sources, "fetch", lambda name: files)
    monkeypatch.delenv("SEQLAB_DATA_MIRROR", raising=False)
    return names


def test_flickr8k_takes_a_folder_of_photographs(small, tmp_path):
    every = [name for own in small.values() for name in own]
    folder = painted(tmp_path / "photos", [*every[:-1], "unlisted.jpg"])
    data = load_flickr(folder)
    assert data.names == {**small, "test": ["test_0.jpg"]}
    assert data.sentences["test"] == [[f"a dog {k} ." for k in range(5)]]
    assert data.images["train"].shape == (2, 64, 64, 3)
    assert "train 2, valid 2, test 1, of 6000" in data.notes[0]
    # A photograph that is listed and that no caption names is left out.
    captions = tmp_path / "token.txt"
    captions.write_text(captions.read_text().replace("train_1.jpg", "train_9.jpg"))
    assert load_flickr(folder).names["train"] == ["train_0.jpg"]
    (folder / "test_0.jpg").unlink()
    with pytest.raises(InputError, match=r"has none of the 2 images of Flickr_8k\.testImages"):
        load_flickr(folder)
    with pytest.raises(InputError, match="is not a folder of images"):
        load_flickr(tmp_path / "nowhere")


def test_images_of_the_mirror_are_those_of_their_names(small, tmp_path, monkeypatch):
    every = [name for own in small.values() for name in own][::-1]
    shades = np.arange(len(every), dtype=np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (len(every), 64, 64, 3))
    np.savez(tmp_path / "small.npz", names=np.array(every), images=images)
    monkeypatch.setattr(flickr.sources, "in_mirror", lambda *_: tmp_path / "small.npz")
    data = load_flickr()
    assert data.names == small
    for part, names in data.names.items():
        assert [every[image[0, 0, 0]] for image in data.images[part]] == names


def test_without_photographs_one_message_says_how_to_get_them(small):
    with pytest.raises(InputError, match=r"--images .* or set SEQLAB_DATA_MIRROR to a folder"):
        load_flickr()


def test_what_only_a_mirror_has_is_verified_there(tmp_path, monkeypatch):
    (tmp_path / SET).mkdir()
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path))
    assert sources.in_mirror(SET, SMALL_IMAGES) is None
    (tmp_path / SET / SMALL_IMAGES.name).write_bytes(b"other")
    with pytest.raises(InputError, match=r"npz is damaged: expected 10935040 bytes"):
        sources.in_mirror(SET, SMALL_IMAGES)


@pytest.mark.skipif(
    not (REAL_MIRROR / SET / SMALL_IMAGES.name).is_file(),
    reason=f"no mirror at {REAL_MIRROR}: set SEQLAB_DATA_MIRROR",
)
def test_flickr8k_as_it_is(monkeypatch):
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))
    data = load_flickr()
    assert {part: images.shape for part, images in data.images.items()} == {
        "train": (753, 64, 64, 3), "valid": (113, 64, 64, 3), "test": (125, 64, 64, 3),
    }  # fmt: skip
    assert all(len(own) == 5 for part in data.sentences.values() for own in part)
    every = [name for names in data.names.values() for name in names]
    assert len(set(every)) == len(every)
    place = data.names["train"].index("1000268201_693b08cb0e.jpg")
    assert data.sentences["train"][place][1] == "a girl going into a wooden building ."
