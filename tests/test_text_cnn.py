"""Kim's convolution over sentences: by hand, however padded, and what surrounds its training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqlab.embeddings import with_vectors
from seqlab.errors import InputError
from seqlab.losses import cross_entropy
from seqlab.models.functional import functional
from seqlab.models.text_cnn import TextCNN
from seqlab.testing import assert_padding_invariant
from seqlab.train import init_state, make_train_step, max_norm, steps

B, T, D, F, K, V = 4, 6, 3, 4, 2, 9
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 1, 0, 0], [0] * 6], bool)


def ready(**options):
    """A model, its `apply` compiled, with parameters of which none is zero."""
    settings = {"input_size": D, "output_size": K, "num_maps": F, "vocab_size": V} | options
    model = functional(TextCNN, **settings)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)
    return model._replace(apply=jax.jit(model.apply)), params


def tokens(seed=1, shape=(B, T)):
    return np.random.default_rng(seed).integers(0, V, shape)


def by_hand(params, sentence, widths=(3, 4, 5)):
    """Logits of one sentence of tokens, every window by itself."""
    params = jax.tree.map(np.asarray, params)
    tables = [params[name]["embedding"] for name in ("embed", "static") if name in params]
    es = np.concatenate([table[np.asarray(sentence, int)] for table in tables], axis=-1)
    features = []
    for h in widths:
        kernel, bias = (params["filters"][f"width_{h}"][name] for name in ("kernel", "bias"))
        margin = np.zeros((h - 1, es.shape[1]))
        padded = np.concatenate([margin, es, margin])
        values = [np.einsum("hd,hdf->f", padded[s : s + h], kernel) for s in range(len(es) + h - 1)]
        if not len(es):
            values = [np.zeros(len(bias))]
        features.append(np.maximum(np.max(values, axis=0) + bias, 0.0))
    return np.concatenate(features) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("multichannel", [False, True])
@pytest.mark.parametrize("widths", [(3, 4, 5), (1, 7)])
def test_every_window_by_hand(x64, widths, multichannel):
    """Full, with holes, of one token (shorter than every filter), and empty."""
    model, params = ready(widths=widths, multichannel=multichannel)
    xs = tokens()
    out = model.apply(params, xs, MASK)
    for row in range(B):
        expected = by_hand(params, xs[row, MASK[row]], widths)
        np.testing.assert_allclose(out.logits[row], expected, rtol=1e-12)
        odds = np.exp(expected)
        np.testing.assert_allclose(out.predictions[row], odds / odds.sum(), rtol=1e-12)
    assert out.carries == {}


def test_as_torch_convolves(x64):
    torch = pytest.importorskip("torch")
    model, params = ready(vocab_size=None)
    xs = np.random.default_rng(1).normal(size=(B, T, D))
    features = []
    for h in (3, 4, 5):
        own = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), params["filters"])
        kernel = own[f"width_{h}"]["kernel"].permute(2, 1, 0)
        convolved = torch.nn.functional.conv1d(
            torch.tensor(xs).transpose(1, 2), kernel, own[f"width_{h}"]["bias"], padding=h - 1
        )
        features.append(torch.relu(convolved).amax(dim=-1))
    head = jax.tree.map(np.asarray, params["head"])
    expected = torch.cat(features, dim=-1).numpy() @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.apply(params, xs).logits, expected, rtol=1e-12)


@pytest.mark.parametrize("vocab_size", [None, V])
def test_padding_is_inert(x64, vocab_size):
    model, _ = ready(vocab_size=vocab_size)
    xs = tokens() if vocab_size else np.random.default_rng(1).normal(size=(B, T, D))
    assert_padding_invariant(model, jnp.asarray(xs), MASK)


def test_neither_padding_nor_company_changes_an_answer(x64):
    model, params = ready()
    xs = tokens()
    lengths = np.array([6, 3, 1, 2])
    mask = np.arange(T) < lengths[:, None]
    plain = model.apply(params, xs, mask).logits
    more = np.concatenate([xs, tokens(2, (B, 5))], axis=1)
    padded = model.apply(params, more, np.arange(T + 5) < lengths[:, None]).logits
    np.testing.assert_allclose(padded, plain, rtol=1e-12)
    left = np.stack([np.roll(row, T - n) for row, n in zip(xs, lengths, strict=True)])
    padded = model.apply(params, left, np.arange(T) >= T - lengths[:, None]).logits
    np.testing.assert_allclose(padded, plain, rtol=1e-12)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        model.apply(params, xs[order], mask[order]).logits, plain[order], rtol=1e-12
    )
    for row, n in enumerate(lengths):
        alone = model.apply(params, xs[row, :n]).logits
        np.testing.assert_allclose(alone, plain[row], rtol=1e-12)
    np.testing.assert_allclose(
        model.apply(params, xs.reshape(2, 2, T), mask.reshape(2, 2, T)).logits.reshape(B, K), plain
    )


def test_vectors_are_read_in_place_of_tokens(x64):
    for multichannel in (False, True):
        model, params = ready(multichannel=multichannel)
        names = ("embed", "static") if multichannel else ("embed",)
        xs = tokens()
        es = np.concatenate([np.asarray(params[name]["embedding"])[xs] for name in names], -1)
        np.testing.assert_array_equal(
            model.apply(params, es, MASK).logits, model.apply(params, xs, MASK).logits
        )


def test_the_two_channels_have_weights_of_their_own(x64):
    model, params = ready(multichannel=True)
    swapped = {**params, "embed": params["static"], "static": params["embed"]}
    there, here = (model.apply(each, tokens()).logits for each in (swapped, params))
    assert np.abs(there - here).max() > 1e-3


def test_order_is_seen_within_a_window_and_not_beyond(x64):
    """What a convolution cannot: tell which of two far apart phrases was first."""
    model, params = ready()
    filler = [8] * 8
    first, second = [1, 2, 3], [4, 5]
    ahead = [*filler, *first, *filler, *second, *filler]
    behind = [*filler, *second, *filler, *first, *filler]
    logits = model.apply(params, np.array([ahead, behind])).logits
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-12)
    turned = [*filler, *first[::-1], *filler, *second, *filler]
    assert np.abs(model.apply(params, np.array(turned)).logits - logits[0]).max() > 1e-3


def test_dropout_is_of_features_and_needs_a_key(x64):
    model, params = ready(drop_features=0.5)
    params["head"]["bias"] = jnp.zeros(K)
    xs = tokens(1, (1, T))
    calm = model.apply(params, xs).logits
    np.testing.assert_array_equal(calm, model.apply(params, xs).logits)
    keys = jax.random.split(jax.random.key(1), 4000)
    drawn = jax.vmap(lambda key: model.apply(params, xs, key=key).logits)(keys)
    spread = drawn.std(axis=0) / np.sqrt(len(keys))
    assert (np.abs(drawn.mean(axis=0) - calm) < 5 * spread).all()
    assert drawn.std() > 0.1
    quiet, _ = ready(drop_features=0.0)
    np.testing.assert_array_equal(quiet.apply(params, xs, key=jax.random.key(1)).logits, calm)


def test_jit_vmap_and_the_slope(x64):
    model, params = ready()
    raw = functional(TextCNN, input_size=D, output_size=K, num_maps=F, vocab_size=V)
    xs, mask = jnp.asarray(tokens()), jnp.asarray(MASK)
    plain = raw.apply(params, xs, mask).logits
    np.testing.assert_allclose(model.apply(params, xs, mask).logits, plain, rtol=1e-12)
    rows = jax.vmap(lambda xs, mask: raw.apply(params, xs, mask).logits)(xs, mask)
    np.testing.assert_allclose(rows, plain, rtol=1e-12)

    @jax.jit
    def loss(params):
        return jnp.sum(jnp.sin(raw.apply(params, xs, mask).logits))

    direction = jax.tree.map(jnp.cos, params)
    _, along = jax.jvp(loss, (params,), (direction,))
    back = jax.grad(loss)(params)
    by_grad = sum(
        jnp.sum(a * b)
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(direction), strict=True)
    )
    np.testing.assert_allclose(by_grad, along, rtol=1e-12)
    ends = [
        loss(jax.tree.map(lambda p, d, step=step: p + step * d, params, direction))
        for step in (1e-7, -1e-7)
    ]
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-7, rtol=1e-5)


def trained(model, optimizer, params, num_steps, xs, targets):
    def loss_fn(params, batch, key):
        logits = model.apply(params, batch["xs"], key=key).logits
        return jnp.mean(cross_entropy(logits, batch["targets"])), {}

    state = init_state(params, optimizer, jax.random.key(1))
    step = make_train_step(loss_fn, optimizer)
    batches = [{"xs": xs, "targets": targets}] * num_steps
    return [(state, metrics) for _, state, metrics in steps(step, state, batches)]


def test_it_learns_what_a_bag_of_words_cannot():
    """Whether 1 stands before 2: the same words in both classes."""
    rng = np.random.default_rng(0)
    xs = rng.integers(3, V, (32, 10))
    targets = np.arange(32) % 2
    for row, place in enumerate(rng.integers(0, 9, 32)):
        xs[row, place : place + 2] = (1, 2) if targets[row] else (2, 1)
    model = functional(
        TextCNN,
        input_size=8,
        output_size=2,
        num_maps=16,
        vocab_size=V,
        widths=(2,),
        drop_features=0.3,
    )
    params = model.init(jax.random.key(0))
    state, _ = trained(model, optax.adam(0.02), params, 100, xs, targets)[-1]
    assert (model.apply(state.params, xs).logits.argmax(axis=-1) == targets).all()


# What holds the head's columns


def test_max_norm_shortens_what_is_too_long_and_nothing_else(x64):
    kernel = jnp.asarray([[3.0, 0.3, 0.0], [4.0, 0.4, 0.0]])  # columns of norm 5, 0.5 and 0
    params = {"head": {"kernel": kernel, "bias": jnp.full(3, 9.0)}, "other": 9 * jnp.ones((2, 2))}
    optimizer = optax.chain(optax.sgd(1.0), max_norm(3.0, "head.kernel"))
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    held = optax.apply_updates(params, updates)
    expected = np.array([[1.8, 0.3, 0.0], [2.4, 0.4, 0.0]])
    np.testing.assert_allclose(held["head"]["kernel"], expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(held["head"]["bias"], params["head"]["bias"])
    np.testing.assert_array_equal(held["other"], params["other"])


def test_max_norm_reads_where_the_update_leads(x64):
    params = {"kernel": jnp.asarray([[1.0], [0.0]])}
    optimizer = optax.chain(optax.sgd(1.0), max_norm(3.0, "kernel"))
    grads = {"kernel": jnp.asarray([[-7.0], [-6.0]])}  # to (8, 6), of norm 10
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    held = optax.apply_updates(params, updates)["kernel"]
    np.testing.assert_allclose(held, [[2.4], [1.8]], rtol=1e-12)


def test_training_keeps_the_columns_in_the_ball():
    model = functional(
        TextCNN,
        input_size=D,
        output_size=K,
        num_maps=F,
        vocab_size=V,
        widths=(2,),
        drop_features=0.0,
    )
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    data = tokens(3, (16, T)), rng.integers(0, K, 16)
    matrix = rng.normal(size=(V, D)).astype(np.float32)
    norms = {}
    for name, links in {"free": (), "held": (max_norm(0.5, "head.kernel"),)}.items():
        optimizer = optax.chain(optax.adam(0.1), *links)
        both = with_vectors(model, optimizer, "static", matrix)  # the paths are seen through it
        state, _ = trained(*both, params, 30, *data)[-1]
        norms[name] = np.linalg.norm(state.params["head"]["kernel"], axis=0)
    assert (norms["free"] > 1.0).all()
    np.testing.assert_allclose(norms["held"], 0.5, rtol=1e-6)


def test_max_norm_tells_what_it_cannot_hold():
    with pytest.raises(InputError, match="largest must be above 0, got 0"):
        max_norm(0.0, "head.kernel")
    params = {"head": {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}}
    for path in ("head", "head.bias", "tail.kernel"):
        with pytest.raises(InputError, match=f"no matrix '{path}'"):
            max_norm(3.0, path).init(params)
    held = max_norm(3.0, "head.kernel")
    with pytest.raises(ValueError, match="give the parameters"):
        held.update(params, held.init(params))


# Four ways to begin


@pytest.mark.parametrize("mode", ["random", "static", "non-static", "multichannel"])
def test_what_begins_as_vectors_and_what_is_trained(mode):
    matrix = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
    plain = functional(
        TextCNN, input_size=D, output_size=K, num_maps=F, vocab_size=V, widths=(2,),
        multichannel=mode == "multichannel",
    )  # fmt: skip
    given = None if mode == "random" else matrix
    model, optimizer = with_vectors(plain, optax.adam(0.01), mode, given)
    params = jax.jit(model.init)(jax.random.key(0))
    data = tokens(3, (16, T)), tokens(4, (16,)) % K
    state, _ = trained(model, optimizer, params, 5, *data)[-1]
    tables = {name: params[name]["embedding"] for name in ("embed", "static") if name in params}
    moved = {
        name: bool((state.params[name]["embedding"] != table).any())
        for name, table in tables.items()
    }
    begun = {name: bool((table == matrix).all()) for name, table in tables.items()}
    assert (begun, moved) == {
        "random": ({"embed": False}, {"embed": True}),
        "static": ({"embed": True}, {"embed": False}),
        "non-static": ({"embed": True}, {"embed": True}),
        "multichannel": ({"embed": True, "static": True}, {"embed": True, "static": False}),
    }[mode]
    assert (state.params["head"]["kernel"] != params["head"]["kernel"]).any()
    # Of several nets at once, each its own draw around the same vectors.
    seeds = jnp.arange(2)
    nets = jax.vmap(lambda seed: model.init(jax.random.key(seed)))(seeds)
    assert (nets["head"]["kernel"][0] != nets["head"]["kernel"][1]).any()


def test_random_vectors_are_kims():
    model = functional(TextCNN, input_size=50, output_size=K, vocab_size=400)
    table = np.asarray(model.init(jax.random.key(0))["embed"]["embedding"])
    assert -0.25 <= table.min() < -0.249
    assert 0.249 < table.max() <= 0.25


@pytest.mark.parametrize(
    ("mode", "given", "message"),
    [
        ("frozen", True, "mode 'frozen': expected one of random, static"),
        ("random", True, "'random' reads no vectors"),
        ("static", False, "'static' needs a matrix"),
    ],
)
def test_a_mode_that_cannot_be(mode, given, message):
    model, _ = ready()
    with pytest.raises(InputError, match=message):
        with_vectors(model, optax.sgd(0.1), mode, np.zeros((V, D)) if given else None)


def test_two_channels_have_to_be_there():
    model, _ = with_vectors(ready()[0], optax.sgd(0.1), "multichannel", np.zeros((V, D)))
    with pytest.raises(InputError, match="no embedding 'static'"):
        model.init(jax.random.key(0))


# What cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, r"widths=\(\): expected"),
        ({"widths": (0, 3)}, r"widths=\(0, 3\): expected"),
        ({"widths": (3, 3)}, r"widths=\(3, 3\): expected different"),
        ({"num_maps": 0}, "num_maps=0"),
        ({"head": "relu"}, "head='relu': expected one of linear"),
        ({"drop_features": 1.0}, "drop_features=1.0: expected a probability"),
        ({"multichannel": True, "vocab_size": None}, "give a vocab_size"),
    ],
)
def test_an_option_that_is_none_is_told_in_one_line(options, message):
    with pytest.raises(InputError, match=message):
        ready(**options)


def test_what_it_cannot_read_is_told_by_name():
    model, params = ready()
    with pytest.raises(ValueError, match=r"xs has shape \(4, 0\), expected \[..., T\]"):
        model.apply(params, np.zeros((B, 0), int))
    with pytest.raises(ValueError, match=r"xs has shape \(4, 6, 5\), expected \[..., T, 3\]"):
        model.apply(params, np.zeros((B, T, 5)))
    with pytest.raises(ValueError, match=r"mask has shape \(4, 5\) and dtype bool"):
        model.apply(params, tokens(), np.ones((B, 5), bool))
    with pytest.raises(ValueError, match="dtype int"):
        model.apply(params, tokens(), np.ones((B, T), int))
    model, params = ready(vocab_size=None)
    with pytest.raises(ValueError, match="there is no vocab_size"):
        model.apply(params, tokens())
