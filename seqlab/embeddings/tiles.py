"""Blocks of word2vec as one XLA program: every objective, on any device, many seeds side by side.

A block is L consecutive tokens with what stands around them. Its loss is written down once, over
the rows of the tables that it touches; its derivative is `jax.grad`'s, and one step of SGD adds it
to those rows. Words near each other are paired by small matrix products: tiles of G centres against
the G + 2m tokens around them, of which a mask lets the windows through; and a tile's centres share
their drawn negatives, each with the weight that makes their sum what K of its own would give on
average. A block is one step: its tokens see the tables as they were at its start.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqlab.types import Array

MOST = 16  # gradients of one row that a block may add up as they are


class Block(NamedTuple):
    """Tokens of one step, or of several with a leading axis.

    Attributes:
      ids: int32 [m + L + G - m], words; -1 between sentences and where there is none. The centres
        are those from m to m + L.
      sentences: int32, the same shape: which sentence each stands in.
      radii: int32 [L], how far each centre's window reaches.
      drawn: int32 [L / G, S], the tiles' negatives; [L / G, 0] for other objectives.
      rate: float32 [], learning rate.
    """

    ids: Any
    sentences: Any
    radii: Any
    drawn: Any
    rate: Any


class Paths(NamedTuple):
    """Ways through the tree of the hierarchical softmax, by word.

    Attributes:
      nodes: int32 [V, P], inner nodes from the root.
      signs: float32 [V, P], 1 to the left, -1 to the right, 0 past the end.
    """

    nodes: Any
    signs: Any


class Layout(NamedTuple):
    """What a program is compiled for."""

    method: str
    objective: str
    window: int
    tile: int
    weight: float  # K / S
    mean: bool


@partial(jax.jit, static_argnames="layout", donate_argnums=0)
def walk(tables: Any, blocks: Block, paths: Paths | None, *, layout: Layout) -> tuple[Any, Any]:
    """Tables after one SGD step a block, and each block's loss and number of examples."""

    def step(tables, block):
        where = rows_of(tables, block, paths, layout)
        rows = {name: tables[table][index] for name, (table, index) in where.items()}
        (loss, count), grads = jax.value_and_grad(block_loss, has_aux=True)(
            rows, block, paths, layout
        )
        if layout.objective == "hierarchical":
            grads["nodes"] *= _eased(tables, block, paths, layout)[..., None]
        tables = dict(tables)
        for name, (table, index) in where.items():
            tables[table] = tables[table].at[index].add(-block.rate * grads[name])
        return tables, (loss, count)

    return lax.scan(step, tables, blocks)


def _eased(tables, block, paths, layout):
    """By what the step of each inner node is lessened, [L, P].

    The root is on every way. Where one block scores a node more often than MOST times, its step is
    MOST times the mean of its gradients, not their sum, which would throw it about.
    """
    centres = jnp.maximum(block.ids[layout.window : layout.window + len(block.radii)], 0)
    scored = jnp.sum(windows(block, layout), axis=-1).reshape(-1)
    if layout.method == "cbow":
        scored = jnp.minimum(scored, 1.0)
    nodes, on_way = paths.nodes[centres], jnp.abs(paths.signs[centres])
    times = jnp.zeros(len(tables["outputs"])).at[nodes].add(scored[:, None] * on_way)
    return MOST / jnp.maximum(times, MOST)[nodes]


def rows_of(tables: Any, block: Block, paths: Paths | None, layout: Layout) -> dict[str, Any]:
    """The rows that a block touches: name -> (table, index)."""
    around = jnp.maximum(block.ids, 0)
    centres = around[layout.window : layout.window + len(block.radii)]
    few, many = ("centres", centres), ("around", around)
    if layout.method == "skipgram" and layout.objective != "hierarchical":
        inputs, outputs = few, many
    else:  # what is around predicts the centre
        inputs, outputs = many, few
    where = {inputs[0]: ("inputs", inputs[1])}
    if layout.objective == "negative":
        where |= {outputs[0]: ("outputs", outputs[1]), "drawn": ("outputs", block.drawn)}
    elif layout.objective == "hierarchical":
        assert paths is not None
        where |= {"nodes": ("outputs", paths.nodes[centres])}
    else:
        where |= {"all": ("outputs", slice(None))}
    return where


def block_loss(
    rows: dict[str, Array], block: Block, paths: Paths | None, layout: Layout
) -> tuple[Array, Array]:
    """Sum of a block's losses, and the number of its examples.

    An example is a pair of words for Skip-gram, a centre with at least one word around it for CBOW.
    """
    m, tile, length = layout.window, layout.tile, len(block.radii)
    near = windows(block, layout)  # [tiles, G, G + 2m]
    centres = block.ids[m : m + length].reshape(-1, tile)
    if layout.method == "cbow":
        others = in_tiles(rows["around"], layout)
        bags = jnp.einsum("tgc,tcd->tgd", near, others)
        size = jnp.sum(near, axis=-1)
        if layout.mean:
            bags = bags / jnp.maximum(size, 1.0)[..., None]
        real = (size > 0).astype(bags.dtype)  # [tiles, G]
        return _bag_loss(bags, real, centres, rows, block, paths, layout), jnp.sum(real)
    count = jnp.sum(near)
    if layout.objective == "hierarchical":
        return _path_loss(rows, block, paths, layout), count
    vectors = rows["centres"].reshape(-1, tile, rows["centres"].shape[-1])
    if layout.objective == "softmax":
        scores = jnp.einsum("tgd,vd->tgv", vectors, rows["all"])
        right = jnp.take_along_axis(
            scores, jnp.maximum(in_tiles(block.ids, layout), 0)[:, None, :], axis=-1
        )
        per_pair = jax.nn.logsumexp(scores, axis=-1, keepdims=True) - right
        return jnp.sum(near * per_pair), count
    others = in_tiles(rows["around"], layout)
    scores = jnp.einsum("tgd,tcd->tgc", vectors, others)
    positive = jnp.sum(near * jax.nn.softplus(-scores))
    # A negative that is the pair's own word is left out of that pair.
    is_other = in_tiles(block.ids, layout)[..., None] != block.drawn[:, None, :]
    pairs = jnp.einsum("tgc,tcs->tgs", near, is_other.astype(near.dtype))
    wrong = jnp.einsum("tgd,tsd->tgs", vectors, rows["drawn"])
    return positive + layout.weight * jnp.sum(pairs * jax.nn.softplus(wrong)), count


