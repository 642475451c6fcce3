"""The encoder-decoder: its equations by hand, written step by step, padded, fed its own words."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.cells.rnn import RNN
from seqlab.data.vocabulary import SOS
from seqlab.errors import InputError
from seqlab.gradflow.taps import carry_gradients, zero_taps
from seqlab.models.attention import Attention
from seqlab.models.decoder import DecoderCell
from seqlab.models.functional import functional
from seqlab.models.seq2seq import Seq2Seq, writer
from seqlab.recurrence import stack, unroll

B, S, U, D, H, V, SOURCE_V = 3, 5, 4, 3, 4, 6, 7
MASK = np.arange(S) < np.array([[5], [3], [0]])  # the last source is empty
FED_MASK = np.arange(U) < np.array([[4], [2], [3]])

# Every context, query, bridge and kind of cell; one layer and two, one direction and both.
CASES = {
    "state": (LSTM(H), {"bidirectional": False, "num_layers": 2, "bridge": "copy"}),
    "every": (GRU(H), {"tied": True}),
    "previous": (GRU(H), {"attention": Attention(size=5), "num_layers": 2}),
    "current": (RNN(H), {"attention": Attention("general"), "query": "current", "bridge": "none"}),
    "feeding": (
        LSTM(H),
        {
            "attention": Attention("local-p", window=4.0),
            "query": "current",
            "input_feeding": True,
            "num_layers": 2,
            "bidirectional": False,
        },
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module", autouse=True)
def double():
    """64-bit numbers for all tests here, which share what they compile."""
    with jax.enable_x64(True):
        yield


def settings(name, **options):
    cell, own = CASES[name]
    context = name if name in ("state", "every") else "attention"
    sizes = {"source_size": SOURCE_V, "target_size": V, "embed_size": D, "context": context}
    return (cell, cell), sizes | own | options


@cache
def ready(name, **options):
    """A model, its `apply` compiled, with parameters of which none is zero."""
    cells, options = settings(name, **options)
    model = functional(Seq2Seq, *cells, **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: jnp.asarray(0.7 * rng.normal(size=s.shape), s.dtype), shapes)
    return model._replace(apply=jax.jit(model.apply, static_argnames="form")), params


@cache
def writing(name):
    cells, options = settings(name)
    own = writer(*cells, **options)
    return own._replace(start=jax.jit(own.start), step=jax.jit(own.step))


def tokens(seed, size, *shape):
    return jnp.asarray(np.random.default_rng(seed).integers(0, size, shape))


def fed(seed=2):
    return tokens(seed, V, B, U).at[:, 0].set(SOS)


def batch():
    return tokens(1, SOURCE_V, B, S), jnp.asarray(MASK), fed(), jnp.asarray(FED_MASK)


@cache
def forced(name):
    """Teacher forcing of `batch`."""
    model, params = ready(name)
    return model.apply(params, *batch())


def close(found, expected, atol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def trees_close(found, expected, atol=1e-12):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(partial(close, atol=atol), found, expected)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


# What it computes

cell_step = jax.jit(lambda cell, *args: cell.step(*args), static_argnums=0)


def logits_by_hand(name, params, memory, state, fed):
    """(logits, weights) token by token, from the memory and the first state of `start`."""
    (cell, _), options = settings(name)
    num_layers, attention = options.get("num_layers", 1), options.get("attention")
    params = jax.tree.map(np.asarray, params)
    embedding, read = params["target_embed"]["embedding"], None
    kernel = embedding.T if options.get("tied") else params["head"]["kernel"]

    def readout(*parts):
        own = params["readout"]
        return np.tanh(np.concatenate(parts, axis=-1) @ own["kernel"] + own["bias"])

    def look(s):
        own = params["attention"]["weights"]
        keys = attention.keys(own, memory.values)
        weights = attention.weights(own, s[:, None], keys, memory.mask > 0)[:, 0]
        return np.einsum("bs,bsm->bm", weights, memory.values), weights

    layers, all_logits, all_weights = dict(state.layers), [], []
    if options.get("input_feeding"):
        read = np.zeros((B, H))
    for t in range(U):
        e, weights = embedding[np.asarray(fed)[:, t]], None
        s = np.asarray(cell.output(layers[f"layer_{num_layers - 1}"]))
        xs = [e]
        if name == "every":
            xs = [e, memory.last]
        elif name == "previous":
            c, weights = look(s)
            xs = [e, c]
        elif name == "feeding":
            xs = [e, read]
        s = np.concatenate(xs, axis=-1)
        for layer, own in params["decoder"]["weights"].items():
            layers[layer] = cell_step(cell, own, layers[layer], s)
            s = np.asarray(cell.output(layers[layer]))
        if name == "state":
            read = s
        elif name == "every":
            read = readout(s, memory.last, e)
        elif name == "previous":
            read = readout(s, c, e)
        else:
            c, weights = look(s)
            read = readout(s, c)
        all_logits.append(read @ kernel + params["head"]["bias"])
        all_weights.append(weights)
    weights = None if attention is None else np.stack(all_weights, axis=1)
    return np.stack(all_logits, axis=1), weights


@every_case
def test_logits_are_those_of_the_equations(name):
    _, params = ready(name)
    sources, mask, fed, _ = batch()
    memory, state = writing(name).start(params, sources, mask)
    logits, weights = logits_by_hand(name, params, memory, state, fed)
    found = forced(name)
    close(found.logits[FED_MASK], logits[FED_MASK])
    close(found.predictions, np.exp(log_softmax(np.asarray(found.logits))))
    assert (found.attention is None) == (weights is None)
    if weights is None:
        return
    close(found.attention[FED_MASK], weights[FED_MASK])
    close(found.attention[:2].sum(axis=-1), 1.0)
    assert not np.any(np.where(MASK[:, None], 0.0, found.attention))
    assert not np.any(found.attention[2])  # a source without a real step
    assert np.isfinite(found.logits).all()


@every_case
def test_writing_step_by_step_is_teacher_forcing(name):
    """Two outputs of each source side by side: the same states, tokens of their own."""
    model, params = ready(name)
    sources, mask, first, fed_mask = batch()
    pair = [first, fed(3)]
    expected = [model.apply(params, sources, mask, fed, jnp.ones_like(fed_mask)) for fed in pair]
    own = writing(name)
    memory, state = own.start(params, sources, mask)
    state = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], 2, axis=1), state)
    for t in range(U):
        step = own.step(params, memory, state, jnp.stack([fed[:, t] for fed in pair], axis=1))
        state = step.state
        for k, output in enumerate(expected):
            close(step.log_probs[:, k], log_softmax(np.asarray(output.logits))[:, t])
            weights = 0.0 if output.attention is None else output.attention[:, t]
            close(step.attention[:, k], np.broadcast_to(weights, (B, S)))
    assert np.abs(expected[0].logits - expected[1].logits)[:, 1:].max() > 0.1


@pytest.mark.parametrize("name", ["every", "feeding"])
def test_a_sequence_alone_is_a_row_of_a_batch(name):
    model, params = ready(name)
    sources, mask, fed, fed_mask = batch()
    alone = model.apply(params, sources[1], mask[1], fed[1], fed_mask[1])
    close(alone.logits, forced(name).logits[1])


@pytest.mark.parametrize("name", ["state", "previous", "feeding"])
def test_memory_and_first_state(name):
    """The encoder's outputs, its last one, and the bridge of every leaf."""
    _, params = ready(name)
    (cell, _), options = settings(name)
    sources, mask, _, _ = batch()
    memory, state = writing(name).start(params, sources, mask)
    es = params["source_embed"]["embedding"][sources]
    num_layers, both_ways = options["num_layers"], options.get("bidirectional", True)
    walked = jax.jit(
        lambda weights: stack(
            [cell] * num_layers, weights, es, bidirectional=both_ways, mask=mask
        )
    )(params["encoder"]["weights"])  # fmt: skip
    top = walked.carry[f"layer_{num_layers - 1}"]
    last = cell.output(top) if not both_ways else np.hstack([top["forward"], top["backward"]])
    close(memory.values, walked.ys)
    close(memory.last, last)
    np.testing.assert_array_equal(memory.mask, MASK)
    assert not np.any(np.where(MASK[..., None], 0.0, memory.values))
    if name == "state":
        trees_close(state.layers, walked.carry)
        return
    leaves, tree = jax.tree.flatten(state.layers)
    last, bridges = jax.tree.map(np.asarray, (last, params["bridges"]))
    expected = [
        np.tanh(last @ bridges[i]["kernel"] + bridges[i]["bias"]) for i in range(len(leaves))
    ]
    trees_close(state.layers, tree.unflatten(expected))
    assert len(leaves) == num_layers * (2 if isinstance(cell, LSTM) else 1)
    assert state.said is None
    assert not np.any(state.read)


