"""A made-up world in which people move, take and drop things, and questions about it.

    story     ->  before  told  question
    told      ->  "mary went to the garden ."  N^d                      one fact
              |   "mary took the apple ."  N^i  "mary went to the garden ."  N^j    two: carried
              |   "mary went to the garden ."  N^i  "mary dropped the apple ."  N^j  two: dropped
    question  ->  "where is mary ?"  |  "where is the apple ?"

Every N is a sentence that happens in the world as it then is and leaves the answer alone: others
move, take what lies where they are (or lies nobody knows where, as at the beginning), drop what
they carry; Mary does so too, but moves only where that says nothing (after she dropped the apple).
`before` is up to `lead` sentences of anything, Mary's own moves to other places among them.

The distance d of a question is the number of sentences between its oldest fact and itself; with two
facts d = i + 1 + j, and i is uniform. Distances, and kinds, come equally often. So the accuracy
against d shows how far back a model still finds what it needs: with one fact the last sentence
about Mary's place, with two first who has the apple, or had it, and then where she is, or was.
"""

from collections.abc import Sequence, Set

import numpy as np

from seqlab.data.checks import check_at_least, check_distinct, check_known
from seqlab.data.stories import Question

KINDS = ("one", "two")
PEOPLE = ("bill", "daniel", "fred", "john", "mary", "sandra")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "ball", "book", "milk")
MOVES = ("went to", "moved to", "travelled to")
TAKES = ("took", "got", "picked up")
DROPS = ("dropped", "left", "put down")


def world_questions(
    rng: np.random.Generator,
    count: int,
    distances: Sequence[int] = range(13),
    *,
    kinds: Sequence[str] = KINDS,
    lead: int = 4,
) -> list[Question]:
    """Questions of distinct stories in random order, the same for the same seed.

    Args:
      rng: source of the stories.
      count: number of questions.
      distances: values of d; a question of two facts with d = 0 has d = 1 instead.
      kinds: "one" and "two", the number of facts.
      lead: the most sentences before.

    Raises:
      InputError: no question, a negative, repeated or missing distance, lead or kind.
    """
    check_at_least(count, 1, "count")
    check_distinct(distances, "distances")
    check_at_least(min(distances), 0, "distances")
    check_distinct(kinds, "kinds")
    check_at_least(lead, 0, "lead")
    for kind in kinds:
        check_known(kind, KINDS, "kind")
    found: dict[str, Question] = {}
    for place in range(count):
        kind, distance = kinds[place % len(kinds)], distances[place // len(kinds) % len(distances)]
        distance = max(distance, 1) if kind == "two" else distance
        for _ in range(1000):
            question = _Story(rng, lead).ask(kind, distance, place)
            if question.source not in found:
                break
        found[question.source] = question
    own = list(found.values())
    return [own[i] for i in rng.permutation(len(own)).tolist()]


class _Story:
    """The state of the world, and what was told of it so far."""

    def __init__(self, rng: np.random.Generator, lead: int):
        self.rng, self.lead = rng, lead
        self.sentences: list[str] = []
        self.where: dict[str, str] = {}  # of people, once they have moved
        self.held: dict[str, str] = {}  # thing -> who has it
        self.lies: dict[str, str | None] = {}  # thing -> where it was dropped, None where unknown

    def ask(self, kind: str, distance: int, number: int) -> Question:
        who, thing = self.any(PEOPLE), self.any(THINGS)
        num_before = int(self.rng.integers(self.lead, endpoint=True))
        if kind == "one":
            self.happens(num_before)
            facts = [self.move(who)]
            place = self.where[who]
            self.happens(distance, still={who})
            return self.question(f"where is {who} ?", place, facts, kind, number)
        middle = int(self.rng.integers(distance))
        asked = f"where is the {thing} ?"
        if self.rng.random() < 0.5:
            self.happens(num_before, hands_off={thing})
            facts = [self.take(who, thing)]
            self.happens(middle, still={who}, hands_off={thing})
            facts.append(self.move(who))
            place = self.where[who]
            self.happens(distance - 1 - middle, still={who}, hands_off={thing})
        else:
            # Who drops it has taken it before, where there is a sentence for that.
            self.happens(max(num_before - 1, 0), hands_off={thing})
            self.held[thing] = who
            if num_before:
                self.take(who, thing)
            facts = [self.move(who)]
            place = self.where[who]
            self.happens(middle, still={who}, hands_off={thing})
            facts.append(self.drop(who, thing))
            self.happens(distance - 1 - middle, hands_off={thing})
        return self.question(asked, place, facts, kind, number)

    def question(self, asked, answer, facts, kind, number) -> Question:
        return Question(tuple(self.sentences), asked, answer, tuple(facts), kind, number)

    def happens(
        self, count: int, still: Set[str] = frozenset(), hands_off: Set[str] = frozenset()
    ) -> None:
        """So many sentences in which nobody of `still` moves and nothing of `hands_off` changes."""
        for _ in range(count):
            drops = [(who, thing) for thing, who in self.held.items() if thing not in hands_off]
            takes = [
                (who, thing)
                for thing in THINGS
                if thing not in hands_off and thing not in self.held
                for who in PEOPLE
                if self.lies.get(thing) in (None, self.where.get(who))
            ]
            kind = self.rng.random()
            if kind < 0.2 and drops:
                self.drop(*drops[self.rng.integers(len(drops))])
            elif kind < 0.4 and takes:
                self.take(*takes[self.rng.integers(len(takes))])
            else:
                self.move(self.any([each for each in PEOPLE if each not in still]))

    def move(self, who: str) -> int:
        """Never to where they are: no two sentences say the same of them."""
        self.where[who] = self.any([place for place in PLACES if place != self.where.get(who)])
        return self.tell(f"{who} {self.any(MOVES)} the {self.where[who]} .")

    def take(self, who: str, thing: str) -> int:
        self.held[thing] = who
        return self.tell(f"{who} {self.any(TAKES)} the {thing} .")

    def drop(self, who: str, thing: str) -> int:
        self.held.pop(thing)
        self.lies[thing] = self.where.get(who)
        return self.tell(f"{who} {self.any(DROPS)} the {thing} .")

    def tell(self, sentence: str) -> int:
        self.sentences.append(sentence)
        return len(self.sentences) - 1

    def any(self, items: Sequence[str]) -> str:
        return items[int(self.rng.integers(len(items)))]
