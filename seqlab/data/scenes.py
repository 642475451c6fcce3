"""Made-up scenes: one to three coloured shapes on a grey ground, and sentences that describe them.

    scene      one, two or three objects that do not touch
    object     a size, a colour and a shape, and where its middle is
    size       small (a radius of 6 pixels), large (of 10)
    colour     red, green, blue, yellow, purple, cyan
    shape      circle, square, triangle, cross
    image      64x64 pixels, red, green and blue bytes; the ground is grey, its shade drawn for each
               scene, and a little noise lies over everything

    sentence   THING PLACE              of one object     "a small red circle on the left"
             | THING REL THING          of two            "a large blue square below a red ..."
             | THING REL THING and REL THING   of three
             each of them also behind "there is"
    THING      a SIZE COLOUR SHAPE
    PLACE      in the middle | on the left | on the right | at the top | at the bottom
    REL        left of | right of | above | below

The first object is the subject of every relation: "a small red circle left of a large blue square
and above a small green cross". Any object may be the subject, and the others come in any order, so
a scene has 2, 4 or 12 sentences, all of them true and complete; there are no other ones. Which
relation holds is decided by the axis on which the middles are farther apart, and no scene has two
objects for which that is a matter of few pixels.

Four combinations of colour and shape, `HELD_OUT`, are in no scene of train, valid and test; every
scene of "test_new" has one. Each of these colours and shapes is seen in other combinations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

import numpy as np

from seqlab.data.captions import IMAGE_SIZE, Captioned
from seqlab.data.checks import check_at_least
from seqlab.errors import InputError

SIZE = IMAGE_SIZE
RADII = {"small": 6, "large": 10}
COLOURS = {
    "red": (215, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 50, 175),
    "cyan": (60, 205, 215),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = ("left of", "right of", "above", "below")
PLACES = ("in the middle", "on the left", "on the right", "at the top", "at the bottom")
HELD_OUT = (("red", "square"), ("blue", "triangle"), ("yellow", "circle"), ("purple", "cross"))
KINDS = ("count", "size", "colour", "shape", "relation")
SIZES = {"train": 20_000, "valid": 500, "test": 1_000, "test_new": 500}

_KINDS = (tuple(RADII), tuple(COLOURS), SHAPES)
_LEAST_APART = 5  # pixels by which one axis outdoes the other, and between one place and the next
_GAP = 3  # pixels between two objects
_NOISE = 6.0  # standard deviation, grey levels


class Thing(NamedTuple):
    """An object, and the middle of it in pixels from the left and from the top."""

    size: str
    colour: str
    shape: str
    x: int
    y: int

    @property
    def name(self) -> str:
        """As a sentence names it."""
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Claim:
    """What a sentence says: its things, each (size, colour, shape), and what relates them.

    Attributes:
      things: the first is the subject.
      relations: of one thing its place; else of every later thing how the subject lies to it.
    """

    things: tuple[tuple[str, str, str], ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Scenes(Captioned):
    """`Captioned`, and what is in each image.

    Attributes:
      things: part -> of each image its objects.
    """

    things: dict[str, list[tuple[Thing, ...]]] = field(default_factory=dict)


def load_scenes(sizes: Mapping[str, int] | None = None, seed: int = 0) -> Scenes:
    """Scenes with all of their sentences, of the parts train, valid, test and test_new.

    No scene is twice in a part or in two parts, as told by its objects and where they are. What is
    in test and test_new depends on the seed and their own sizes alone.

    Args:
      sizes: scenes of each part; `SIZES` by default.
      seed: of everything that is drawn.

    Raises:
      InputError: sizes that are not those of the four parts, or below 1.
    """
    sizes = dict(SIZES if sizes is None else sizes)
    if set(sizes) != set(SIZES):
        raise InputError(f"sizes are of {' '.join(sizes)}, expected {' '.join(SIZES)}")
    images, things = {}, {}
    known: set[frozenset[Thing]] = set()
    for number, part in enumerate(reversed(SIZES)):
        check_at_least(sizes[part], 1, f"size of {part}")
        rng = np.random.default_rng([seed, number])
        things[part] = draw_scenes(sizes[part], rng, is_new=part == "test_new", known=known)
        images[part] = np.stack([draw_image(scene, rng) for scene in things[part]])
    return Scenes(
        "scenes",
        {part: images[part] for part in SIZES},
        {part: [describe(scene) for scene in things[part]] for part in SIZES},
        {part: [f"scene {number}" for number in range(sizes[part])] for part in SIZES},
        notes=(
            "generated",
            "test_new: scenes with a combination of colour and shape that no training scene has",
        ),
        things={part: things[part] for part in SIZES},
    )


def draw_scenes(
    count: int,
    rng: np.random.Generator,
    *,
    is_new: bool = False,
    known: set[frozenset[Thing]] | None = None,
) -> list[tuple[Thing, ...]]:
    """Scenes of one, two or three objects, equally often, no two objects of a scene alike.

    Args:
      count: number of scenes.
      rng: source of everything.
      is_new: whether each scene has a combination of `HELD_OUT`, or none does.
      known: scenes that are not drawn again; those that are drawn come to it.
    """
    known = set() if known is None else known
    found: list[tuple[Thing, ...]] = []
    while len(found) < count:
        scene = _drawn(1 + len(found) % 3, rng)
        if scene is None or frozenset(scene) in known:
            continue
        if is_new == any((thing.colour, thing.shape) in HELD_OUT for thing in scene):
            known.add(frozenset(scene))
            found.append(scene)
    return [found[place] for place in rng.permutation(count)]


def draw_image(scene: Sequence[Thing], rng: np.random.Generator) -> np.ndarray:
    """The image of a scene, bytes [64, 64, 3]."""
    image = np.full((SIZE, SIZE, 3), rng.uniform(20, 90), np.float32)
    for thing in scene:
        image[pixels_of(thing)] = COLOURS[thing.colour]
    image += _NOISE * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def pixels_of(thing: Thing) -> np.ndarray:
    """Where an object is, bool [64, 64]."""
    dx, dy = np.arange(SIZE) - thing.x, np.arange(SIZE)[:, None] - thing.y
    return _INSIDE[thing.shape](dx, dy, RADII[thing.size])


def describe(scene: Sequence[Thing]) -> list[str]:
    """All sentences that the grammar has for a scene, those without "there is" first."""
    if len(scene) == 1:
        (thing,) = scene
        plain = [f"{thing.name} {place_of(thing)}"]
    else:
        plain = [
            f"{subject.name} "
            + " and ".join(f"{relation_of(subject, other)} {other.name}" for other in others)
            for subject, *others in permutations(scene)
        ]
    return [*plain, *[f"there is {sentence}" for sentence in plain]]


def relation_of(one: Thing, other: Thing) -> str:
    """How one object lies to another, one of `RELATIONS`."""
    dx, dy = one.x - other.x, one.y - other.y
    if abs(dx) > abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def place_of(thing: Thing) -> str:
    """Where an object lies that is alone, one of `PLACES`."""
    dx, dy = thing.x - SIZE // 2, thing.y - SIZE // 2
    if max(abs(dx), abs(dy)) < SIZE // 8:
        return "in the middle"
    if abs(dx) > abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def read_sentence(sentence: str) -> Claim | None:
    """What a sentence claims; None for one that is not in the grammar.

    The grammar is that of the module, with as many objects as somebody cares to name.
    """
    words = sentence.split()
    if words[:2] == ["there", "is"]:
        words = words[2:]
    things, relations = [], []
    thing, words = _thing(words)
    if thing is None:
        return None
    things.append(thing)
    if " ".join(words) in PLACES:
        return Claim((thing,), (" ".join(words),))
    while words:
        for relation in RELATIONS:
            own = relation.split()
            if words[: len(own)] == own:
                words = words[len(own) :]
                break
        else:
            return None
        thing, words = _thing(words)
        if thing is None:
            return None
        things.append(thing)
        relations.append(relation)
        if words:
            if words[0] != "and" or len(words) == 1:
                return None
            words = words[1:]
    return Claim(tuple(things), tuple(relations)) if relations else None


def agreement(sentence: str, answers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How much of a sentence is right by kind: kind -> (right, how many there are to say).

    It is held against that one of the scene's sentences which it comes nearest to, thing by thing
    in their order; objects beyond those that there are count against "count" alone. Of "count"
    there is one a scene, of "relation" one where there is one object. In a sentence that is not in
    the grammar nothing is right.

    Args:
      sentence: that was written.
      answers: all sentences of the scene.

    Raises:
      ValueError: no answer, or one that is not in the grammar.
    """
    claim = read_sentence(sentence)
    best, most = None, -1
    for answer in answers:
        truth = read_sentence(answer)
        if truth is None:
            raise ValueError(f"{answer!r} is not in the grammar of scenes")
        found = _agreement(claim, truth)
        right = sum(hits for hits, _ in found.values())
        if right > most:
            best, most = found, right
    if best is None:
        raise ValueError("a scene without sentences")
    return best