def test_bridges_of_one_layer():
    """ "copy" of an encoder of one layer, and "none": the first state is the cells' own."""
    sources, mask, _, _ = batch()
    own = writer(GRU(H), GRU(H), **settings("every", bidirectional=False, bridge="copy")[1])
    _, params = ready("every", bidirectional=False, bridge="copy")
    _, state = own.start(params, sources, mask)
    walked = unroll(
        GRU(H), params["encoder"]["weights"], params["source_embed"]["embedding"][sources],
        mask=mask,
    )  # fmt: skip
    close(state.layers["layer_0"], walked.carry)
    assert np.abs(walked.carry[0]).min() > 0.0
    _, state = writing("current").start(ready("current")[1], sources, mask)
    np.testing.assert_array_equal(state.layers["layer_0"], np.zeros((B, H)))


def test_a_tied_head_has_no_matrix_and_a_model_has_what_it_reads():
    parts = {name: set(ready(name)[1]) for name in CASES}
    common = {"source_embed", "target_embed", "encoder", "decoder", "head"}
    assert parts["state"] == common
    assert parts["every"] == common | {"bridges", "readout"}
    assert parts["current"] == common | {"attention", "readout"}
    assert set(ready("every")[1]["head"]) == {"bias"}
    assert set(ready("state")[1]["head"]) == {"bias", "kernel"}
    assert ready("every")[1]["readout"]["kernel"].shape == (H + 2 * H + D, D)
    assert ready("current")[1]["readout"]["kernel"].shape == (H + 2 * H, H)
    for name in CASES:
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(ready(name)[1]))