def _bag_loss(bags, real, centres, rows, block, paths, layout):
    """The centre's loss given the bag around it, [tiles, G, D]."""
    flat = bags.reshape(-1, bags.shape[-1])
    if layout.objective == "softmax":
        scores = flat @ rows["all"].T
        right = jnp.take_along_axis(scores, jnp.maximum(centres, 0).reshape(-1, 1), axis=-1)[:, 0]
        return jnp.sum(real.reshape(-1) * (jax.nn.logsumexp(scores, axis=-1) - right))
    if layout.objective == "hierarchical":
        signs = paths.signs[jnp.maximum(centres, 0).reshape(-1)]
        scores = jnp.einsum("ld,lpd->lp", flat, rows["nodes"])
        losses = jnp.sum(jnp.abs(signs) * jax.nn.softplus(-signs * scores), axis=-1)
        return jnp.sum(real.reshape(-1) * losses)
    right = jnp.sum(flat * rows["centres"], axis=-1)
    wrong = jnp.einsum("tgd,tsd->tgs", bags, rows["drawn"])
    is_other = (centres[..., None] != block.drawn[:, None, :]).astype(bags.dtype)
    negative = jnp.sum(is_other * jax.nn.softplus(wrong), axis=-1)
    return jnp.sum(real.reshape(-1) * jax.nn.softplus(-right)) + layout.weight * jnp.sum(
        real * negative
    )


def _path_loss(rows, block, paths, layout):
    """Of pairs: the way to the centre, scored by each word of its window."""
    m, length = layout.window, len(block.radii)
    centres = block.ids[m : m + length]
    signs = paths.signs[jnp.maximum(centres, 0)]
    loss = jnp.zeros((), rows["nodes"].dtype)
    for far in [*range(-m, 0), *range(1, m + 1)]:
        moved = slice(m + far, m + far + length)
        near = is_near(
            centres, block.ids[moved], block.sentences[m : m + length], block.sentences[moved],
            abs(far), block.radii,
        )  # fmt: skip
        scores = jnp.einsum("ld,lpd->lp", rows["around"][moved], rows["nodes"])
        losses = jnp.sum(jnp.abs(signs) * jax.nn.softplus(-signs * scores), axis=-1)
        loss += jnp.sum(near * losses)
    return loss


def windows(block: Block, layout: Layout) -> Array:
    """Which tokens stand in which centre's window, 0 or 1, [tiles, G, G + 2m]."""
    m, tile = layout.window, layout.tile

    def centre(values):
        return values[m : m + len(block.radii)].reshape(-1, tile)[..., None]

    far = jnp.abs(jnp.arange(tile + 2 * m)[None, None] - m - jnp.arange(tile)[None, :, None])
    return is_near(
        centre(block.ids), in_tiles(block.ids, layout)[:, None], centre(block.sentences),
        in_tiles(block.sentences, layout)[:, None], far, block.radii.reshape(-1, tile)[..., None],
    ).astype(jnp.float32)  # fmt: skip


def is_near(centres, others, sentence, other_sentence, far, radii):
    """Whether two tokens are words of one sentence, and the second in the first's window."""
    real = (centres >= 0) & (others >= 0) & (sentence == other_sentence)
    return real & (far > 0) & (far <= radii)


def in_tiles(values: Array, layout: Layout) -> Array:
    """Rows [L + G, ...] as overlapping tiles [L / G, G + 2m, ...], without a gather."""
    tile, twice = layout.tile, 2 * layout.window
    length = len(values) - tile
    own = values[:length].reshape(-1, tile, *values.shape[1:])
    after = values[tile:].reshape(-1, tile, *values.shape[1:])[:, :twice]
    return jnp.concatenate([own, after], axis=1)


def cut(
    ids: np.ndarray, radii: np.ndarray, drawn: np.ndarray, rates: np.ndarray, layout: Layout,
    block_size: int,
) -> Block:  # fmt: skip
    """A stream of tokens as blocks, the last one filled up with nothing.

    Args:
      ids: int32 [N], -1 between sentences.
      radii: [N].
      drawn: [blocks, L / G, S].
      rates: [blocks].
    """
    num, m = -(-len(ids) // block_size), layout.window
    padded = np.full(m + num * block_size + layout.tile - m, -1, np.int32)
    padded[m : m + len(ids)] = ids
    sentences = np.cumsum(padded < 0, dtype=np.int32)
    reach = np.zeros(num * block_size, np.int32)
    reach[: len(radii)] = radii
    span = np.arange(num)[:, None] * block_size + np.arange(block_size + layout.tile)
    return Block(
        padded[span], sentences[span], reach.reshape(num, block_size), drawn,
        np.asarray(rates, np.float32),
    )  # fmt: skip
