"""The 20 question answering tasks of bAbI, version 1.2, English, 1,000 training questions each.

Files are as they were published. A line is a number, which begins again at 1 with each story, and a
sentence, or else a question, its answer and the numbers of the sentences that it rests on, with
tabs between. Words of an answer have commas between.

A part of the training stories, every tenth, is for validation. By story, as the questions about
one have sentences in common. In tasks that allow few different stories (4, 15, 17, 18) the same
small story is told again in other parts, test too; so it is in the published figures.

References: Weston et al., 2015, "Towards AI-complete question answering" (arXiv:1502.05698).
"""

from collections.abc import Iterable
from pathlib import Path

from seqlab.data import sources
from seqlab.data.checks import check_distinct
from seqlab.data.stories import Question, told
from seqlab.data.text import read_utf8
from seqlab.errors import InputError

TASKS = tuple(range(1, 21))
NAMES = {task: name for task, name in enumerate(sources.BABI_TASKS, start=1)}
VALID_EVERY = 10  # stories of train


def load_babi(tasks: Iterable[int] = TASKS) -> dict[str, list[Question]]:
    """Questions of some tasks in the parts "train", "valid" and "test"; `kind` is the task.

    Args:
      tasks: numbers from 1 to 20.

    Raises:
      InputError: another task, none, or one twice; what `sources.fetch` or `read_babi` raises.
    """
    tasks = tuple(tasks)
    check_distinct(tasks, "tasks")
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"tasks are numbers from 1 to 20, got {task}")
    files = sources.fetch("babi")
    parts: dict[str, list[Question]] = {"train": [], "valid": [], "test": []}
    for task in tasks:
        stem = f"qa{task}_{NAMES[task]}"
        for question in read_babi(files[f"{stem}_train.txt"], str(task)):
            is_valid = question.story % VALID_EVERY == VALID_EVERY - 1
            parts["valid" if is_valid else "train"].append(question)
        parts["test"] += read_babi(files[f"{stem}_test.txt"], str(task))
    return parts


def read_babi(path: Path, kind: str = "") -> list[Question]:
    """The questions of a file in the format of bAbI, in order.

    Args:
      path: of the file.
      kind: of its questions.

    Raises:
      InputError: naming file and line: a number that is not the next or 1; a line without one; a
        sentence without its full stop; a question without its mark, answer or facts; a fact that is
        no sentence before it in the same story; a file without a question, or what `read_utf8`
        raises.
    """
    found: list[Question] = []
    sentences: dict[int, str] = {}  # by their numbers
    last, story = 0, -1
    for place, line in enumerate(read_utf8(path).removesuffix("\n").split("\n"), start=1):

        def refuse(fault: str, place: int = place) -> InputError:
            return InputError(f"{path}, line {place}: {fault}")

        head, _, rest = line.partition(" ")
        if not (head.isascii() and head.isdigit()) or not rest.strip():
            raise refuse(f"expected a number and a sentence, got {line[:40]!r}")
        number = int(head)
        if number == 1:
            sentences, story = {}, story + 1
        elif number != last + 1 or story < 0:
            raise refuse(f"number {number} follows {last}: expected {last + 1}, or 1 to begin")
        last = number
        if "\t" not in rest:
            if not rest.rstrip().endswith("."):
                raise refuse(f"a sentence ends with a full stop, got {rest[-40:]!r}")
            sentences[number] = told(rest)
            continue
        fields = [field.strip() for field in rest.split("\t")]
        if len(fields) != 3:
            raise refuse(f"a question has 3 fields between tabs, got {len(fields)}")
        question, answer, facts = fields
        if not question.endswith("?"):
            raise refuse(f"a question ends with a question mark, got {question[-40:]!r}")
        if not all(word.strip() for word in answer.split(",")):
            raise refuse(f"expected words with commas between as the answer, got {answer!r}")
        order = {own: i for i, own in enumerate(sentences)}
        chosen = []
        for fact in facts.split(" ") if facts else []:
            if not fact.isascii() or not fact.isdigit() or int(fact) not in order:
                raise refuse(f"supporting fact {fact!r} is no sentence before it in its story")
            chosen.append(order[int(fact)])
        if not chosen:
            raise refuse("a question names the sentences that its answer rests on")
        found.append(
            Question(
                tuple(sentences.values()), told(question), told(answer), tuple(chosen), kind, story
            )
        )
    if not found:
        raise InputError(f"{path} has no question")
    return found