# Padding


def padded(values, before, after, fill):
    widths = [(0, 0), (before, after)] + [(0, 0)] * (values.ndim - 2)
    return jnp.asarray(np.pad(np.asarray(values), widths, constant_values=fill))


@pytest.mark.parametrize(("name", "before"), [("every", 2), ("previous", 2), ("feeding", 0)])
def test_padding_changes_nothing(name, before):
    """Other contents and more steps; at both ends, too, where scores do not count steps."""
    model, params = ready(name)
    sources, mask, fed, fed_mask = batch()
    sources, fed = jnp.where(mask, sources, 5), jnp.where(fed_mask, fed, 4)
    longer = model.apply(
        params,
        padded(sources, before, 3, 6),
        padded(mask, before, 3, False),
        padded(fed, before, 2, 1),
        padded(fed_mask, before, 2, False),
    )
    real = (slice(None), slice(before, before + U))
    close(longer.logits[real][FED_MASK], forced(name).logits[FED_MASK])
    if name != "every":
        weights = longer.attention[real][..., before : before + S]
        close(weights[FED_MASK], forced(name).attention[FED_MASK])


def test_vectors_in_place_of_tokens_and_what_is_masked_in_them():
    """A source of real vectors; NaN behind the mask reaches neither values nor gradients."""
    model, own = ready("current", source_size=None)
    sources, mask, fed, fed_mask = batch()
    params = dict(ready("current")[1])
    vectors = params.pop("source_embed")["embedding"][sources]
    assert jax.tree.structure(params) == jax.tree.structure(own)
    bar = jnp.asarray(np.random.default_rng(4).normal(size=(B, U, V)))

    @jax.jit
    def ours(params, xs):
        def loss(params, xs):
            logits = model.apply(params, xs, mask, fed, fed_mask).logits
            return jnp.sum(jnp.where(fed_mask[..., None], bar * logits, 0.0)), logits

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, xs)

    (_, logits), grads = ours(params, vectors)
    close(logits[FED_MASK], forced("current").logits[FED_MASK])
    (_, spoilt), spoilt_grads = ours(params, jnp.where(mask[..., None], vectors, jnp.nan))
    np.testing.assert_array_equal(spoilt, logits)
    trees_close(spoilt_grads, grads, atol=0)
    assert not np.any(np.asarray(grads[1])[~MASK])
    assert np.abs(np.asarray(grads[1])[MASK]).min() > 0.0


# Loops


@pytest.mark.parametrize("name", ["previous", "feeding"])
def test_the_fast_loop_gives_the_loss_and_gradients_of_the_plain_one(name):
    _, options = settings(name, num_layers=1, bidirectional=False)
    model = functional(Seq2Seq, LSTM(H), LSTM(H), **options)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda s: jnp.asarray(0.7 * rng.normal(size=s.shape)), shapes)
    bar = jnp.asarray(rng.normal(size=(B, U, V)))

    @partial(jax.jit, static_argnames="form")
    def ours(params, form):
        return jax.value_and_grad(
            lambda params: jnp.sum(bar * model.apply(params, *batch(), form=form).predictions)
        )(params)

    (fast, fast_grads), (plain, plain_grads) = (ours(params, form) for form in ("fast", "scan"))
    close(fast, plain)
    trees_close(fast_grads, plain_grads)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(fast_grads))


