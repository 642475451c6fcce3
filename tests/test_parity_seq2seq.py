"""With the same weights, decoders with attention built of torch's own parts: loss and gradients.

Bahdanau's reads both ways and asks with the state before; Luong's asks with the current state and
is fed what it made of the answer. The gradients are taken through the conversion of the weights,
and so lie as torch's own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqlab.cells.convert import from_torch, stack_from_torch
from seqlab.cells.gru import GRU
from seqlab.cells.lstm import LSTM
from seqlab.data.vocabulary import SOS
from seqlab.losses import cross_entropy
from seqlab.models.attention import Attention
from seqlab.models.functional import functional
from seqlab.models.seq2seq import Seq2Seq

torch = pytest.importorskip("torch")
nn = torch.nn

B, S, U, D, H, A, V, SOURCE_V = 4, 6, 5, 3, 4, 7, 8, 9
LENGTHS, TARGET_LENGTHS = (6, 2, 1, 4), (3, 5, 5, 1)
MASK = np.arange(S) < np.array(LENGTHS)[:, None]
REAL = np.arange(U) < np.array(TARGET_LENGTHS)[:, None]


def batch():
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, SOURCE_V, (B, S)), rng.integers(0, V, (B, U))
    fed = np.roll(targets, 1, axis=1)
    fed[:, 0] = SOS
    return sources, fed, targets


def drawn(parts):
    """A module of these parts in float64, every weight from one normal draw."""
    module = nn.ModuleDict(parts).double()
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for leaf in module.parameters():
            leaf.copy_(torch.from_numpy(rng.normal(0.0, 0.5, leaf.shape)))
    return module


def encoded(net, sources):
    """(outputs, what torch's recurrence ends in) of padded sources."""
    packed = nn.utils.rnn.pack_padded_sequence(
        net["source_embed"](sources), torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    ys, last = net["encoder"](packed)
    return nn.utils.rnn.pad_packed_sequence(ys, batch_first=True, total_length=S)[0], last


def weighed(scores):
    return scores.masked_fill(~torch.from_numpy(MASK), -torch.inf).softmax(dim=-1)


def bahdanau():
    """Loss and weights of torch: additive attention, both ways, a GRU."""
    net = drawn(
        {
            "source_embed": nn.Embedding(SOURCE_V, D),
            "target_embed": nn.Embedding(V, D),
            "encoder": nn.GRU(D, H, batch_first=True, bidirectional=True),
            "bridge": nn.Linear(2 * H, H),
            "decoder": nn.GRUCell(D + 2 * H, H),
            "W_q": nn.Linear(H, A, bias=False),
            "W_m": nn.Linear(2 * H, A, bias=False),
            "v": nn.Linear(A, 1, bias=False),
            "readout": nn.Linear(H + 2 * H + D, H),
            "head": nn.Linear(H, V),
        }
    )
    sources, fed, _ = map(torch.from_numpy, batch())
    ys, last = encoded(net, sources)
    s = torch.tanh(net["bridge"](torch.cat([last[0], last[1]], dim=-1)))
    logits, looked = [], []
    for e in net["target_embed"](fed).unbind(dim=1):
        a = weighed(net["v"](torch.tanh(net["W_q"](s)[:, None] + net["W_m"](ys)))[..., 0])
        c = (a[..., None] * ys).sum(dim=1)
        s = net["decoder"](torch.cat([e, c], dim=-1), s)
        logits.append(net["head"](torch.tanh(net["readout"](torch.cat([s, c, e], dim=-1)))))
        looked.append(a)
    return net, torch.stack(logits, dim=1), torch.stack(looked, dim=1)


def luong():
    """Of torch: general attention of the current state, input feeding, LSTMs, states copied."""
    net = drawn(
        {
            "source_embed": nn.Embedding(SOURCE_V, D),
            "target_embed": nn.Embedding(V, D),
            "encoder": nn.LSTM(D, H, 2, batch_first=True),
            "layer_0": nn.LSTMCell(D + H, H),
            "layer_1": nn.LSTMCell(H, H),
            "W_q": nn.Linear(H, H, bias=False),
            "readout": nn.Linear(2 * H, H),
            "head": nn.Linear(H, V),
        }
    )
    sources, fed, _ = map(torch.from_numpy, batch())
    ys, (h, c) = encoded(net, sources)
    low, top = (h[0], c[0]), (h[1], c[1])
    read, logits, looked = torch.zeros(B, H, dtype=torch.float64), [], []
    for e in net["target_embed"](fed).unbind(dim=1):
        low = net["layer_0"](torch.cat([e, read], dim=-1), low)
        top = net["layer_1"](low[0], top)
        a = weighed(torch.einsum("bm,bsm->bs", net["W_q"](top[0]), ys))
        context = torch.einsum("bs,bsm->bm", a, ys)
        read = torch.tanh(net["readout"](torch.cat([top[0], context], dim=-1)))
        logits.append(net["head"](read))
        looked.append(a)
    return net, torch.stack(logits, dim=1), torch.stack(looked, dim=1)


def dense(state, name):
    return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}


def layers_of(state, name):
    own = name + "."
    return {key.removeprefix(own): leaf for key, leaf in state.items() if key.startswith(own)}


def common(state, cell, num_layers, both_ways):
    """What both models have, from torch's weights."""
    encoder = stack_from_torch(
        [cell] * num_layers, layers_of(state, "encoder"), bidirectional=both_ways
    )
    return {
        "source_embed": {"embedding": state["source_embed.weight"]},
        "target_embed": {"embedding": state["target_embed.weight"]},
        "encoder": {"weights": encoder},
        "readout": dense(state, "readout"),
        "head": dense(state, "head"),
    }


GRU_TORCH = GRU(H, reset="after", z_multiplies="state")


def bahdanau_params(state):
    attention = {
        "W_q": state["W_q.weight"].T,
        "W_m": state["W_m.weight"].T,
        "v": state["v.weight"][0],
    }
    decoder = from_torch(GRU_TORCH, layers_of(state, "decoder"), layer=None)
    return common(state, GRU_TORCH, 1, True) | {
        "bridges": {0: dense(state, "bridge")},
        "decoder": {"weights": {"layer_0": decoder}},
        "attention": {"weights": attention},
    }


def luong_params(state):
    decoder = {
        name: from_torch(LSTM(H), layers_of(state, name), layer=None)
        for name in ("layer_0", "layer_1")
    }
    return common(state, LSTM(H), 2, False) | {
        "decoder": {"weights": decoder},
        "attention": {"weights": {"W_q": state["W_q.weight"].T}},
    }


SYSTEMS = {
    "bahdanau": (bahdanau, bahdanau_params, GRU_TORCH, {"attention": Attention(size=A)}),
    "luong": (
        luong,
        luong_params,
        LSTM(H),
        {
            "attention": Attention("general"),
            "query": "current",
            "input_feeding": True,
            "num_layers": 2,
            "bidirectional": False,
            "bridge": "copy",
        },
    ),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_loss_attention_and_all_gradients(name, x64):
    """The loss is summed over real tokens of the target; sources and targets are padded."""
    peer, params_of, cell, options = SYSTEMS[name]
    sizes = {"source_size": SOURCE_V, "target_size": V, "embed_size": D}
    model = functional(Seq2Seq, cell, cell, **sizes, **options)
    sources, fed, targets = batch()

    net, logits, looked = peer()
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.from_numpy(targets), reduction="none"
    )
    loss = losses[torch.from_numpy(REAL)].sum()
    loss.backward()
    state = {key: jnp.asarray(leaf.numpy()) for key, leaf in net.state_dict().items()}

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    assert jax.tree.structure(params_of(state)) == jax.tree.structure(shapes)

    @jax.jit
    def ours(state):
        def total(state):
            out = model.apply(params_of(state), sources, MASK, fed, REAL)
            return jnp.sum(jnp.where(REAL, cross_entropy(out.logits, targets), 0.0)), out.attention

        return jax.value_and_grad(total, has_aux=True)(state)

    (found, attention), grads = ours(state)
    np.testing.assert_allclose(found, loss.item(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        attention[REAL], looked.detach().numpy()[REAL], rtol=0, atol=1e-12
    )  # fmt: skip
    for key, leaf in net.named_parameters():
        expected = leaf.grad.numpy()
        assert np.abs(expected).max() > 1e-4, key
        np.testing.assert_allclose(grads[key], expected, rtol=0, atol=1e-10, err_msg=key)
