"""Stories, questions about them, and which of their sentences the answer rests on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqlab.data.pairs import Pairs
from seqlab.data.words import cut_words


class Question(NamedTuple):
    """A question at the end of a story, all texts as lower-cased words with blanks between.

    Attributes:
      sentences: the story so far, without earlier questions, each with its full stop.
      question: with its question mark.
      answer: one or several words.
      facts: places in `sentences` of what the answer rests on, from 0, as the set orders them.
      kind: of question; the task of a set that has tasks.
      story: which story of its set this is; several questions may be about one.
    """

    sentences: tuple[str, ...]
    question: str
    answer: str
    facts: tuple[int, ...]
    kind: str
    story: int

    @property
    def source(self) -> str:
        """Story and question in one text."""
        return " ".join((*self.sentences, self.question))

    @property
    def distance(self) -> int:
        """Sentences that stand between the oldest fact and the question."""
        return len(self.sentences) - 1 - min(self.facts)


def told(text: str) -> str:
    """A sentence, question or answer as the words of `Question`; commas are left out."""
    return " ".join(word for word in cut_words(text, "words") if word != ",")


def places(question: Question) -> np.ndarray:
    """Of each word of the source the sentence that it stands in, [S]; the question is the last."""
    sizes = [len(text.split()) for text in (*question.sentences, question.question)]
    return np.repeat(np.arange(len(sizes)), sizes)


def story_pairs(
    name: str, parts: Mapping[str, Sequence[Question]], notes: Iterable[str] = ()
) -> Pairs:
    """Questions as pairs of texts: story and question to read, the answer to say."""
    return Pairs(
        name=name,
        sources={part: [each.source for each in own] for part, own in parts.items()},
        targets={part: [each.answer for each in own] for part, own in parts.items()},
        source_level="word",
        target_level="word",
        source_form="words",
        target_form="words",
        notes=tuple(notes),
    )
