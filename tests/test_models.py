"""Models: shapes of tasks around the one loop, as pure functions; and the public contracts."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from mgu import MGU

from seqlab.cells.gru import GRU
from seqlab.cells.lookup import CELLS
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.errors import InputError
from seqlab.gradflow.taps import carry_gradients
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne, OneToMany, Recurrent, pool
from seqlab.recurrence import unroll
from seqlab.testing import assert_padding_invariant, check_cell
from seqlab.types import Output

B, T, D, H, K, V = 3, 5, 2, 4, 3, 7  # K: width of the answer

MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)


def normal(seed, *shape):
    """Drawn by numpy: in JAX every new shape is a program to compile."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def tokens(seed=1, shape=(B, T)):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, shape))


def ready(kind, cell=None, **options):
    """A model, its `apply` compiled, with parameters of which none is zero."""
    model = functional(kind, cell or GRU(H), input_size=D, output_size=K, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.5 * rng.normal(size=s.shape), s.dtype), shapes)
    return model._replace(apply=jax.jit(model.apply, static_argnames="num_steps")), params


walk = jax.jit(unroll, static_argnums=0)


def assert_same(found, expected, atol=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


HEADS = {
    "linear": lambda a: a,
    "sigmoid": lambda a: 1.0 / (1.0 + np.exp(-a)),
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True),
}


def head_by_hand(params, features):
    head = jax.tree.map(np.asarray, params["head"])
    return np.asarray(features) @ head["kernel"] + head["bias"]


# Many to one


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_many_to_one_pools_and_answers(x64, pooling, head):
    cell = LSTM(H)
    model, params = ready(ManyToOne, cell, pooling=pooling, head=head)
    xs = normal(1, B, T, D)
    ys = np.asarray(walk(cell, params["rnn"]["weights"], xs).ys)
    features = {"last": ys[:, -1], "mean": ys.mean(axis=1), "max": ys.max(axis=1)}[pooling]
    logits = head_by_hand(params, features)
    out = model.apply(params, xs)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-12)
    np.testing.assert_allclose(out.predictions, HEADS[head](logits), rtol=1e-12)
    assert out.carries["rnn"].c.shape == (B, T, H)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_pooling_reads_real_steps_alone(x64, pooling):
    model, params = ready(ManyToOne, pooling=pooling)
    xs = normal(1, B, T, D)
    out = model.apply(params, xs, jnp.asarray(MASK))
    for row in range(2):
        alone = model.apply(params, xs[row, np.flatnonzero(MASK[row])])
        np.testing.assert_allclose(out.logits[row], alone.logits, rtol=1e-12)
    # A row without a real step: the output of its first state, or zeros. Both are h = 0 here.
    np.testing.assert_allclose(out.logits[2], params["head"]["bias"], rtol=1e-12)


def test_pool_by_hand(x64):
    ys = jnp.asarray([[[1.0, -5.0], [3.0, -1.0], [9.0, 9.0]]])
    mask = jnp.asarray([[True, True, False]])
    np.testing.assert_array_equal(pool(ys, mask, "mean"), [[2.0, -3.0]])
    np.testing.assert_array_equal(pool(ys, mask, "max"), [[3.0, -1.0]])
    np.testing.assert_array_equal(pool(ys, None, "max"), [[9.0, 9.0]])
    nothing = jnp.zeros((1, 3), bool)
    for kind in ("mean", "max"):
        np.testing.assert_array_equal(pool(ys, nothing, kind), [[0.0, 0.0]])
        slope = jax.grad(lambda ys, kind=kind: jnp.sum(pool(ys, nothing, kind)))(ys)
        np.testing.assert_array_equal(slope, np.zeros((1, 3, 2)))


# Many to many


@pytest.mark.parametrize("head", HEADS)
def test_many_to_many_answers_every_step(x64, head):
    cell = GRU(H)
    model, params = ready(ManyToMany, cell, head=head)
    xs = normal(1, B, T, D)
    ys = walk(cell, params["rnn"]["weights"], xs, mask=jnp.asarray(MASK)).ys
    out = model.apply(params, xs, jnp.asarray(MASK))
    logits = head_by_hand(params, ys)
    assert out.logits.shape == (B, T, K)
    np.testing.assert_allclose(out.logits, logits, rtol=1e-12)
    np.testing.assert_allclose(out.predictions, HEADS[head](logits), rtol=1e-12)


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
def test_leading_axes_are_free(x64, kind):
    model, params = ready(kind)
    xs = normal(1, 2, B, T, D)
    whole = model.apply(params, xs).logits
    for a in range(2):
        np.testing.assert_allclose(model.apply(params, xs[a]).logits, whole[a], rtol=1e-12)
    np.testing.assert_allclose(model.apply(params, xs[1, 2]).logits, whole[1, 2], rtol=1e-12)