def _agreement(claim, truth):
    things = claim.things if claim else ()
    relations = claim.relations if claim else ()
    pairs = list(zip(things, truth.things, strict=False))
    found = {"count": (int(len(things) == len(truth.things)), 1)}
    for place, kind in enumerate(("size", "colour", "shape")):
        found[kind] = (sum(a[place] == b[place] for a, b in pairs), len(truth.things))
    same = sum(a == b for a, b in zip(relations, truth.relations, strict=False))
    return {**found, "relation": (same, len(truth.relations))}


def _thing(words):
    """(size, colour, shape) at the head of words, and the rest; None where there is none."""
    if len(words) < 4 or words[0] != "a":
        return None, words
    size, colour, shape = words[1:4]
    if size not in RADII or colour not in COLOURS or shape not in SHAPES:
        return None, words
    return (size, colour, shape), words[4:]


def _drawn(count, rng):
    """One scene, or None where what was drawn is ambiguous or does not fit."""
    scene: list[Thing] = []
    for row in rng.random((count, 5)).tolist():
        size, colour, shape = (
            kind[int(share * len(kind))] for kind, share in zip(_KINDS, row, strict=False)
        )
        radius = RADII[size] + 1
        x, y = (radius + int(share * (SIZE - 2 * radius)) for share in row[3:])
        scene.append(Thing(size, colour, shape, x, y))
    if len({thing[:3] for thing in scene}) < count:
        return None
    if count == 1:
        (thing,) = scene
        dx, dy = abs(thing.x - SIZE // 2), abs(thing.y - SIZE // 2)
        is_clear = max(dx, dy) < SIZE // 8 - _LEAST_APART // 2 or (
            max(dx, dy) >= SIZE // 8 + _LEAST_APART // 2 and abs(dx - dy) >= _LEAST_APART
        )
        return tuple(scene) if is_clear else None
    for k, one in enumerate(scene):
        for other in scene[:k]:
            dx, dy = abs(one.x - other.x), abs(one.y - other.y)
            reach = RADII[one.size] + RADII[other.size] + _GAP
            if max(dx, dy) < reach or abs(dx - dy) < _LEAST_APART:
                return None
    return tuple(scene)


_INSIDE = {
    "circle": lambda dx, dy, r: dx**2 + dy**2 <= r**2,
    "square": lambda dx, dy, r: np.maximum(abs(dx), abs(dy)) <= round(0.85 * r),
    "triangle": lambda dx, dy, r: (dy <= 0.8 * r) & (2 * abs(dx) <= dy + r),
    "cross": lambda dx, dy, r: (
        (np.minimum(abs(dx), abs(dy)) <= round(0.3 * r)) & (np.maximum(abs(dx), abs(dy)) <= r)
    ),
}
