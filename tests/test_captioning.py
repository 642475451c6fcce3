"""The study of captions: a small run, resumed, asked; a set of one's own; refusals."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import captioning as study
from seqlab.cli import main
from seqlab.data.scenes import load_scenes
from seqlab.errors import InputError
from seqlab.runlog import read_run
from tests.tiny_training import goes_on_alike, stopped_after

SIMPLE = ("--cell", "rnn", "--embed-size", "6", "--hidden-size", "8", "--channels", "4", "6", "8",
          "--num-buckets", "1", "--num-devices", "1", "--batch-size", "20",
          "--num-probed", "4")  # fmt: skip
SCENES = (*SIMPLE, "--num-train", "120", "--num-epochs", "2", "--save-every", "4",
          "--log-every", "3", "--learning-rate", "0.02")  # fmt: skip
FIGURES = {"training.png", "bleu.png", "agreement.png", "pictures.png", "map_1.png", "map_2.png"}


def run(out, *flags, at=None, plot=None):
    path = main(
        study.Config, stopped_after(study.run, at), plot, [*flags, "--out", str(out)],
        predict=study.predict,
    )  # fmt: skip
    return read_run(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run(tmp_path_factory.mktemp("scenes") / "run", *SCENES, plot=study.plot)


def rows(found, **fields):
    return study.plots.pick(found.metrics, **fields)


def test_a_run_says_what_it_is(trained):
    summary = trained.summary
    keys = {"test_bleu", "bleu_signature", "test_chrf", "exact_match", "test_perplexity",
            "sentences_per_s", "parameters", "compiled_shapes", "distinct_share", "same_caption",
            "other_image_perplexity", "test_new_bleu", "test_new_exact_match"}  # fmt: skip
    keys |= {f"right_{kind}" for kind in study.KINDS}
    keys |= {f"{name.replace(' ', '_')}_bleu_{n}" for name in study.BASELINES for n in range(1, 5)}
    assert keys <= set(summary)
    assert summary["bleu_4"] == pytest.approx(summary["test_bleu"])
    assert summary["bleu_1"] >= summary["bleu_4"]
    assert summary["other_image_perplexity"] != summary["test_perplexity"]
    assert summary["compiled_shapes"] == 1
    assert "tok:none" in summary["bleu_signature"]
    losses = [row["loss"] for row in rows(trained, split="valid")]
    assert losses[-1] < losses[0]
    assert FIGURES <= {path.name for path in (trained.path / "figures").iterdir()}


def test_maps_have_shares_of_the_cells_for_each_word(trained):
    maps = rows(trained, result="map")
    assert len(maps) == 2
    for row in maps:
        for name in ("attention", "gradient"):
            assert np.shape(row[name]) == (len(row["words"]), 64)
            np.testing.assert_allclose(np.sum(row[name], axis=1), 1.0, atol=1e-5)
    with np.load(trained.path / study.PICTURES) as content:
        pictures = rows(trained, result="picture")
        assert [row["place"] for row in pictures] == list(range(2, len(content["images"])))


def test_a_stopped_run_goes_on_to_the_same_numbers(trained, tmp_path):
    goes_on_alike(run, tmp_path / "again", SCENES, 9, trained)


def ask(path, monkeypatch, content, *more, source="-"):
    stdin = SimpleNamespace(buffer=io.BytesIO(content.encode()), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stdin)
    arguments = ["--from-run", str(path), "--predict", str(source), *more]
    main(study.Config, study.run, study.plot, arguments, predict=study.predict)


def test_images_are_described(trained, monkeypatch, capsys, tmp_path):
    # What the run itself has said of these: by their numbers, and as files of the user.
    said = [row["output"] for row in rows(trained, result="output")][:3]
    images = load_scenes({"train": 1, "valid": 1, "test": 20, "test_new": 20}).images["test"]
    Image.fromarray(images[1]).save(tmp_path / "scene.png")
    ask(trained.path, monkeypatch, f"0\n{tmp_path / 'scene.png'}\n2\n")
    assert capsys.readouterr().out.splitlines() == said
    ask(trained.path, monkeypatch, "", "--beam-size", "2", "--num-best", "2",
        source=tmp_path / "scene.png")  # fmt: skip
    scores = [float(line.split("\t")[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ("0\n20\n", (), "standard input, line 2: test images have numbers from 0 to 19, got 20"),
        ("0\n\n", (), "standard input, line 2: expected the path of an image or the number"),
        ("none.png\n", (), "standard input, line 1: none.png does not exist"),
        (f"{__file__}\n", (), "is not an image that can be read"),
        ("0\n", ("--num-best", "2"), "num_best is 2, beam_size 1: make it wider"),
    ],
)
def test_what_cannot_be_described_is_named(content, more, words, trained, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        ask(trained.path, monkeypatch, content, *more)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_the_same_caption_for_everything_is_seen_and_said():
    notes = []
    log = SimpleNamespace(note=notes.append)
    answers = [[f"sentence {i}"] for i in range(8)]
    found = study.repetition(["a dog"] * 6 + ["a cat", "two cats"], answers, log)
    assert found["repeats_itself"]
    assert found["same_caption"] == 0.75
    assert found["commonest_caption"] == "a dog"
    assert found["distinct_share"] == 3 / 8
    assert notes == ["warning: the same caption for everything? 75% of the test images are "
                     "described as 'a dog'"]  # fmt: skip
    assert not study.repetition([own[0] for own in answers], answers, log)["repeats_itself"]
    # Nor does one that says often what the references say nearly as often.
    often = [["a dog"]] * 3 + answers[3:]
    outputs = ["a dog"] * 4 + [own[0] for own in answers[4:]]
    assert not study.repetition(outputs, often, log)["repeats_itself"]
    assert len(notes) == 1


def test_as_many_sentences_of_an_image_as_asked_are_drawn():
    data = load_scenes({"train": 12, "valid": 1, "test": 5, "test_new": 1})
    taken: list[str] = []

    def targets(texts):
        taken.extend(texts)
        return [np.arange(2)] * len(texts)

    config = study.Config(per_image=2, batch_size=4, num_buckets=1)
    study.pictures(SimpleNamespace(targets=targets), data, "train", config)
    for number, own in enumerate(data.sentences["train"]):
        first, second = taken[2 * number : 2 * number + 2]
        assert {first, second} <= set(own)
        assert first != second


def test_the_share_on_an_object_is_of_the_words_that_name_it():
    data = load_scenes({"train": 1, "valid": 1, "test": 6, "test_new": 1})
    outputs = [own[0] for own in data.sentences["test"]]
    weights = np.zeros((6, 20, 64))
    # All weight of a word lies on the cell in the middle of the object that it belongs to.
    for row, text in enumerate(outputs):
        things = {thing[:3]: thing for thing in data.things["test"][row]}
        words = text.split()
        for i, word in enumerate(words):
            if word == "a":
                thing = things[tuple(words[i + 1 : i + 4])]
                weights[row, i + 1 : i + 4, thing.y // 8 * 8 + thing.x // 8] = 1.0
    found = []
    log = SimpleNamespace(write=lambda **fields: found.append(fields))
    study.on_objects({"attention": weights}, data, outputs, log)
    assert [row["kind"] for row in found] == ["size", "colour", "shape"]
    for row in found:
        assert row["count"] == sum(len(own) for own in data.things["test"])
        assert row["attention"] == pytest.approx(1.0)
        assert 0 < row["even"] < 0.5


def test_the_nearest_image_is_found():
    known = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    asked = np.array([[2.0, 0.5], [0.1, 4.0], [0.2, 0.1], [3.0, 0.0]])
    assert study.nearest(known, asked).tolist() == [1, 2, 0, 1]
    images = np.arange(64 * 64 * 3).reshape(1, 64, 64, 3) % 256
    assert study.coarse(images)[0, 3:6] == pytest.approx(images[0, :4, 4:8].mean(axis=(0, 1)))


@pytest.mark.slow
def test_a_set_of_ones_own_by_three_contexts(tmp_path):
    """Plain images in two colours, to be told apart."""
    (tmp_path / "images").mkdir()
    lines = []
    for i in range(60):
        colour = ("red", "blue")[i % 2]
        Image.new("RGB", (20, 30), colour).save(tmp_path / "images" / f"{i}.png")
        lines += [f"{i}.png#{k}\tAll {colour} ." for k in range(2)]
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    found = run(tmp_path / "run", *SIMPLE, "--images", str(tmp_path / "images"), "--captions",
                str(tmp_path / "captions.txt"), "--num-epochs", "8", "--learning-rate", "0.03",
                "--drop-cells", "0", "--drop-inputs", "0", "--drop-features", "0", "--tied",
                "False", "--min-count", "1", "--compare", plot=study.plot)  # fmt: skip
    assert set(found.summary["models"]) == {"attention", "every", "state"}
    for summary in found.summary["models"].values():
        assert summary["exact_match"] == 1.0
        assert summary["other_image_perplexity"] >= summary["test_perplexity"]
        assert "right_count" not in summary
    assert {path.name for path in (found.path / "figures").iterdir()} == {"bleu.png"}
    with pytest.raises(InputError, match="name one of attention, every, state in it"):
        study.predict(found.path, study.Path("-"), beam_size=1, num_best=1, length_penalty=None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "flickr"}, "did you mean 'flickr8k'"),
        ({"captions": study.Path("c")}, "captions go with --images"),
        ({"captions": study.Path("c"), "images": study.Path("i"), "dataset": "flickr8k"},
         "captions go with --images"),
        ({"images": study.Path("i")}, "images go with --captions, or with --dataset flickr8k"),
        ({"context": "all"}, "context"),
        ({"attention": "sum"}, "attention"),
        ({"bridge": "copy"}, "bridge"),
        ({"channels": (3, 0, 3)}, "channels must be 1 or more"),
        ({"num_mixed": -1}, "num_mixed must be 0 or more"),
        ({"hidden_size": 0}, "hidden_size must be 1 or more"),
        ({"drop_cells": 1.0}, "drop_cells must be a share below 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"length_penalty": -1.0}, "length_penalty must be 0 or more"),
        ({"dropout": 0.2}, "add a layer"),
        ({"input_feeding": True, "query": "previous"}, "context attention and query current"),
        ({"cell": "gruu"}, "gru"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        study.Config(**fields)