@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
def test_a_vocabulary_is_an_embedding_before_the_same_model(x64, kind):
    model, params = ready(kind, vocab_size=V)
    plain, _ = ready(kind)
    table = params["embed"]["embedding"]
    assert table.shape == (V, D)
    words = tokens()
    rest = {name: params[name] for name in ("rnn", "head")}
    expected = plain.apply(rest, jnp.take(table, words, axis=0)).logits
    np.testing.assert_allclose(model.apply(params, words).logits, expected, rtol=1e-12)
    np.testing.assert_allclose(model.apply(params, words[0]).logits, expected[0], rtol=1e-12)


def test_embeddings_begin_with_unit_variance(x64):
    model = functional(ManyToOne, RNN(H), input_size=64, output_size=1, vocab_size=500)
    table = np.asarray(model.init(jax.random.key(0))["embed"]["embedding"])
    assert abs(table.var() - 1.0) < 5 * np.sqrt(2.0 / table.size)


# Layers


@pytest.mark.parametrize(
    ("kind", "num_layers", "both_directions"),
    [(ManyToOne, 1, True), (ManyToOne, 2, False), (ManyToMany, 2, True)],
)
def test_layers_and_directions(x64, kind, num_layers, both_directions):
    layers = {"num_layers": num_layers, "bidirectional": both_directions}
    model, params = ready(kind, GRU(H), **layers)
    width = H * (2 if both_directions else 1)
    assert params["head"]["kernel"].shape == (width, K)
    xs, mask = normal(1, B, T, D), jnp.asarray(MASK)
    out = model.apply(params, xs, mask)
    for row in range(2):  # each row by itself, its masked steps cut out
        real = np.flatnonzero(MASK[row])
        alone = model.apply(params, xs[row, real]).logits
        found = out.logits[row] if kind is ManyToOne else out.logits[row, real]
        np.testing.assert_allclose(found, alone, rtol=1e-12)

    @jax.jit
    def by_taps(params, xs):
        return carry_gradients(model.apply, lambda o: jnp.sum(o.logits**2), params, xs, mask)

    taps = by_taps(params, xs)
    assert jax.tree.structure(taps) == jax.tree.structure(out.carries)
    for tap, carry in zip(jax.tree.leaves(taps), jax.tree.leaves(out.carries), strict=True):
        assert tap.shape == carry.shape


def test_dropout_needs_a_key_and_evaluation_has_none():
    dropout = {"dropout": 0.5, "recurrent_dropout": 0.3}
    model, params = ready(ManyToOne, RNN(H), num_layers=2, **dropout)
    xs = normal(1, B, T, D)
    apply = model.apply
    calm = apply(params, xs).logits
    np.testing.assert_array_equal(calm, apply(params, xs).logits)
    one = apply(params, xs, key=jax.random.key(1)).logits
    np.testing.assert_array_equal(one, apply(params, xs, key=jax.random.key(1)).logits)
    assert np.abs(one - calm).max() > 1e-3
    assert np.abs(one - apply(params, xs, key=jax.random.key(2)).logits).max() > 1e-3


def test_a_dropout_that_no_layer_can_feel_is_an_error():
    """One layer has nothing between layers; a flag that is read nowhere is a bug."""
    told = r"dropout=0\.5 acts between layers and there is one"
    with pytest.raises(ValueError, match=told):
        ready(ManyToOne, dropout=0.5)[0].apply(
            ready(ManyToOne)[1], jnp.zeros((B, T, D)), key=jax.random.key(1)
        )


def test_recurrent_is_the_loop_with_its_weights(x64):
    model = functional(Recurrent, GRU(H), D)
    params = model.init(jax.random.key(0))
    xs = normal(1, B, T, D)
    found = jax.jit(model.apply)(params, xs)
    assert_same(found, walk(GRU(H), params["weights"], xs))


# One to many


