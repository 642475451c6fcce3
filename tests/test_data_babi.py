"""Stories and questions: the files of bAbI, read strictly; the made-up world, held to its rules."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqlab.data.babi import TASKS, load_babi, read_babi
from seqlab.data.stories import Question, places, story_pairs, told
from seqlab.data.worlds import DROPS, MOVES, TAKES, world_questions
from seqlab.errors import InputError

ROOT = Path(__file__).parents[1]
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or ROOT.parent / "shared" / "data")
GOOD = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary took the milk there.
5 What is Mary carrying?\tmilk,apple\t4 1
1 John is tired.
2 Where will john go?\tbedroom\t1
"""


def written(tmp_path, text):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text(text)
    return path


def test_a_question_has_the_story_so_far_and_no_earlier_question(tmp_path):
    first, second, third = read_babi(written(tmp_path, GOOD), "1")
    mary, john, milk = (
        "mary moved to the bathroom .", "john went to the hallway .", "mary took the milk there .",
    )  # fmt: skip
    assert first == Question((mary, john), "where is mary ?", "bathroom", (0,), "1", 0)
    assert first.distance == 1
    assert second.sentences == (mary, john, milk)
    assert second.answer == "milk apple"
    assert second.facts == (2, 0)  # by their places, which are not their numbers
    assert second.source == f"{mary} {john} {milk} what is mary carrying ?"
    assert places(second).tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 5
    assert third == Question(("john is tired .",), "where will john go ?", "bedroom", (0,), "1", 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2 John went", "John went", "line 2: expected a number and a sentence, got 'John"),
        ("2 John went", "3 John went", "line 2: number 3 follows 1: expected 2, or 1 to begin"),
        ("1 Mary moved", "2 Mary moved", "line 1: number 2 follows 0"),
        ("hallway.", "hallway", "line 2: a sentence ends with a full stop, got 'John went"),
        ("Mary? \t", "Mary \t", "line 3: a question ends with a question mark, got 'Where is"),
        ("bathroom\t1", "bathroom", "line 3: a question has 3 fields between tabs, got 2"),
        ("bathroom\t1", "bathroom\t", "line 3: a question names the sentences"),
        ("bathroom\t1", "\t1", "line 3: expected words with commas between as the answer, got ''"),
        ("milk,apple", "milk,,apple", "line 5: expected words with commas between"),
        ("bathroom\t1", "bathroom\t4", "line 3: supporting fact '4' is no sentence before it"),
        ("\t4 1\n", "\t4 3\n", "line 5: supporting fact '3' is no sentence before it"),
        ("bedroom\t1", "bedroom\t1.5", "line 7: supporting fact '1.5'"),
        ("4 Mary took the milk there.\n", "\n", "line 4: expected a number"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(old, new, words, tmp_path):
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_babi(path)
    assert str(error.value).startswith(f"{path}, {words}")


def test_a_file_without_a_question_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no question"):
        read_babi(written(tmp_path, "1 Mary slept.\n"))


@pytest.mark.parametrize(("tasks", "words"), [((21,), "from 1 to 20"), ((), "tasks is empty"),
                                              ((1, 1), "one twice")])  # fmt: skip
def test_tasks_that_there_are_not(tasks, words):
    with pytest.raises(InputError, match=words):
        load_babi(tasks)


def test_the_published_files_are_read_whole(monkeypatch):
    if not (REAL_MIRROR / "babi").is_dir():
        pytest.skip(f"no {REAL_MIRROR / 'babi'}")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))
    parts = load_babi()
    assert {part: len(own) for part, own in parts.items()} == {
        "train": 18_011, "valid": 1_989, "test": 20_000,
    }  # fmt: skip
    counts = Counter(q.kind for own in parts.values() for q in own)
    assert counts == {str(task): 2_000 for task in TASKS}
    stories = {part: {(q.kind, q.story) for q in own} for part, own in parts.items()}
    assert not stories["train"] & stories["valid"]
    assert {q.answer for q in parts["test"] if q.kind == "19"} >= {"s e", "n n"}
    assert max(len(q.sentences) for q in parts["test"]) == 228
    assert load_babi([6])["valid"] == [q for q in parts["valid"] if q.kind == "6"]
    pairs = story_pairs("babi", parts)
    assert pairs.targets["train"][0] == told("bathroom")


def truth_of(question):
    """Answer and facts, by following the story from its beginning."""
    where, holder, lies, since, got = {}, {}, {}, {}, {}
    for i, sentence in enumerate(question.sentences):
        who, *rest, _ = sentence.split()
        verb, last = " ".join(rest[:-2]), rest[-1]
        if verb in MOVES:
            assert where.get(who) != last
            where[who], since[who] = last, i
        elif verb in TAKES:
            assert last not in holder  # nobody has it
            if lies.get(last) is not None:
                assert lies[last] == where.get(who)
            holder[last], got[last] = who, i
        else:
            assert verb in DROPS
            assert holder.get(last, who) == who
            holder.pop(last, None)
            lies[last], got[last] = where.get(who), i
            got[last, "since"] = since.get(who)
    asked = question.question.split()[-2]
    if question.kind == "one":
        return where[asked], (since[asked],)
    if asked in holder:
        return where[holder[asked]], tuple(sorted((got[asked], since[holder[asked]])))
    return lies[asked], tuple(sorted((got[asked], got[asked, "since"])))


def test_the_world_is_consistent_and_its_answers_and_facts_are_right():
    questions = world_questions(np.random.default_rng(0), 600, range(7))
    assert len({q.source for q in questions}) == 600
    for question in questions:
        answer, facts = truth_of(question)
        assert question.answer == answer
        assert tuple(sorted(question.facts)) == facts
    found = Counter((q.kind, q.distance) for q in questions)
    assert set(found) == {("one", d) for d in range(7)} | {("two", d) for d in range(1, 7)}
    assert max(found[kind, d] for kind in ("one", "two") for d in range(2, 7)) <= 43
    again = world_questions(np.random.default_rng(0), 600, range(7))
    assert questions == again


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"count": 0}, "count"),
        ({"distances": ()}, "distances"),
        ({"distances": (-1, 2)}, "distances"),
        ({"lead": -1}, "lead"),
        ({"kinds": ("three",)}, "unknown kind"),
    ],
)
def test_worlds_that_there_are_not(fields, words):
    with pytest.raises(InputError, match=words):
        world_questions(np.random.default_rng(0), **{"count": 5, **fields})