def test_taps_on_the_encoder_are_derivatives_by_its_states():
    model, params = ready("previous")
    bar = jnp.asarray(np.random.default_rng(6).normal(size=(B, U, V)))

    def loss(output):
        return jnp.sum(bar * output.predictions)

    found = jax.jit(lambda params: carry_gradients(model.apply, loss, params, *batch()))(params)
    zeros = zero_taps(model.apply, params, *batch())
    assert jax.tree.structure(found) == jax.tree.structure(zeros)
    assert set(found) == {"encoder", "decoder"}
    value = jax.jit(lambda taps: loss(model.apply(params, *batch(), taps=taps)))
    step = 1e-5
    for layer, direction, place in (
        ("layer_0", "forward", (0, 0, 1)),
        ("layer_0", "backward", (1, 2, 0)),
        ("layer_1", "forward", (0, 4, 3)),
        ("layer_1", "backward", (0, 2, 2)),
    ):

        def moved(by, layer=layer, direction=direction, place=place):
            taps = jax.tree.map(jnp.copy, zeros)
            own = taps["encoder"][layer]
            own[direction] = own[direction].at[place].add(by)
            return value(taps)

        slope = (moved(step) - moved(-step)) / (2 * step)
        exact = found["encoder"][layer][direction][place]
        assert abs(exact) > 1e-4
        close(slope, exact, atol=1e-9)  # an error of step^2 and of 1e-16 / step
    read = found["decoder"].layers["layer_1"]
    assert read.shape == (B, U, H)
    assert np.abs(read[0]).max() > 1e-4


# Its own words in place of the truth


def greedy_fed(name, params, truth):
    """What is fed where `truth` is False: the likeliest token of the step before, by hand."""
    sources, mask, fed, fed_mask = batch()
    for t in range(1, U):
        logits = ready(name)[0].apply(params, sources, mask, fed, fed_mask).logits
        own = jnp.argmax(logits[:, t - 1], axis=-1)
        fed = fed.at[:, t].set(jnp.where(truth[:, t], fed[:, t], own))
    return fed


@pytest.mark.parametrize("name", ["state", "every", "previous", "feeding"])
def test_scheduled_sampling_feeds_the_likeliest_token(name):
    model, params = ready(name)
    sources, mask, fed, fed_mask = batch()
    always = jnp.ones((B, U), bool)
    same = model.apply(params, *batch(), truth=always)
    close(same.logits[FED_MASK], forced(name).logits[FED_MASK])
    for truth in (always.at[:, 1:].set(False), always.at[0, 2].set(False).at[2, 1].set(False)):
        own = greedy_fed(name, params, truth)
        assert not np.array_equal(own, fed)
        found = model.apply(params, *batch(), truth=truth)
        expected = model.apply(params, sources, mask, own, fed_mask)
        close(found.logits[FED_MASK], expected.logits[FED_MASK])
        assert np.abs(found.logits - forced(name).logits)[FED_MASK].max() > 1e-3
        if found.attention is not None:
            close(found.attention[FED_MASK], expected.attention[FED_MASK])


def test_no_gradient_crosses_a_token_that_was_chosen():
    """All gradients are those of feeding these tokens, but that their embeddings get none."""
    model, params = ready("current")
    sources, mask, _, fed_mask = batch()
    truth = jnp.ones((B, U), bool).at[:, 1:].set(False)
    own = greedy_fed("current", params, truth)
    bar = jnp.asarray(np.random.default_rng(7).normal(size=(B, U, V)))

    def loss(params, fed, truth):
        found = model.apply(params, sources, mask, fed, fed_mask, truth=truth)
        return jnp.sum(jnp.where(fed_mask[..., None], bar * found.logits, 0.0))

    grad = jax.jit(jax.grad(loss))
    chosen, given = grad(params, batch()[2], truth), grad(params, own, None)
    tables = [grads.pop("target_embed")["embedding"] for grads in (chosen, given)]
    trees_close(chosen, given)
    is_first = np.arange(V) == SOS
    assert not np.any(tables[0][~is_first])
    assert np.any(tables[1][~is_first])


# What is dropped


