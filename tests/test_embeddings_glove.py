"""GloVe descends the cost that it states, by both forms, to the same place."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.embeddings import glove
from seqlab.embeddings.cooccurrence import RECORD, Cooccurrences, count_cooccurrences
from seqlab.embeddings.glove import GloVe, State
from seqlab.errors import InputError

ROOT = Path(__file__).parents[2]


def random_counts(vocab_size, count, seed=0):
    """At most `count` entries of a matrix whose logarithm is of rank 3, as words are frequent."""
    rng = np.random.default_rng(seed)
    frequency = 1 / (np.arange(vocab_size) + 3.0)
    i, j = (rng.choice(vocab_size, count, p=frequency / frequency.sum()) for _ in range(2))
    left, right = rng.normal(size=(2, vocab_size, 3))
    matrix = np.zeros((vocab_size, vocab_size))
    matrix[i, j] = np.exp(np.clip(np.sum(left[i] * right[j], axis=1) + 1, -2, 6))
    return Cooccurrences.of(matrix)


@pytest.fixture
def paths():
    pytest.importorskip("numba")
    return ("numba", "jax")


def last(settings, counts, num_epochs, state=None):
    return list(settings.train(counts, num_epochs=num_epochs, state=state))[-1]


def reference_step(state, entry, settings):
    """One entry's step, written out by hand, number by number, in float64."""
    i, j, log, weight = (entry[name].item() for name in ("i", "j", "log", "weight"))
    w, c, gw, gc = (np.array(table, np.float64) for table in state[:4])
    diff = w[i, :-1] @ c[j, :-1] + w[i, -1] + c[j, -1] - log
    by_w = weight * diff * np.append(c[j, :-1], 1.0)
    by_c = weight * diff * np.append(w[i, :-1], 1.0)
    w[i] -= settings.learning_rate * by_w / np.sqrt(gw[i])
    c[j] -= settings.learning_rate * by_c / np.sqrt(gc[j])
    gw[i] += by_w**2
    gc[j] += by_c**2
    return State(w, c, gw, gc, state.epochs), weight * diff**2


@pytest.mark.usefixtures("x64")
def test_the_gradient_is_that_of_the_written_cost():
    rng = np.random.default_rng(0)
    word, context = rng.normal(size=(2, 7, 5))
    i, j = rng.integers(0, 7, (2, 40))  # rows come more than once
    log, weight = rng.normal(size=40), rng.random(40)
    expected = jax.grad(lambda tables: jnp.sum(glove.cost(*tables, i, j, log, weight)) / 2)(
        (jnp.asarray(word), jnp.asarray(context))
    )
    costs, by_w, by_c = glove.gradients(word[i], context[j], log, weight)
    assert by_w.dtype == np.float64
    found = jnp.zeros((7, 5)).at[i].add(by_w), jnp.zeros((7, 5)).at[j].add(by_c)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(costs, glove.cost(word, context, i, j, log, weight), rtol=1e-12)


@given(x=st.floats(1e-3, 1e6), x_max=st.floats(0.5, 1e3), alpha=st.floats(0, 2))
def test_weights_and_logarithms_are_those_of_the_paper(x, x_max, alpha):
    records = np.array([(1, 2, x)], RECORD)
    (found,) = glove.entries(records, GloVe(x_max=x_max, alpha=alpha))
    assert found["weight"] == pytest.approx(1.0 if x >= x_max else (x / x_max) ** alpha, rel=1e-6)
    assert found["log"] == pytest.approx(np.log(x), rel=1e-6, abs=1e-6)
    assert (found["i"], found["j"]) == (1, 2)


@pytest.mark.parametrize("path", ["numba", "jax"])
def test_one_update_is_the_one_written_by_hand(path):
    if path == "numba":
        pytest.importorskip("numba")
    matrix = np.zeros((3, 3))
    matrix[1, 2] = 7.0
    settings = GloVe(vector_size=5, path=path, batch_size=1, seed=3)
    start = settings.init(3)
    rng = np.random.default_rng(4)
    start = start._replace(
        word=start.word * 5, word_squares=1 + rng.random(start.word.shape, np.float32)
    )
    found = last(settings, Cooccurrences.of(matrix), 1, start)
    (entry,) = glove.entries(Cooccurrences.of(matrix).records, settings)
    expected, cost = reference_step(start, entry, settings)
    for name in ("word", "context", "word_squares", "context_squares"):
        np.testing.assert_allclose(getattr(found.state, name), getattr(expected, name), rtol=1e-6)
    assert found.loss == pytest.approx(cost, rel=1e-6)
    assert (found.number, found.state.epochs, found.path) == (1, 1, path)


class Recorded:
    """A generator whose permutations are given."""

    def __init__(self, order):
        self.order = order

    def permutation(self, length):
        assert length == len(self.order)
        return self.order


