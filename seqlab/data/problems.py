"""What to read and what to answer: every data set as one kind of problem, for any study."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqlab.data import digits, synthetic
from seqlab.data.checks import check_at_least, check_known
from seqlab.data.text import load_text, sample_windows, text_digest
from seqlab.data.vocabulary import Characters
from seqlab.errors import InputError

TEXTS = ("embedded", "tinyshakespeare", "ptb")
IMAGES = digits.IMAGES
TASKS = ("adding", "copy-memory", "temporal-order")
HELD_OUT = 0.1  # share of a text, its end, that is not trained on


class Batch(NamedTuple):
    """Sequences and their answers.

    Attributes:
      xs: tokens int32 [B, T], or real inputs float32 [B, T, D].
      targets: [B], or [B, T] where every step is answered; classes, or for "value" problems [B, 1].
      mask: [B, T] bool, True where real, or None where everything is.
    """

    xs: np.ndarray
    targets: np.ndarray
    mask: np.ndarray | None


class Problem(NamedTuple):
    """A data set with a question.

    Attributes:
      name: of the data set.
      vocab_size: V for tokens, None for real inputs.
      input_size: D of real inputs, None for tokens.
      output_size: classes, or width of a value.
      answers: "class" (cross-entropy in nats) or "value" (squared error).
      every_step: whether each step is answered, or the last alone.
      num_steps: T, of every batch.
      sample: (rng, count, is_test) -> Batch of fresh sequences.
      digest: which data this is, a sha256, or "generated".
    """

    name: str
    vocab_size: int | None
    input_size: int | None
    output_size: int
    answers: str
    every_step: bool
    num_steps: int
    sample: Callable[[np.random.Generator, int, bool], Batch]
    digest: str


def load_problem(
    dataset: str, *, corpus: Path | None = None, seq_len: int = 128, every_step: bool = False
) -> Problem:
    """The problem of that name.

    Texts are read as characters and ask for the next one, after the last step or after every step;
    their last tenth is held out. Images ask for the class after the last pixel. The synthetic tasks
    are those of `seqlab.data.synthetic` in their default versions, each with the answers its
    definition asks for.

    Args:
      dataset: one of `TEXTS`, `IMAGES` and `TASKS`.
      corpus: a UTF-8 text file of the user's own instead of the data set's.
      seq_len: T, steps of a text or a task (20 of them are not delay in copy memory); images have
        their own.
      every_step: whether a text is asked at every step.

    Raises:
      InputError: an unknown name, a text that is too short, or `every_step` where it has no
        meaning.
    """
    check_known(dataset, (*TEXTS, *IMAGES, *TASKS), "dataset")
    if corpus is not None and dataset != "embedded":
        raise InputError(f"give either dataset ({dataset}) or corpus ({corpus}), not both")
    if dataset in TEXTS:
        return _text_problem(dataset, corpus, seq_len, every_step)
    if every_step and dataset != "copy-memory":
        raise InputError(
            f"dataset {dataset} has an answer of its own; only texts are asked at every step"
        )
    if dataset in IMAGES:
        return _image_problem(dataset)
    return _task_problem(dataset, seq_len)


def _text_problem(dataset, corpus, seq_len, every_step):
    text = load_text(dataset if corpus is None else None, corpus)
    vocabulary = Characters.of(text)
    ids = vocabulary.encode(text)
    border = int(len(ids) * (1.0 - HELD_OUT))
    parts = {False: ids[:border], True: ids[border:]}
    if len(parts[True]) <= seq_len:
        raise InputError(
            f"text of {len(ids)} characters: its held-out tenth is shorter than a window of "
            f"{seq_len} + 1; give a longer text or a smaller seq_len"
        )

    def sample(rng, count, is_test):
        windows = sample_windows(parts[is_test], rng, count, seq_len + 1)
        targets = windows[:, 1:] if every_step else windows[:, -1]
        return Batch(windows[:, :-1], targets, None)

    name = dataset if corpus is None else Path(corpus).name
    size = len(vocabulary)
    return Problem(name, size, None, size, "class", every_step, seq_len, sample, text_digest(text))


def _image_problem(dataset):
    train, test = digits.load_images(dataset)

    def sample(rng, count, is_test):
        part = test if is_test else train
        rows = rng.integers(len(part.xs), size=count)
        return Batch(part.xs[rows], part.labels[rows], None)

    num_steps = train.xs.shape[1]
    return Problem(dataset, None, 1, 10, "class", False, num_steps, sample, dataset)


def _task_problem(dataset, seq_len):
    shortest = {"adding": 2, "temporal-order": 10, "copy-memory": 2 * synthetic.COPY_LENGTH + 1}
    check_at_least(seq_len, shortest[dataset], "seq_len", dataset)
    if dataset == "adding":
        make, length = synthetic.adding, seq_len
        input_size, output_size, answers, every_step = 2, 1, "value", False
    elif dataset == "temporal-order":
        make, length = synthetic.temporal_order, seq_len
        classes = synthetic.TEMPORAL_ORDER_CLASSES["pascanu"]
        input_size, output_size, answers, every_step = 6, classes, "class", False
    else:
        make, length = synthetic.copy_memory, seq_len - 2 * synthetic.COPY_LENGTH
        input_size, output_size, answers, every_step = 10, 9, "class", True

    def sample(rng, count, is_test):
        del is_test  # made anew each time
        return Batch(*make(rng, count, length))

    return Problem(
        dataset, None, input_size, output_size, answers, every_step, seq_len, sample, "generated"
    )