@pytest.mark.parametrize("feed", ["first", "every"])
def test_one_to_many_without_feedback(x64, feed):
    cell = LSTM(H)
    model, params = ready(OneToMany, cell, feed=feed)
    x = normal(1, B, D)
    xs = np.tile(np.asarray(x)[:, None], (1, T, 1))
    if feed == "first":
        xs[:, 1:] = 0.0
    ys = walk(cell, params["rnn"]["weights"], jnp.asarray(xs)).ys
    out = model.apply(params, x, num_steps=T)
    np.testing.assert_allclose(out.logits, head_by_hand(params, ys), rtol=1e-12)
    assert out.logits.shape == (B, T, K)
    alone = model.apply(params, x[0], num_steps=T).logits
    np.testing.assert_allclose(alone, out.logits[0], rtol=1e-12)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("feed", ["first", "every"])
def test_free_running_is_teacher_forcing_on_its_own_predictions(x64, feed, head):
    model, params = ready(OneToMany, GRU(H), feed=feed, feedback=True, head=head)
    x = normal(1, B, D)
    free = model.apply(params, x, num_steps=T)
    forced = model.apply(params, x, num_steps=T, previous=free.predictions)
    np.testing.assert_allclose(forced.logits, free.logits, rtol=1e-12)
    np.testing.assert_allclose(free.predictions, HEADS[head](np.asarray(free.logits)), rtol=1e-12)
    carries = free.carries["rnn"]
    np.testing.assert_allclose(carries.said, free.predictions, rtol=1e-12)
    np.testing.assert_allclose(carries.inner, forced.carries["rnn"], rtol=1e-12)
    # And it does listen to itself.
    deaf = model.apply(params, x, num_steps=T, previous=jnp.zeros_like(free.predictions))
    assert np.abs(deaf.logits[:, 1:] - free.logits[:, 1:]).max() > 1e-3
    np.testing.assert_allclose(deaf.logits[:, 0], free.logits[:, 0], rtol=1e-12)


def test_what_is_fed_back_can_be_tapped(x64):
    model, params = ready(OneToMany, GRU(H), feedback=True)
    x = normal(1, B, D)

    def loss(out):
        return jnp.sum(jnp.sin(out.logits[:, -1]))

    taps = carry_gradients(model.apply, loss, params, x, num_steps=T)["rnn"]
    assert taps.inner.shape == (B, T, H)
    assert taps.said.shape == (B, T, K)
    np.testing.assert_array_equal(taps.said[:, -1], 0.0)  # the last prediction is fed to no one
    assert np.all(np.abs(taps.inner) > 0.0)


# Pure functions


ALL = {
    "one": lambda: (*ready(ManyToOne, LSTM(H)), normal(1, B, T, D)),
    "many": lambda: (*ready(ManyToMany, GRU(H)), normal(1, B, T, D)),
    "words": lambda: (*ready(ManyToOne, vocab_size=V), tokens()),
    "deep": lambda: (
        *ready(ManyToMany, RNN(H), num_layers=2, bidirectional=True),
        normal(1, B, T, D),
    ),
    "back": lambda: (*ready(OneToMany, GRU(H), feedback=True), normal(1, B, D)),
}
every_model = pytest.mark.parametrize("name", ALL)


@pytest.mark.parametrize("name", ["many", "words", "back"])
def test_init_may_be_jitted_and_mapped_over_keys(name):
    model, params, _ = ALL[name]()
    plain = model.init(jax.random.key(3))
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(plain))
    assert type(plain) is dict
    assert_same(jax.jit(model.init)(jax.random.key(3)), plain, atol=1e-6)
    seeds = jnp.arange(3, 6)
    several = jax.vmap(lambda seed: model.init(jax.random.key(seed)))(seeds)
    assert_same(jax.tree.map(lambda leaf: leaf[0], several), plain, atol=1e-6)
    first = jax.tree.leaves(several["rnn"])[0]
    assert not np.array_equal(first[0], first[1])


@every_model
def test_apply_may_be_jitted_differentiated_and_mapped(x64, name):
    model, params, x = ALL[name]()
    options = {"num_steps": T} if name == "back" else {}

    def logits(params, x):
        return model.apply(params, x, **options).logits

    plain = logits(params, x)
    np.testing.assert_allclose(jax.jit(logits)(params, x), plain, rtol=1e-12)
    rows = jax.vmap(logits, in_axes=(None, 0))(params, x)
    np.testing.assert_allclose(rows, plain, rtol=1e-12)
    ensemble = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    both = jax.vmap(logits, in_axes=(0, None))(ensemble, x)
    np.testing.assert_allclose(both[0], plain, rtol=1e-12)

    def loss(params):
        return jnp.sum(jnp.sin(logits(params, x)))

    by = jax.jit(jax.grad(loss))(params)
    assert jax.tree.structure(by) == jax.tree.structure(params)
    direction = jax.tree.map(jnp.cos, params)
    along = sum(
        jnp.sum(a * b) for a, b in zip(jax.tree.leaves(by), jax.tree.leaves(direction), strict=True)
    )

    def shifted(step):
        return loss(jax.tree.map(lambda p, d: p + step * d, params, direction))

    slope = (shifted(1e-6) - shifted(-1e-6)) / 2e-6
    np.testing.assert_allclose(along, slope, rtol=1e-6)