def test_both_forms_are_one_algorithm(paths, monkeypatch):
    """The same entries in the same order, one at a time: equal up to float32's rounding."""
    counts = random_counts(30, 600)
    settings = GloVe(vector_size=6, batch_size=1, learning_rate=0.2, accumulators=1.0)
    start = settings.init(30)
    from seqlab.embeddings.glove_compiled import Compiled

    compiled, scanned = (form(settings, counts, start) for form in (Compiled, glove.Scanned))
    entries = glove.entries(counts.records, settings)
    for epoch in range(3):
        rng = np.random.default_rng(epoch)
        seed = np.random.default_rng(epoch).integers(2**63, size=1)[0]
        block = compiled.prepare(entries)
        order = compiled.order(block, 0, seed)  # of the only cell
        cost, _ = compiled.walk(block, rng)
        other, _ = scanned.walk(entries, Recorded(order))
        assert cost == pytest.approx(other, rel=1e-5)
    one, two = compiled.state(3), scanned.state(3)
    assert np.abs(one.word - start.word).max() > 0.1
    for a, b in zip(one[:4], two[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


def test_both_forms_end_at_the_same_loss(paths):
    counts = random_counts(1000, 150_000)  # enough for many cells
    losses = [last(GloVe(vector_size=10, path=path), counts, 8).loss for path in paths]
    first = next(GloVe(vector_size=10, path="numba").train(counts, num_epochs=1)).loss
    assert losses[0] < 0.3 * first
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("path", ["numba", "jax"])
def test_the_cost_goes_to_zero_at_full_rank(path):
    if path == "numba":
        pytest.importorskip("numba")
    matrix = np.exp(np.random.default_rng(0).normal(size=(6, 6)))
    settings = GloVe(
        vector_size=6, x_max=1, path=path, batch_size=1, learning_rate=0.3, accumulators=1.0
    )
    state = None
    losses = []
    for epoch in settings.train(Cooccurrences.of(matrix), num_epochs=1500):
        losses.append(epoch.loss)
        state = epoch.state
    assert losses[0] > 0.1
    assert losses[-1] < 1e-9
    product = state.word[:, :-1] @ state.context[:, :-1].T
    fitted = product + state.word[:, -1:] + state.context[:, -1:].T
    np.testing.assert_allclose(fitted, np.log(matrix), atol=1e-3)


@pytest.mark.parametrize("path", ["numba", "jax"])
def test_the_loss_is_the_mean_cost_as_entries_are_met(path):
    if path == "numba":
        pytest.importorskip("numba")
    counts = random_counts(50, 900)
    settings = GloVe(vector_size=4, learning_rate=1e-8, path=path)
    start = settings.init(50)
    entries = glove.entries(counts.records, settings)
    costs = glove.cost(
        start.word, start.context, entries["i"], entries["j"], entries["log"], entries["weight"]
    )
    found = last(settings, counts, 1).loss
    assert found == pytest.approx(np.mean(np.asarray(costs, np.float64)), rel=1e-5)


@pytest.mark.parametrize("path", ["numba", "jax"])
def test_training_goes_on_as_if_it_had_not_stopped(path):
    if path == "numba":
        pytest.importorskip("numba")
    counts = random_counts(400, 100_000)
    settings = GloVe(vector_size=5, path=path)
    whole = last(settings, counts, 3)
    state = last(settings, counts, 1).state
    going_on = list(settings.train(counts, num_epochs=2, state=state))
    assert [epoch.number for epoch in going_on] == [2, 3]
    assert going_on[-1].loss == whole.loss
    for a, b in zip(going_on[-1].state[:4], whole.state[:4], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_is_not_changed_by_what_goes_on_from_it(paths):
    counts = random_counts(20, 100)
    for path in paths:
        epochs = GloVe(vector_size=3, path=path).train(counts, num_epochs=2)
        first = next(epochs).state
        kept = first.word.copy()
        assert np.abs(next(epochs).state.word - kept).max() > 0
        np.testing.assert_array_equal(first.word, kept)


def test_threads_change_no_byte(paths):
    counts = random_counts(1000, 150_000)
    one, two, many = (
        last(GloVe(vector_size=10, path="numba", num_threads=count), counts, 2)
        for count in (1, 2, 7)
    )
    assert one.loss == two.loss == many.loss
    for a, b, c in zip(one.state[:4], two.state[:4], many.state[:4], strict=True):
        assert a.tobytes() == b.tobytes() == c.tobytes()


def test_cells_of_a_round_share_no_row(paths):
    from seqlab.embeddings.glove_compiled import PARTS, Compiled

    counts = random_counts(1000, 150_000)
    settings = GloVe(vector_size=2)
    form = Compiled(settings, counts, settings.init(1000))
    block = form.prepare(glove.entries(counts.records, settings))
    assert len(block.entries) == len(counts)
    cells = np.split(block.entries, block.cells[1:-1])
    assert len(cells) == PARTS**2
    for r in range(PARTS):
        for side in ("i", "j"):
            rows = [np.unique(cell[side]) for cell in cells[r * PARTS : (r + 1) * PARTS]]
            together = np.concatenate(rows)
            assert len(np.unique(together)) == len(together)
    sizes = np.diff(block.cells).reshape(PARTS, PARTS)
    assert sizes.sum(axis=0).max() < 1.2 * sizes.sum(axis=0).mean()


def test_the_order_is_random_by_word_and_within_it(paths):
    """Every entry once; a word's entries together; words and entries in each place alike often."""
    from seqlab.embeddings.glove_compiled import Compiled

    counts = Cooccurrences.of(np.ones((4, 3)) @ np.ones((3, 4)))
    settings = GloVe(vector_size=2)
    form = Compiled(settings, counts, settings.init(4))
    block = form.prepare(glove.entries(counts.records, settings))
    orders = np.array([form.order(block, 0, seed) for seed in range(4000)])
    np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(16), (4000, 1)))
    words = block.entries["i"][orders].reshape(-1, 4, 4)
    assert np.all(words == words[:, :, :1])
    for places in (words[:, :, 0], block.entries["j"][orders].reshape(-1, 4)):
        share = [np.bincount(column, minlength=4) / len(places) for column in places.T]
        # Five standard errors of a quarter.
        np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 4000))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["numba", "jax"])
