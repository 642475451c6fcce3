import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.cells.rnn import RNN
from seqlab.data.vocabulary import Words
from seqlab.embeddings import Vectors, frozen, with_embedding
from seqlab.errors import InputError
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.train import global_norm, init_state, make_train_step, steps

D = 5
VOCABULARY = Words.of("the cat sat on the mat and the dog did not")
OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
}


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    words = ("dog", "cat", "the", "mat", "fish")
    vectors = Vectors(words, rng.normal(size=(5, D)).astype(np.float32))
    matrix, coverage = vectors.matrix(VOCABULARY)
    assert coverage == 4 / 9
    return matrix


def tokens_model(kind):
    return functional(kind, RNN(4), input_size=D, output_size=3, vocab_size=len(VOCABULARY))


def trained(model, optimizer, params, num_steps=5, **options):
    def loss_fn(params, batch, key):
        logits = model.apply(params, batch["xs"]).logits
        return jnp.mean(cross_entropy(logits, batch["targets"])), {}

    rng = np.random.default_rng(0)
    xs = rng.integers(len(VOCABULARY), size=(8, 6))
    shape = jax.eval_shape(model.apply, params, xs).logits.shape[:-1]
    batch = {"xs": xs, "targets": rng.integers(3, size=shape)}
    state = init_state(params, optimizer, jax.random.key(1))
    step = make_train_step(loss_fn, optimizer, **options)
    return [(state, metrics) for _, state, metrics in steps(step, state, [batch] * num_steps)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("kind", [ManyToOne, ManyToMany])
def test_a_frozen_embedding_stays_and_a_trained_one_moves(matrix, kind, optimizer):
    model = tokens_model(kind)
    params = with_embedding(model.init(jax.random.key(0)), matrix)
    np.testing.assert_array_equal(params["embed"]["embedding"], matrix)
    held, _ = trained(*frozen(model, optimizer, "embed"), params)[-1]
    free, _ = trained(model, optimizer, params)[-1]
    np.testing.assert_array_equal(held.params["embed"]["embedding"], matrix)
    assert (np.abs(free.params["embed"]["embedding"] - matrix).max(axis=1) > 1e-4).all()
    for name in ("rnn", "head"):
        for new, old in zip(
            jax.tree.leaves(held.params[name]), jax.tree.leaves(params[name]), strict=True
        ):
            assert (new != old).any()


def test_a_model_reads_its_words_as_their_vectors(matrix):
    model = tokens_model(ManyToOne)
    params = with_embedding(model.init(jax.random.key(0)), matrix)
    plain = functional(ManyToOne, RNN(4), input_size=D, output_size=3)
    ids = VOCABULARY.encode("the dog sat")
    rest = {name: params[name] for name in ("rnn", "head")}
    np.testing.assert_allclose(
        model.apply(params, ids).logits, plain.apply(rest, matrix[ids]).logits, rtol=1e-6
    )


def test_gradients_of_what_is_frozen_do_not_shorten_the_others(matrix):
    model, optimizer = tokens_model(ManyToOne), optax.sgd(1.0)
    params = with_embedding(model.init(jax.random.key(0)), 100 * matrix)
    held, optimizer = frozen(model, optimizer, "embed")
    (state, metrics), *_ = trained(held, optimizer, params, clip_norm=1e-3)
    moved = jax.tree.map(jnp.subtract, state.params, params)
    assert float(metrics["grad_norm"]) > 1e-3
    # 1e-3 of float32 parameters about 1: their differences keep four digits.
    assert float(global_norm({**moved, "embed": 0.0})) == pytest.approx(1e-3, rel=1e-3)


def test_the_optimiser_keeps_nothing_for_what_is_frozen(matrix):
    model = tokens_model(ManyToOne)
    params = model.init(jax.random.key(0))
    _, optimizer = frozen(model, optax.adam(0.1), "embed", "rnn")
    sizes = [leaf.size for leaf in jax.tree.leaves(optimizer.init(params))]
    assert sum(sizes) == 1 + 2 * sum(leaf.size for leaf in jax.tree.leaves(params["head"]))


def test_a_frozen_model_is_trained_under_vmap_and_jit(matrix):
    model, optimizer = frozen(tokens_model(ManyToOne), optax.adamw(0.01), "embed")
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.vmap(lambda key: with_embedding(model.init(key), matrix))(keys)

    @jax.jit
    def after(params):
        grads = jax.grad(lambda p: jnp.sum(model.apply(p, np.arange(6)).logits ** 2))(params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    new = jax.vmap(after)(many)
    np.testing.assert_array_equal(new["embed"]["embedding"], np.stack([matrix, matrix]))
    assert (new["head"]["kernel"] != many["head"]["kernel"]).all()


def test_nested_embeddings_are_found_by_their_path(matrix):
    params = {"encoder": {"embed": {"embedding": jnp.zeros(matrix.shape)}}, "head": jnp.ones(2)}
    new = with_embedding(params, matrix, "encoder.embed")
    np.testing.assert_array_equal(new["encoder"]["embed"]["embedding"], matrix)
    np.testing.assert_array_equal(params["encoder"]["embed"]["embedding"], 0)


def test_the_dtype_is_the_models(x64, matrix):
    model = tokens_model(ManyToOne)
    params = with_embedding(model.init(jax.random.key(0)), matrix)
    assert params["embed"]["embedding"].dtype == jnp.float64


def test_what_does_not_fit_is_refused(matrix):
    params = tokens_model(ManyToOne).init(jax.random.key(0))
    with pytest.raises(InputError, match=r"is \[13, 5\], the matrix \[13, 4\]"):
        with_embedding(params, matrix[:, :4])
    with pytest.raises(InputError, match="no embedding 'embed', at the top there is head, rnn"):
        with_embedding(
            functional(ManyToOne, RNN(4), input_size=D, output_size=3).init(jax.random.key(0)),
            matrix,
        )
    with pytest.raises(InputError, match="no embedding 'rnn'"):
        with_embedding(params, matrix, "rnn")
    model, optimizer = frozen(tokens_model(ManyToOne), optax.sgd(0.1), "embed", "emb")
    with pytest.raises(InputError, match="'emb'"):
        optimizer.init(params)
    with pytest.raises(InputError, match="'emb'"):
        model.apply(params, np.arange(3))