@pytest.mark.parametrize("graph", [True, False])
def test_models_work_in_both_modes_of_flax(x64, graph):
    if not hasattr(nnx, "set_graph_mode"):
        pytest.skip("this Flax has no public switch between graph mode and tree mode")
    model, params = ready(ManyToOne, RNN(H), vocab_size=V, num_layers=2)
    expected = model.apply(params, tokens()).logits
    with nnx.set_graph_mode(graph):
        again, _ = ready(ManyToOne, RNN(H), vocab_size=V, num_layers=2)
        fresh = jax.jit(again.init)(jax.random.key(0))
        assert jax.tree.structure(fresh) == jax.tree.structure(params)
        found = again.apply(params, tokens()).logits
        by = jax.jit(jax.grad(lambda p: jnp.sum(again.apply(p, tokens()).logits)))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert jax.tree.structure(by) == jax.tree.structure(params)


def test_params_are_plain_and_read_at_the_prompt():
    _, params = ready(ManyToOne, LSTM(H))
    assert params["rnn"]["weights"]["f"]["W_h"].shape == (H, H)
    assert set(params) == {"rnn", "head"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ready(ManyToOne, pooling="first"), "pooling='first': expected one of last, mean"),
        (lambda: ready(ManyToOne, head="tanh"), "head='tanh': expected one of linear, sigmoid"),
        (lambda: ready(ManyToMany, head="relu"), "head='relu': expected one of"),
        (lambda: ready(OneToMany, feed="always"), "feed='always': expected one of first, every"),
    ],
)
def test_an_option_that_is_none_is_told_in_one_line(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_a_model_cannot_read_is_told_by_name():
    model, params = ready(ManyToOne)
    with pytest.raises(ValueError, match=r"xs has shape \(3, 0, 2\)"):
        model.apply(params, jnp.zeros((B, 0, D)))
    with pytest.raises(ValueError, match="x has 5 features, its weights expect 2"):
        model.apply(params, jnp.zeros((B, T, 5)))
    with pytest.raises(ValueError, match="mask has shape"):
        model.apply(params, jnp.zeros((B, T, D)), jnp.ones((B, T - 1), bool))
    model, params = ready(OneToMany)
    with pytest.raises(ValueError, match="num_steps=0, expected 1 or more"):
        model.apply(params, jnp.zeros((B, D)), num_steps=0)
    with pytest.raises(ValueError, match="`previous` is read only with feedback=True"):
        model.apply(params, jnp.zeros((B, D)), num_steps=T, previous=jnp.zeros((B, T, K)))


# The padding contract


@pytest.mark.parametrize("name", ["rnn-relu", "lstm-fgr", "gru-torch"])
def test_padding_is_inert_for_every_kind_of_cell(x64, name):
    model = functional(ManyToMany, CELLS[name](hidden_size=H), input_size=D, output_size=K)
    assert_padding_invariant(model, normal(1, B, T, D), MASK)


SIZES = {"input_size": D, "output_size": K}
PADDED = {
    "last": lambda: functional(ManyToOne, RNN(H), **SIZES),
    "mean": lambda: functional(ManyToOne, GRU(H), pooling="mean", **SIZES),
    "max": lambda: functional(ManyToOne, RNN(H), pooling="max", **SIZES),
    "both": lambda: functional(ManyToOne, GRU(H), bidirectional=True, **SIZES),
    "deep": lambda: functional(ManyToMany, RNN(H), num_layers=2, bidirectional=True, **SIZES),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_is_inert_in_every_model(x64, name):
    assert_padding_invariant(PADDED[name](), normal(1, B, T, D), MASK)


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_padding_is_inert_with_words(x64, pooling):
    model = functional(
        ManyToOne, RNN(H), input_size=D, output_size=K, vocab_size=V, pooling=pooling
    )
    assert_padding_invariant(model, tokens(), MASK)


class Leaky(nnx.Module):
    """A many-to-one model with one leak."""

    def __init__(self, leak, *, rngs):
        self.leak = leak
        self.rnn = Recurrent(GRU(H), D, rngs=rngs)

    def __call__(self, xs, mask=None, **loop):
        mask = jnp.ones(xs.shape[:-1], bool) if mask is None else mask
        if self.leak == "no mask":
            walked = self.rnn(jnp.nan_to_num(xs))
        elif self.leak == "zeros for padding":  # walks through the padding, on zeros
            walked = self.rnn(jnp.where(mask[..., None], xs, 0.0))
        else:
            walked = self.rnn(xs, mask=mask)
        last = walked.carry
        if self.leak == "mean over all":
            last = jnp.mean(walked.ys, axis=-2)
        if self.leak == "looks at the fill":
            last = last + 1e-6 * jnp.sum(jnp.nan_to_num(xs), axis=(-2, -1))[..., None]
        if self.leak == "normalises the batch":
            last = last - jnp.mean(last, axis=0, keepdims=True) if last.ndim == 2 else last
        return Output(last, last, {"rnn": walked.carries})


@pytest.mark.parametrize(
    "leak",
    [
        "no mask",
        "zeros for padding",
        "mean over all",
        "looks at the fill",
        "normalises the batch",
    ],
)
def test_a_leaky_model_is_caught(x64, leak):
    with pytest.raises(AssertionError):
        assert_padding_invariant(functional(Leaky, leak), normal(1, B, T, D), MASK)


def test_the_same_model_without_a_leak_is_not(x64):
    assert_padding_invariant(functional(Leaky, None), normal(1, B, T, D), MASK)


# The cell contract


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_keeps_the_contract(name):
    check_cell(CELLS[name](hidden_size=H))


def test_cells_keep_the_contract_in_float64(x64):
    check_cell(GRU(H, reset="after"), input_size=1, num_steps=8, seed=3)


def test_a_user_cell_keeps_the_contract():
    check_cell(MGU(H))


class CountsAxes(MGU):
    """Norms over the whole batch."""

    def step(self, params, h, x):
        new = super().step(params, h, x)
        return new / (1.0 + jnp.sqrt(jnp.sum(jnp.square(new)) + 1.0))


class MixesRows(MGU):
    """Reads axis 0 as its own."""

    def step(self, params, h, x):
        return super().step(params, jnp.flip(h, axis=0), x)


class ChangesDtype(MGU):
    def step(self, params, h, x):
        return super().step(params, h, x).astype(jnp.float16)


class ChangesShape(MGU):
    def step(self, params, h, x):
        return super().step(params, h, x)[..., :-1]


class WideOutput(MGU):
    def output(self, h):
        return jnp.concatenate([h, h], axis=-1)


class ForgetsTheBatch(MGU):
    def initial_carry(self, params, batch_shape=()):
        return jnp.zeros(self.hidden_size, params["f"]["b"].dtype)


COUNT = iter(range(10**9))


class NotDeterministic(MGU):
    def init(self, key, input_size):
        return super().init(jax.random.fold_in(key, next(COUNT)), input_size)


class RemembersCalls(MGU):
    """State outside the carry: the second trace differs from the first."""

    def step(self, params, h, x):
        return super().step(params, h, x) + 1e-2 * next(COUNT)


class NaNGradient(MGU):
    """Fine forward, NaN backward: sqrt at the first state."""

    def step(self, params, h, x):
        return super().step(params, h, x) + jnp.sqrt(jnp.square(h))


class NaNLeaking(MGU):
    """NaN from its first step on."""

    def step(self, params, h, x):
        return super().step(params, h, x) + jnp.nan * h


@dataclass
class NotFrozen:
    hidden_size: int
    init = MGU.init
    initial_carry = MGU.initial_carry
    step = MGU.step
    output = MGU.output


class OwnIdentity(MGU):
    """Two of the same are not equal: compiled again each time, in a notebook."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@pytest.mark.parametrize(
    "broken",
    [
        CountsAxes,
        MixesRows,
        ChangesDtype,
        ChangesShape,
        WideOutput,
        ForgetsTheBatch,
        NotDeterministic,
        RemembersCalls,
        NaNGradient,
        NaNLeaking,
        NotFrozen,
        OwnIdentity,
    ],
)
def test_a_broken_cell_is_caught(broken):
    with pytest.raises(AssertionError):
        check_cell(broken(H))


@pytest.mark.parametrize("size", [np.int64(4), 4.0])
def test_a_hidden_size_that_is_no_int_is_caught(size):
    with pytest.raises(AssertionError, match="hidden_size is an int"):
        check_cell(MGU(size))
