"""Token attributions: closed forms on a linear model, completeness, padding that gets nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.gradflow.attribution import (
    completeness_gap,
    gradient_times_input,
    integrated_gradients,
    leave_one_out,
    log_odds,
    token_vectors,
)
from seqlab.models.functional import functional
from seqlab.models.language import LanguageModel
from seqlab.models.recurrent import ManyToOne
from seqlab.models.text_cnn import TextCNN
from seqlab.types import Output

B, T, D, K, V = 4, 6, 3, 3, 9
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0] * 6], bool)
XS = np.random.default_rng(1).integers(0, V, (B, T))
LABELS = np.array([0, 2, 1, 2])
METHODS = {
    "gradient_times_input": gradient_times_input,
    "integrated_gradients": integrated_gradients,
    "leave_one_out": leave_one_out,
}


def bag(mean):
    """logits = sum, or mean, of the real tokens' vectors, times W, plus b."""

    def apply(params, xs, mask):
        es = token_vectors(params, xs)
        total = jnp.sum(jnp.where(mask[..., None], es, 0.0), axis=-2)
        if mean:
            total = total / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
        logits = total @ params["W"] + params["b"].reshape((1,) * (total.ndim - 1) + (K,))
        return Output(logits, logits, {})

    return apply


def bag_params():
    rng = np.random.default_rng(0)
    shapes = {"W": (D, K), "b": (K,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return params | {"embed": {"embedding": jnp.asarray(rng.normal(size=(V, D)))}}


def logit(label):
    return lambda output: output.logits[..., label]


def model_of(name):
    """A model that reads tokens, with parameters of which none is zero."""
    model = {
        "lstm": lambda: functional(
            ManyToOne, LSTM(4), input_size=D, output_size=K, vocab_size=V, bidirectional=True,
            pooling="attention",
        ),
        "gru": lambda: functional(ManyToOne, GRU(4), input_size=D, output_size=K, vocab_size=V),
        "cnn": lambda: functional(
            TextCNN, input_size=D, output_size=K, num_maps=4, vocab_size=V, widths=(2, 3)
        ),
    }[name]()  # fmt: skip
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda s: jnp.asarray(0.7 * rng.normal(size=s.shape), s.dtype), shapes
    )


def compiled(method, model, score, **options):
    return jax.jit(lambda p, xs, mask: method(model.apply, score, p, xs, mask, **options))


# A linear bag of words, in closed form


@pytest.mark.parametrize("name", METHODS)
def test_a_sum_of_words_is_the_sum_of_its_shares(x64, name):
    """All three methods give e_t . w, whatever the other words are."""
    params = bag_params()
    apply = bag(mean=False)
    found = jax.jit(lambda p, xs, mask: METHODS[name](apply, logit(1), p, xs, mask))(
        params, XS, jnp.asarray(MASK)
    )
    each = np.asarray(params["embed"]["embedding"])[XS] @ np.asarray(params["W"])[:, 1]
    np.testing.assert_allclose(found, np.where(MASK, each, 0.0), rtol=1e-12)
    assert (np.asarray(found)[~MASK] == 0.0).all()


def test_a_mean_of_words(x64):
    """The mean's shares are e_t . w / n; without a word the others weigh more."""
    params, apply, mask = bag_params(), bag(mean=True), jnp.asarray(MASK)
    each = np.asarray(params["embed"]["embedding"])[XS] @ np.asarray(params["W"])[:, 1]
    each = np.where(MASK, each, 0.0)
    n = MASK.sum(axis=1, keepdims=True)
    for method in (gradient_times_input, integrated_gradients):
        found = method(apply, logit(1), params, XS, mask)
        np.testing.assert_allclose(found, each / np.maximum(n, 1), rtol=1e-12)
    mean = each.sum(axis=1, keepdims=True) / np.maximum(n, 1)
    rest = (each.sum(axis=1, keepdims=True) - each) / np.maximum(n - 1, 1)
    found = leave_one_out(apply, logit(1), params, XS, mask)
    np.testing.assert_allclose(found, np.where(MASK, mean - rest, 0.0), rtol=1e-11, atol=1e-14)


def test_a_baseline_is_where_the_shares_begin(x64):
    params, apply, mask = bag_params(), bag(mean=False), jnp.asarray(MASK)
    table, weights = np.asarray(params["embed"]["embedding"]), np.asarray(params["W"])[:, 1]
    start = table.mean(axis=0)
    expected = np.where(MASK, (table[XS] - start) @ weights, 0.0)
    for method in (gradient_times_input, integrated_gradients):
        found = method(apply, logit(1), params, XS, mask, baseline=start)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        gap = completeness_gap(apply, logit(1), params, XS, mask, found, baseline=start)
        np.testing.assert_allclose(gap, 0.0, atol=1e-12)
        whole = np.broadcast_to(start, table[XS].shape)
        again = method(apply, logit(1), params, XS, mask, baseline=whole)
        np.testing.assert_allclose(again, expected, rtol=1e-12)


# Completeness


@pytest.mark.parametrize(
    ("name", "num_points", "tolerance"),
    # Smooth models converge like Gauss and Legendre's rule, the convolution's kinks like 1 / n.
    [("gru", 24, 1e-9), ("lstm", 24, 1e-9), ("cnn", 400, 5e-3)],
)
def test_integrated_gradients_are_complete(x64, name, num_points, tolerance):
    model, params = model_of(name)
    score, mask = log_odds(LABELS), jnp.asarray(MASK)
    found = compiled(integrated_gradients, model, score, num_points=num_points)(params, XS, mask)
    es = token_vectors(params, XS)
    ends = [score(model.apply(params, each, mask)) for each in (es, jnp.zeros_like(es))]
    difference = np.asarray(ends[0] - ends[1])
    assert np.abs(difference[:3]).min() > 0.1
    np.testing.assert_allclose(found.sum(axis=1), difference, rtol=0, atol=tolerance)
    gap = completeness_gap(model.apply, score, params, XS, mask, found)
    np.testing.assert_allclose(gap, difference - found.sum(axis=1), atol=1e-12)
    # And this is no property of any attribution.
    other = gradient_times_input(model.apply, score, params, XS, mask)
    assert np.abs(other.sum(axis=1) - difference).max() > 10 * tolerance


def test_one_point_in_the_middle(x64):
    """One node of Gauss and Legendre: the slope half way."""
    model, params = model_of("gru")
    score, mask = log_odds(LABELS), jnp.asarray(MASK)
    es = token_vectors(params, XS)
    slope = jax.grad(lambda es: jnp.sum(score(model.apply(params, es, mask))))(0.5 * es)
    expected = np.where(MASK, np.sum(es * slope, axis=-1), 0.0)
    found = integrated_gradients(model.apply, score, params, XS, mask, num_points=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# Every model, every method


@pytest.mark.parametrize("name", ["lstm", "cnn"])
@pytest.mark.parametrize("method", METHODS)
def test_padding_gets_exactly_nothing_and_changes_nothing(x64, method, name):
    """Alone, without its padding, a sentence has the same attributions."""
    model, params = model_of(name)
    found = compiled(METHODS[method], model, log_odds(2))
    together = np.asarray(found(params, XS, jnp.asarray(MASK)))
    assert (together[~MASK] == 0.0).all()
    assert np.isfinite(together).all()
    assert (np.abs(together[:3][MASK[:3]]) > 0.0).mean() > 0.6  # a filter may read no maximum there
    for row in (1, 2):
        kept = XS[row, MASK[row]]
        alone = found(params, kept, jnp.ones(len(kept), bool))
        np.testing.assert_allclose(together[row, MASK[row]], alone, rtol=1e-9, atol=1e-12)


def test_leave_one_out_is_the_sentence_without_the_word(x64):
    model, params = model_of("gru")
    sentence = XS[0]
    found = leave_one_out(model.apply, log_odds(1), params, sentence)
    whole = log_odds(1)(model.apply(params, sentence))
    for place in range(T):
        rest = log_odds(1)(model.apply(params, np.delete(sentence, place)))
        np.testing.assert_allclose(found[place], whole - rest, rtol=1e-10, atol=1e-13)


def test_two_channels_are_both_asked(x64):
    model = functional(
        TextCNN, input_size=D, output_size=K, num_maps=4, vocab_size=V, widths=(2,),
        multichannel=True,
    )  # fmt: skip
    params = model.init(jax.random.key(0))
    tables, mask = ("embed", "static"), jnp.asarray(MASK)
    found = gradient_times_input(model.apply, log_odds(1), params, XS, mask, tables=tables)
    es = token_vectors(params, XS, tables)
    assert es.shape == (B, T, 2 * D)
    slope = jax.grad(lambda es: jnp.sum(log_odds(1)(model.apply(params, es, mask))))(es)
    np.testing.assert_allclose(found, np.where(MASK, np.sum(es * slope, axis=-1), 0), rtol=1e-12)


def test_a_language_model_is_asked_too(x64):
    """What the next word rests on."""
    model = functional(LanguageModel, [GRU(4)], vocab_size=V, embed_size=D)
    params = model.init(jax.random.key(0))

    def next_word(output):
        return output.logits[..., -1, 5]

    found = integrated_gradients(model.apply, next_word, params, XS, num_points=24)
    gap = completeness_gap(model.apply, next_word, params, XS, None, found)
    np.testing.assert_allclose(gap, 0.0, atol=1e-9)
    assert (np.abs(found) > 0.0).all()


def test_real_inputs_are_their_own_vectors(x64):
    model = functional(ManyToOne, GRU(4), input_size=D, output_size=1)
    params = model.init(jax.random.key(0))
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)))
    spoilt = jnp.where(MASK[..., None], xs, jnp.nan)
    for method in METHODS.values():
        found = method(model.apply, log_odds(1), params, spoilt, jnp.asarray(MASK))
        plain = method(model.apply, log_odds(1), params, xs, jnp.asarray(MASK))
        assert found.shape == (B, T)
        np.testing.assert_array_equal(found, plain)


# The score


def test_log_odds_of_classes(x64):
    shares = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    logits = jnp.log(jnp.asarray(shares)) + 4.0  # what all logits have in common says nothing
    for labels in (1, np.array([2, 0])):
        own = shares[np.arange(2), labels]
        found = log_odds(labels)(Output(logits, logits, {}))
        np.testing.assert_allclose(found, np.log(own / (1 - own)), rtol=1e-12)


def test_log_odds_of_one_sigmoid(x64):
    logits = jnp.asarray([[0.5], [-2.0]])
    found = log_odds(np.array([1, 0]))(Output(logits, logits, {}))
    np.testing.assert_array_equal(found, [0.5, 2.0])


def test_what_cannot_be_is_told():
    model, params = model_of("gru")
    for method in METHODS.values():
        with pytest.raises(ValueError, match=r"a score of shape \(\), expected one number"):
            method(model.apply, lambda out: jnp.sum(out.logits), params, XS)
    with pytest.raises(ValueError, match="num_points=0"):
        integrated_gradients(model.apply, log_odds(1), params, XS, num_points=0)
