"""Every data set as a problem: shapes, ranges, splits, and what is refused."""

import numpy as np
import pytest

from seqlab.data import problems
from seqlab.data.problems import load_problem
from seqlab.errors import InputError


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("every_step", [False, True])
def test_a_text_asks_for_the_next_character(every_step):
    problem = load_problem("embedded", seq_len=20, every_step=every_step)
    batch = problem.sample(rng(), 7, False)
    assert batch.xs.shape == (7, 20)
    assert batch.targets.shape == ((7, 20) if every_step else (7,))
    assert 0 <= batch.xs.min() <= batch.xs.max() < problem.vocab_size == problem.output_size
    if every_step:
        np.testing.assert_array_equal(batch.targets[:, :-1], batch.xs[:, 1:])


def test_the_held_out_end_is_not_trained_on(tmp_path):
    text = "a" * 900 + "b" * 100
    (tmp_path / "text.txt").write_text(text)
    problem = load_problem("embedded", corpus=tmp_path / "text.txt", seq_len=10)
    train, test = (problem.sample(rng(), 50, is_test) for is_test in (False, True))
    assert set(np.unique(train.xs)) == {4}  # the first id that is not special
    assert set(np.unique(test.xs)) == {5}
    assert problem.vocab_size == problem.output_size == 6
    assert problem.name == "text.txt"


@pytest.mark.parametrize("dataset", ["digits", *problems.TASKS])
def test_real_inputs_have_the_stated_shapes(dataset):
    problem = load_problem(dataset, seq_len=40)
    batch = problem.sample(rng(), 5, True)
    assert batch.xs.shape == (5, problem.num_steps, problem.input_size)
    assert problem.vocab_size is None
    if problem.answers == "value":
        assert batch.targets.shape == (5, problem.output_size)
    else:
        assert batch.targets.shape == ((5, problem.num_steps) if problem.every_step else (5,))
        assert 0 <= batch.targets.min() <= batch.targets.max() < problem.output_size


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("embeded", {}, "did you mean 'embedded'"),
        ("digits", {"every_step": True}, "only texts"),
        ("copy-memory", {"seq_len": 20}, "seq_len must be 21 or more"),
        ("temporal-order", {"seq_len": 9}, "seq_len must be 10 or more"),
        ("adding", {"seq_len": 1}, "seq_len must be 2 or more"),
        ("embedded", {"seq_len": 10**7}, "shorter than a window"),
    ],
)
def test_what_cannot_be_is_refused_by_name(dataset, options, words):
    with pytest.raises(InputError, match=words):
        load_problem(dataset, **options)


def test_copy_memory_may_be_called_what_it_is():
    assert load_problem("copy-memory", seq_len=40, every_step=True).every_step