def test_blocks_reach_every_entry_once(path):
    """Read in blocks of shuffled pages or whole: the same first cost, and a like result."""
    if path == "numba":
        pytest.importorskip("numba")
    counts = random_counts(300, 60_000)
    assert len(counts) > 3 * 4096
    still = {"vector_size": 4, "path": path, "learning_rate": 1e-9}
    whole = last(GloVe(**still), counts, 1).loss
    assert last(GloVe(**still, block_entries=4096), counts, 1).loss == pytest.approx(whole, 1e-5)
    whole, blocks = (
        last(GloVe(vector_size=4, path=path, block_entries=size), counts, 10).loss
        for size in (2**24, 2 * 4096)
    )
    assert blocks == pytest.approx(whole, rel=0.1)


@pytest.mark.slow
def test_device_counts_change_no_byte(tmp_path):
    code = (
        "import sys, jax; jax.config.update('jax_num_cpu_devices', int(sys.argv[1]))\n"
        "from tests.test_embeddings_glove import last, random_counts\n"
        "from seqlab.embeddings.glove import GloVe\n"
        "found = last(GloVe(vector_size=8, path='jax'), random_counts(500, 20_000), 2)\n"
        "import numpy as np; np.savez(sys.argv[2], *found.state, found.loss, jax.device_count())"
    )
    files = []
    for count in (1, 2):
        path = tmp_path / f"{count}.npz"
        subprocess.run(
            [sys.executable, "-c", code, str(count), str(path)], cwd=ROOT, check=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        with np.load(path) as found:
            files.append([found[name] for name in found.files])
    *one, devices_of_one = files[0]
    *two, devices_of_two = files[1]
    assert (devices_of_one, devices_of_two) == (1, 2)
    assert [each.tobytes() for each in one] == [each.tobytes() for each in two]


@pytest.mark.parametrize("vocab_size", [1, 2, 3])
def test_tiny_vocabularies_stay_finite(paths, vocab_size):
    counts = Cooccurrences.of(np.full((vocab_size, vocab_size), 1e6))
    for path in paths:
        found = last(GloVe(vector_size=100, path=path), counts, 50)
        assert np.isfinite(found.state.word).all()
        assert np.isfinite(found.loss)


@pytest.mark.parametrize("path", ["numba", "jax"])
def test_a_cost_that_is_not_finite_is_named(path):
    if path == "numba":
        pytest.importorskip("numba")
    settings = GloVe(vector_size=4, path=path, batch_size=1)
    counts = random_counts(20, 100)
    state = last(settings, counts, 2).state
    at = counts.records["i"][5]
    state.word[at, 1] = np.nan
    with pytest.raises(InputError, match=rf"epoch 3: the cost of entry \({at}, \d+\), log X = "):
        last(settings, counts, 1, state)


@pytest.mark.parametrize("path", ["numba", "jax"])
def test_a_training_that_diverges_says_so(path):
    if path == "numba":
        pytest.importorskip("numba")
    with pytest.raises(InputError, match="choose a smaller learning_rate"):
        last(GloVe(vector_size=4, path=path, learning_rate=1e30), random_counts(20, 100), 5)


def test_another_seed_gives_other_vectors():
    counts = random_counts(20, 100)
    one, again, two = (last(GloVe(vector_size=4, seed=seed), counts, 1).state for seed in (0, 0, 1))
    assert one.word.tobytes() == again.word.tobytes()
    assert one.word.tobytes() != two.word.tobytes()


def test_first_vectors_are_drawn_as_stated():
    state = GloVe(vector_size=10, accumulators=3.0).init(5000)
    for table in (state.word, state.context):
        assert table.shape == (5000, 11)
        assert table.dtype == np.float32
        assert np.abs(table).max() <= 0.05
        np.testing.assert_allclose(table.std(axis=0), 0.1 / np.sqrt(12), rtol=0.05)
    assert np.all(state.word_squares == 3)
    assert np.all(state.context_squares == 3)
    assert not np.array_equal(state.word, state.context)


def test_vectors_of_every_side():
    state = GloVe(vector_size=3).init(4)
    w, c = state.word[:, :3], state.context[:, :3]
    np.testing.assert_array_equal(state.vectors(), w + c)
    np.testing.assert_array_equal(state.vectors("word"), w)
    np.testing.assert_array_equal(state.vectors("context"), c)
    np.testing.assert_array_equal(state.vectors("both"), np.concatenate([w, c], axis=1))
    with pytest.raises(InputError, match="unknown side"):
        state.vectors("left")


def test_the_defaults_are_the_program_of_the_authors(paths):
    """It keeps squares of rate * g, from 1."""
    from seqlab.embeddings.glove_compiled import Compiled

    counts = random_counts(20, 100)
    rate = 0.05
    settings = GloVe(vector_size=4, path="numba")
    found = last(settings, counts, 1).state
    w, c = (settings.init(20)[k].astype(np.float64) for k in (0, 1))
    gw, gc = np.ones_like(w), np.ones_like(c)
    seed = np.random.default_rng([0, 0]).integers(2**63, size=1)[0]
    entries = glove.entries(counts.records, settings)
    form = Compiled(settings, counts, settings.init(20))
    for at in form.order(form.prepare(entries), 0, seed):
        i, j, log, weight = entries[at].tolist()
        step = rate * weight * (w[i, :-1] @ c[j, :-1] + w[i, -1] + c[j, -1] - log)
        by_w, by_c = step * np.append(c[j, :-1], 1), step * np.append(w[i, :-1], 1)
        w[i] -= by_w / np.sqrt(gw[i])
        c[j] -= by_c / np.sqrt(gc[j])
        gw[i] += by_w**2
        gc[j] += by_c**2
    np.testing.assert_allclose(found.word, w, atol=1e-6)
    np.testing.assert_allclose(found.context, c, atol=1e-6)


def test_words_of_a_corpus_find_their_like(tmp_path):
    """Words of one topic stand together; their vectors come to point the same way."""
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 4, 3000)
    ids = np.concatenate([np.append(4 * rng.integers(0, 10, 8) + t, -1) for t in topics])
    noise = rng.random(len(ids)) < 0.2
    ids[noise & (ids >= 0)] = rng.integers(0, 40, np.count_nonzero(noise & (ids >= 0)))
    counts = count_cooccurrences([ids.astype(np.int32)], tmp_path / "counts", vocab_size=40)
    found = last(GloVe(vector_size=8), counts, 60).state.vectors()
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    assert np.mean(likeness.argmax(axis=1) % 4 == np.arange(40) % 4) > 0.9


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(glove.importlib.util, "find_spec", lambda name: None)
    assert glove.which_path("auto") == "jax"
    assert glove.which_path("jax") == "jax"
    with pytest.raises(InputError, match=r"seqlab\[fast\]"):
        glove.which_path("numba")
    monkeypatch.setattr(glove.importlib.util, "find_spec", lambda name: name)
    assert glove.which_path("auto") == "numba"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert glove.which_path("auto") == "jax"
    assert glove.which_path("numba") == "numba"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vector_size", 0), ("x_max", 0.0), ("alpha", -1.0), ("alpha", np.nan),
        ("learning_rate", np.inf), ("accumulators", 0.0), ("path", "cuda"), ("batch_size", 0),
        ("block_entries", 1),
        ("num_threads", 0), ("seed", -1),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=field):
        GloVe(**{field: value})


def test_empty_counts_and_foreign_states_are_refused():
    empty = Cooccurrences(np.zeros(0, RECORD), 5, 0.0, {})
    with pytest.raises(InputError, match="counts are empty"):
        GloVe().train(empty, num_epochs=1)
    counts = random_counts(20, 100)
    with pytest.raises(InputError, match="num_epochs"):
        GloVe().train(counts, num_epochs=0)
    with pytest.raises(InputError, match=r"state is of \[19, 101\], expected \[20, 101\]"):
        GloVe().train(counts, num_epochs=1, state=GloVe().init(19))