def test_without_a_key_nothing_is_dropped():
    rates = dict.fromkeys(("drop_inputs", "dropout", "drop_features"), 0.5)
    model, params = ready("previous", **rates)
    found = model.apply(params, *batch())
    np.testing.assert_array_equal(found.logits, forced("previous").logits)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("previous", "drop_inputs"),
        ("previous", "dropout"),
        ("previous", "drop_features"),
        ("state", "dropout"),  # its layers are a stack: there the masks are drawn elsewhere
    ],
)
def test_what_is_dropped_depends_on_the_key_alone(name, place):
    model, params = ready(name, **{place: 0.5})
    first, again, other = (
        model.apply(params, *batch(), key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.logits, again.logits)
    calm = forced(name)
    assert np.abs(first.logits - calm.logits)[FED_MASK].max() > 1e-3
    assert np.abs(first.logits - other.logits)[FED_MASK].max() > 1e-3
    # What the head reads is dropped after all states; the others change those of both sides.
    for side in ("encoder", "decoder"):
        pairs = zip(
            jax.tree.leaves(first.carries[side]), jax.tree.leaves(calm.carries[side]), strict=True
        )
        is_same = all(np.array_equal(a, b) for a, b in pairs)
        assert is_same == (place == "drop_features")


def test_a_decoder_that_looks_back_drops_between_its_layers_alone():
    """What its steps are fed is e_t, the mask between the layers, then the truth's flag."""
    _, params = ready("previous")
    memory, state = writing("previous").start(params, *batch()[:2])
    own = {
        "layers": params["decoder"]["weights"],
        "memory": memory,
        "attention": params["attention"]["weights"],
        "readout": params["readout"],
        "embedding": params["target_embed"]["embedding"],
        "head": params["head"],
    }
    rng = np.random.default_rng(8)
    e, said = (jnp.asarray(rng.normal(size=(B, D))) for _ in range(2))
    keep = jnp.asarray(2.0 * rng.integers(0, 2, (B, H)))
    flags = jnp.asarray([[1.0], [0.0], [0.0]])
    cell = DecoderCell((GRU(H),) * 2, D, "attention", Attention(size=5), feeds_back=True)
    before = state.replace(said=said)
    after = cell_step(cell, own, before, jnp.concatenate([e, keep, flags], axis=-1))
    c, _ = cell.look(own, state.layers["layer_1"])
    xs = jnp.concatenate([jnp.where(flags > 0, e, said), c], axis=-1)
    low = cell_step(GRU(H), own["layers"]["layer_0"], state.layers["layer_0"], xs)
    top = cell_step(GRU(H), own["layers"]["layer_1"], state.layers["layer_1"], low * keep)
    close(after.layers["layer_0"], low)
    close(after.layers["layer_1"], top)
    close(after.read, c)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": "some"}, "context='some': expected one of state, every, attention"),
        ({"query": "next"}, "query='next': expected one of previous, current"),
        ({"bridge": "wide"}, "bridge='wide': expected one of linear, copy, none"),
        ({"drop_inputs": 1.0}, r"drop_inputs=1\.0: expected a probability"),
        ({"drop_features": -0.1}, r"drop_features=-0\.1: expected a probability"),
        ({"dropout": 0.5}, "dropout=0.5 acts between layers and there is one"),
        ({"num_layers": 0}, "num_layers=0, expected 1 or more"),
        ({"context": "attention"}, "attention=None: give both or neither"),
        ({"attention": Attention()}, "context='state' and attention=Attention.*give both"),
        ({"input_feeding": True}, "input_feeding is of context='attention' with query='current'"),
        (
            {"context": "attention", "attention": Attention(), "input_feeding": True},
            "input_feeding is of context='attention' with query='current'",
        ),
        ({"bridge": "copy"}, "one direction and the same cell"),
        ({"bridge": "copy", "bidirectional": False, "encoder": GRU(H + 1)}, "the same cell"),
        ({"tied": True}, "tied: the decoder has 4 units, the embedding 3"),
        ({"context": "attention", "attention": Attention("dot")}, "'dot' .* 4 .* 8 features"),
    ],
)
def test_options_that_do_not_go_together_are_told_in_one_line(options, message):
    sizes = {"source_size": SOURCE_V, "target_size": V, "embed_size": D, "context": "state"}
    cells = options.get("encoder", GRU(H)), GRU(H)
    options = {name: value for name, value in options.items() if name != "encoder"}
    with pytest.raises(InputError, match=message) as caught:
        functional(Seq2Seq, *cells, **sizes | options)
    assert "\n" not in str(caught.value)
