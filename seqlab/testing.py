"""Contracts that any cell and any model can be held to, in tests and in notebooks."""

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.gradflow.jacobians import step_jacobians
from seqlab.recurrence import unroll
from seqlab.types import Array, Cell, Model


def check_cell(cell: Cell, *, input_size: int = 3, num_steps: int = 5, seed: int = 0) -> None:
    """Raises `AssertionError` naming the first clause of the cell contract that does not hold.

    The clauses: equal cells compare and hash equal; `init` is deterministic; `step` keeps
    structure, shapes and dtype of the carry; a batch gives what its rows give alone; `jit` and
    `vmap` change nothing; the loop equals a Python `for`; padding is inert; parameters, inputs and
    first state have finite gradients; and the gradients taken at the carries obey G_t = J_{t+1}^T
    G_{t+1} with the explicit Jacobians.

    Args:
      cell: the cell.
      input_size: D.
      num_steps: T.
      seed: of parameters and inputs.
    """
    twin = copy.copy(cell)
    assert type(cell).__hash__ is not None, f"{cell}: hashable (make it a frozen dataclass)"
    assert twin == cell, f"{cell}: equal to a copy of itself (make it a frozen dataclass)"
    assert hash(twin) == hash(cell), f"{cell}: a copy hashes the same"
    assert isinstance(cell.hidden_size, int), f"{cell}: hidden_size is an int"

    params = cell.init(jax.random.key(seed), input_size)
    xs = jax.random.normal(jax.random.key(seed + 1), (2, num_steps, input_size))
    tolerance = 200 * float(jnp.finfo(xs.dtype).eps)

    def same(found: Any, expected: Any, clause: str, atol: float = tolerance) -> None:
        found_tree, expected_tree = jax.tree.structure(found), jax.tree.structure(expected)
        assert found_tree == expected_tree, f"{cell}: {clause}: {found_tree} is not {expected_tree}"
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert jnp.shape(a) == jnp.shape(b), (
                f"{cell}: {clause}: {jnp.shape(a)} is not {jnp.shape(b)}"
            )
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=atol, err_msg=f"{cell}: {clause}")

    again = jax.tree.leaves(cell.init(jax.random.key(seed), input_size))
    for a, b in zip(jax.tree.leaves(params), again, strict=True):
        assert np.array_equal(a, b), f"{cell}: init is deterministic"

    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]:
        is_dict = all(isinstance(key, jax.tree_util.DictKey) for key in path)
        assert is_dict, f"{cell}: init gives nested dicts of arrays"

    first = cell.initial_carry(params, (2,))
    for leaf in jax.tree.leaves(first):
        assert leaf.shape[:-1] == (2,), (
            f"{cell}: initial_carry has leaves [*batch_shape, H], not {leaf.shape}"
        )
    new = cell.step(params, first, xs[:, 0])
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(first), strict=True):
        assert a.shape == b.shape, f"{cell}: step keeps the shapes of the carry"
        assert a.dtype == b.dtype, f"{cell}: step keeps the dtypes of the carry"
    assert cell.output(new).shape == (2, cell.hidden_size), f"{cell}: output is [..., hidden_size]"

    walked = unroll(cell, params, xs)
    same(jax.jit(lambda p, xs: unroll(cell, p, xs))(params, xs), walked, "jit changes nothing")
    same(jax.vmap(lambda xs: unroll(cell, params, xs))(xs), walked, "a batch is its rows (vmap)")
    alone = jax.tree.map(lambda *rows: jnp.stack(rows), *[unroll(cell, params, row) for row in xs])
    same(alone, walked, "a batch is its rows (one by one)")

    carry = first
    for t in range(num_steps):
        carry = cell.step(params, carry, xs[:, t])
    same(walked.carry, carry, "the loop is a Python for")

    mask = jnp.arange(num_steps + 2)[None, :] < jnp.asarray([[num_steps], [0]])
    padded = jnp.concatenate([xs, jnp.full((2, 2, input_size), jnp.nan)], axis=1)
    last = unroll(cell, params, padded, mask=mask).carry
    expected = jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), walked.carry, first)
    same(last, expected, "padding changes nothing")

    weigh = jnp.cos(jnp.arange(cell.hidden_size))

    def loss(params, carry, xs, taps):
        last = unroll(cell, params, xs, carry=carry, taps=taps).carry
        return jnp.sum(jnp.square(cell.output(last)) @ weigh + cell.output(last) @ weigh)

    taps = jax.tree.map(jnp.zeros_like, walked.carries)
    by_params, by_first, by_xs, by_taps = jax.grad(loss, argnums=(0, 1, 2, 3))(
        params, first, xs, taps
    )
    for tree in (by_params, by_first, by_xs, by_taps):
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(tree)), (
            f"{cell}: finite gradients"
        )
    flat = jnp.concatenate(jax.tree.leaves(by_taps), axis=-1)
    jacobians = step_jacobians(cell, params, xs)
    back = jnp.einsum("bts,btsu->btu", flat, jacobians)
    same(back[:, 1:], flat[:, :-1], "taps obey G_t = J^T G_{t+1}")
    same(
        back[:, 0], jnp.concatenate(jax.tree.leaves(by_first), axis=-1), "and reach the first state"
    )


def assert_padding_invariant(
    model: Model,
    xs: Array,
    mask: Array,
    *,
    seed: int = 0,
    fills: tuple[float, ...] = (0.0, 1e30, float("nan")),
) -> None:
    """Raises `AssertionError` when what stands in the padding can be seen outside a model.

    Holds a many-to model to two things. Whatever fills the masked entries, the logits, the carries
    and every gradient are bit for bit the same, and finite. And each row gives what it gives alone,
    unbatched, with its masked steps cut out; a row without a real step is held to the first thing
    only.

    Args:
      model: its `apply` takes (params, xs, mask); its logits are [..., O] or [..., T, O].
      xs: real inputs [B, T, D], or tokens [B, T] of integers, which are filled with 0 and 1
        instead.
      mask: [B, T] bool, True where real; any holes, rows of length 0 included.
      seed: of the parameters.
      fills: what to put into the padding of real inputs.
    """
    xs, mask = jnp.asarray(xs), jnp.asarray(mask)
    params = model.init(jax.random.key(seed))
    is_real = jnp.issubdtype(xs.dtype, jnp.floating)
    per_step = model.apply(params, xs, mask).logits.ndim == 3

    def fill(value):
        real = mask[..., None] if is_real else mask
        return jnp.where(real, xs, jnp.asarray(value, xs.dtype))

    @jax.jit
    def probe(params, xs):
        def loss(params):
            output = model.apply(params, xs, mask)
            logits = jnp.where(mask[..., None], output.logits, 0.0) if per_step else output.logits
            return jnp.sum(jnp.square(logits)), (logits, output.carries)

        return jax.value_and_grad(loss, has_aux=True)(params)

    reference = probe(params, fill(0))
    for value in fills if is_real else (0, 1):
        found = probe(params, fill(value))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
            assert jnp.isfinite(a).all(), f"padding of {value} makes something not finite"
            assert np.array_equal(a, b), f"padding of {value} changes logits, carries or gradients"

    (_, (logits, _)), _ = reference
    eps = 200 * float(jnp.finfo(logits.dtype).eps)
    for row in range(xs.shape[0]):
        real = np.flatnonzero(mask[row])
        if real.size == 0:
            continue
        alone = model.apply(params, xs[row, real]).logits
        together = logits[row, real] if per_step else logits[row]
        np.testing.assert_allclose(
            together, alone, rtol=eps, atol=eps, err_msg=f"row {row} differs from itself alone"
        )
