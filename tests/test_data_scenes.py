"""Made-up scenes: sentences are true of their picture, parts do not meet, agreement counts."""

import numpy as np
import pytest

from seqlab.data.scenes import (
    COLOURS,
    HELD_OUT,
    KINDS,
    PLACES,
    SIZE,
    Thing,
    agreement,
    describe,
    draw_scenes,
    load_scenes,
    pixels_of,
    read_sentence,
)
from seqlab.errors import InputError

SIZES = {"train": 120, "valid": 30, "test": 60, "test_new": 30}
RED = Thing("small", "red", "circle", 12, 30)
BLUE = Thing("large", "blue", "square", 45, 25)
GREEN = Thing("small", "green", "cross", 20, 55)


@pytest.fixture(scope="module")
def scenes():
    return load_scenes(SIZES)


def is_true(one, relation, other):
    dx, dy = one.x - other.x, one.y - other.y
    return {
        "left of": dx < -abs(dy), "right of": dx > abs(dy),
        "above": dy < -abs(dx), "below": dy > abs(dx),
    }[relation]  # fmt: skip


def is_at(thing, place):
    dx, dy = thing.x - SIZE / 2, thing.y - SIZE / 2
    return {
        "in the middle": max(abs(dx), abs(dy)) < 8, "on the left": dx < -abs(dy),
        "on the right": dx > abs(dy), "at the top": dy < -abs(dx), "at the bottom": dy > abs(dx),
    }[place]  # fmt: skip


def test_every_sentence_is_true_and_complete(scenes):
    for part, sentences in scenes.sentences.items():
        for things, own in zip(scenes.things[part], sentences, strict=True):
            assert len(own) == len(set(own)) == {1: 2, 2: 4, 3: 12}[len(things)]
            named = {thing[:3]: thing for thing in things}
            for sentence in own:
                claim = read_sentence(sentence)
                assert set(claim.things) == set(named)
                subject, *others = (named[each] for each in claim.things)
                if others:
                    assert all(
                        is_true(subject, relation, other)
                        for relation, other in zip(claim.relations, others, strict=True)
                    )
                else:
                    assert is_at(subject, claim.relations[0])
                    assert sum(is_at(subject, place) for place in PLACES) <= 2


def test_images_show_what_there_is(scenes):
    for things, image in zip(scenes.things["test"], scenes.images["test"], strict=True):
        assert image.shape == (SIZE, SIZE, 3)
        covered = np.zeros((SIZE, SIZE), int)
        for thing in things:
            inside = pixels_of(thing)
            covered += inside
            assert inside[thing.y, thing.x]
            mean = image[inside].mean(axis=0)
            assert np.abs(mean - COLOURS[thing.colour]).max() < 6
        assert covered.max() == 1
        ground = image[covered == 0].astype(float)
        assert np.ptp(ground.mean(axis=0)) < 1.5  # grey
        assert 4 < ground.std() < 8


def test_no_scene_is_in_two_parts_and_new_combinations_are_in_one(scenes):
    every = [frozenset(things) for own in scenes.things.values() for things in own]
    assert len(set(every)) == len(every) == sum(SIZES.values())
    for part, own in scenes.things.items():
        for things in own:
            is_new = any((thing.colour, thing.shape) in HELD_OUT for thing in things)
            assert is_new == (part == "test_new")
        assert {len(things) for things in own} == {1, 2, 3}


def test_what_is_known_is_not_drawn_again():
    known = set()
    first, again = (draw_scenes(20, np.random.default_rng(0), known=known) for _ in range(2))
    assert known == {frozenset(scene) for scene in first + again}
    assert len(known) == 40


def test_test_parts_do_not_depend_on_how_many_are_trained_on(scenes):
    other = load_scenes({**SIZES, "train": 1, "valid": 1})
    assert other.sentences["test"] == scenes.sentences["test"]
    np.testing.assert_array_equal(other.images["test_new"], scenes.images["test_new"])
    assert other.digest != scenes.digest == load_scenes(SIZES).digest
    assert load_scenes(SIZES, seed=1).digest != scenes.digest


def test_a_scene_by_hand():
    assert describe([RED, BLUE]) == [
        "a small red circle left of a large blue square",
        "a large blue square right of a small red circle",
        "there is a small red circle left of a large blue square",
        "there is a large blue square right of a small red circle",
    ]
    own = describe([RED, BLUE, GREEN])
    assert (
        "a small green cross below a small red circle and below a large blue square" in own
    )  # 30 pixels down, 25 across


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "there is",
        "a small red circle",
        "small red circle on the left",
        "a red small circle on the left",
        "a small red circle on the left and",
        "a small red circle left of",
        "a small red circle left a large blue square",
        "a small red circle left of a large blue square and",
        "a small red circle left of a large blue square below a small green cross",
        "a small red disc on the left",
        "a small red circle on the left below a large blue square",
    ],
)
def test_what_is_not_in_the_grammar_claims_nothing(sentence):
    assert read_sentence(sentence) is None
    found = agreement(sentence, describe([RED, BLUE]))
    assert {kind: hits for kind, (hits, _) in found.items()} == dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize(
    ("sentence", "right"),
    [
        ("a small red circle left of a large blue square", (1, 2, 2, 2, 1)),
        ("there is a large blue square right of a small red circle", (1, 2, 2, 2, 1)),
        ("a large blue square left of a small red circle", (1, 2, 2, 2, 0)),
        ("a small red cross left of a small blue square", (1, 1, 2, 1, 1)),
        ("a large blue square on the right", (0, 1, 1, 1, 0)),
        (
            "a small red circle left of a large blue square and above a large blue square",
            (0, 2, 2, 2, 1),
        ),
    ],
)
def test_agreement_counts_thing_by_thing(sentence, right):
    found = agreement(sentence, describe([RED, BLUE]))
    assert tuple(found[kind][0] for kind in KINDS) == right
    assert tuple(found[kind][1] for kind in KINDS) == (1, 2, 2, 2, 1)


def test_agreement_needs_sentences_of_the_grammar():
    with pytest.raises(ValueError, match="not in the grammar"):
        agreement("x", ["a dog"])
    with pytest.raises(ValueError, match="without sentences"):
        agreement("x", [])


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"train": 5}, "sizes are of train, expected train valid test test_new"),
        ({**SIZES, "test": 0}, "size of test must be 1 or more"),
    ],
)
def test_sizes_that_cannot_be(sizes, words):
    with pytest.raises(InputError, match=words):
        load_scenes(sizes)
