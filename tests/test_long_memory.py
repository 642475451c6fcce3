"""Tasks, criteria and first weights of the study of long memories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.long_memory import (
    CELLS,
    INITS,
    METHODS,
    TASKS,
    Config,
    exam,
    filled,
    judge,
    kinds,
    make_cell,
    measure,
    padded,
    pascanu_params,
    sample,
)
from seqlab.data.synthetic import COPY_LENGTH
from seqlab.errors import InputError


def rng():
    return np.random.default_rng(0)


def test_the_right_answers_are_right_and_lose_nothing():
    for name, task in TASKS.items():
        batch = task.make(rng(), 8, max(task.lengths))
        if task.is_value:
            logits = batch.targets
        else:
            logits = 50.0 * np.eye(task.output_size, dtype=np.float32)[batch.targets]
        losses, correct = map(np.asarray, measure(jnp.asarray(logits), batch, task))
        assert losses.shape == correct.shape == (8,), name
        assert losses.max() < 1e-6, name
        assert np.all(correct == 1), name
        assert task.is_solved(losses, correct, max(task.lengths)), name


def test_answers_without_memory_have_the_loss_of_the_baseline_and_fail():
    for name, task in TASKS.items():
        length = max(task.lengths)
        batch = task.make(rng(), 4000, length)
        if task.is_value:
            logits = np.full_like(batch.targets, batch.targets.mean())
        elif task.every_step:  # blank until the delimiter, then any of the eight
            logits = np.zeros((*batch.targets.shape, 9), np.float32)
            logits[:, :-COPY_LENGTH, 0] = 50.0
            logits[:, -COPY_LENGTH:, 0] = -50.0
        else:
            logits = np.zeros((4000, task.output_size), np.float32)
        losses, correct = map(np.asarray, measure(jnp.asarray(logits), batch, task))
        assert losses.mean() == pytest.approx(task.baseline(length), rel=0.05), name
        assert not task.is_solved(losses, correct, length), name


def test_recall_counts_the_ten_symbols_alone():
    task = TASKS["copy-memory"]
    batch = task.make(rng(), 2, 5)
    answers = np.array(batch.targets)
    answers[0, -4:] = batch.targets[0, -4:] % 8 + 1  # four of ten wrong
    answers[1, :10] = 3  # wrong where nothing is asked
    logits = 50.0 * np.eye(9, dtype=np.float32)[answers]
    np.testing.assert_allclose(measure(jnp.asarray(logits), batch, task)[1], [0.6, 1.0], rtol=1e-6)


def test_padding_changes_no_loss():
    task = TASKS["copy-memory"]
    batch = task.make(rng(), 3, 4)
    longer = padded(batch, 40)
    assert longer.xs.shape[1] == longer.targets.shape[1] == longer.mask.shape[1] == 40
    logits = rng().normal(size=(3, 40, 9)).astype(np.float32)
    short = measure(jnp.asarray(logits[:, : batch.xs.shape[1]]), batch, task)
    for a, b in zip(measure(jnp.asarray(logits), longer, task), short, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_lengths_are_drawn_from_the_shortest_on():
    config = filled(Config(study="remedies", shortest=20, lengths=(30,)))
    numbers = rng()
    lengths = {
        int(sample(TASKS["temporal-order"], numbers, 2, 30, config).mask[0].sum())
        for _ in range(200)
    }
    assert lengths == set(range(20, 31))
    assert sample(TASKS["temporal-order"], numbers, 2, 30, config).xs.shape == (2, 30, 6)
    examined = exam(TASKS["temporal-order"], numbers, 30, config)
    assert examined.xs.shape == (config.num_test, 30, 6)
    assert len(set(examined.mask.sum(axis=1))) == 10


@pytest.mark.parametrize("init", INITS)
def test_first_weights_are_the_papers(init):
    task = TASKS["temporal-order"]
    params = pascanu_params(rng(), init, task, 50)
    weights, head = params["rnn"]["weights"], params["head"]
    _, outer, recurrent = INITS[init]
    assert np.std(weights["W_x"]) == pytest.approx(outer, rel=0.2)
    assert np.std(head["kernel"]) == pytest.approx(outer, rel=0.2)
    assert not np.any(weights["b"])
    if init == "smart-tanh":
        np.testing.assert_array_equal(np.sum(np.asarray(weights["W_h"]) != 0, axis=0), 15)
        radius = np.max(np.abs(np.linalg.eigvals(weights["W_h"])))
        assert radius == pytest.approx(0.95, abs=1e-5)
    else:
        assert np.std(weights["W_h"]) == pytest.approx(recurrent, rel=0.05)


def test_remedies_are_three_for_each_first_weight():
    config = filled(Config(study="remedies"))
    found = kinds(config, 20)
    assert [(kind.init, kind.name) for kind in found] == [
        (init, method) for init in config.inits for method in METHODS
    ]
    assert [kind.clip_norm for kind in found[:3]] == [None, 1.0, 1.0]
    assert [kind.omega_weight for kind in found[:3]] == [0.0, 0.0, 4.0]
    assert all(kind.cell.activation == INITS[kind.init][0] for kind in found)


def test_chrono_cells_remember_as_long_as_the_task():
    assert make_cell("lstm-chrono", 4, 77).chrono_steps == 77.0
    assert make_cell("lstm", 4, 77).chrono_steps is None
    biases = make_cell("lstm-chrono", 200, 77).init(jax.random.key(0), 1)["f"]["b"]
    assert np.exp(biases).max() <= 76.0
    with pytest.raises(InputError, match="cannot be made"):
        make_cell("rnn-chrono", 4, 77)


def test_what_is_said_of_the_claims_can_be_false():
    row = {"name": "lstm", "length": 200, "test_loss": [0.001, 0.02], "share_solved": 0.5}
    (check,) = judge(filled(Config()), [row], TASKS["adding"])
    assert check["passed"] is False
    (check,) = judge(filled(Config()), [{**row, "test_loss": [0.001]}], TASKS["adding"])
    assert check["passed"] is True
    plain = {"name": "rnn", "length": 200, "test_loss": [0.1], "share_solved": 0.0}
    assert judge(filled(Config()), [plain], TASKS["adding"])[0]["passed"] is None
    solved = {**row, "name": "gru", "test_loss": [0.001], "share_solved": 1.0}
    found = judge(filled(Config()), [plain, solved], TASKS["adding"])
    assert [check["passed"] for check in found] == [False, True]
    shares = dict(zip(METHODS, (0.5, 0.4, 1.0), strict=True))
    rows = [{"name": name, "share_solved": share} for name, share in shares.items()]
    found = judge(filled(Config(study="remedies")), rows, TASKS["temporal-order"])
    assert [check["passed"] for check in found] == [False, True]
    for share in (0.0, 1.0):
        rows = [{"name": name, "share_solved": share} for name in METHODS]
        found = judge(filled(Config(study="remedies")), rows, TASKS["temporal-order"])
        assert [check["passed"] for check in found] == [None, None]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "ading"}, "did you mean 'adding'"),
        ({"study": "remedies", "task": "adding"}, "temporal-order"),
        ({"study": "remedies", "cells": ("rnn",)}, "chosen by --inits"),
        ({"lengths": ()}, "number of lengths"),
        ({"lengths": (50, 50)}, "twice"),
        ({"task": "temporal-order", "lengths": (5,)}, "10 or more"),
        ({"task": "adding-hs97", "shortest": 50}, "lengths of its own"),
        ({"shortest": 60, "lengths": (50,)}, "above 50"),
        ({"inits": ("tanh",)}, "unknown inits"),
        ({"cells": ("lstmm",)}, "did you mean 'lstm'"),
        ({"omega_weight": 0.0}, "omega_weight"),
    ],
)
def test_what_cannot_be_run_is_refused(fields, words):
    with pytest.raises(InputError, match=words):
        Config(**fields)


def test_defaults_follow_task_and_study():
    assert filled(Config()).cells == CELLS
    assert filled(Config(task="copy-memory")).hidden_size == 128
    assert filled(Config(task="copy-memory", hidden_size=7)).hidden_size == 7
    assert filled(Config(study="remedies")).task == "temporal-order"
