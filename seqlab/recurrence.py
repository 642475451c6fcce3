"""The one loop over time, and the layers made of it."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.fast import native
from seqlab.fast.columns import UnsupportedError
from seqlab.fast.loop import walk
from seqlab.fast.program import joined
from seqlab.types import SHARDS, Array, Carry, Cell, Params, RoutedCell

FORMS = ("auto", "native", "fast", "scan", "associative")
UNFIT = (
    "the step holds a loop, an effect or a jax.custom_vjp of its own, or is in a shard_map with "
    "check_vma"
)
NEEDS = {
    "fast": UNFIT,
    "native": UNFIT,
    "associative": "the step is not affine in each unit of the carry",
}
_form = jax.make_user_context(default_value="auto")  # `jax.jit` traces anew where it differs
_AUTO_IS_NATIVE = os.environ.get("SEQLAB_NATIVE") != "0"


def why_not_native() -> str | None:
    """Why "auto" leaves loops to XLA; None where they are machine code. See `unroll`, `form`."""
    return native.why_not() if _AUTO_IS_NATIVE else "SEQLAB_NATIVE is 0"


def using(form: str) -> AbstractContextManager[None]:
    """Inside, every `unroll` that is not told its form takes this one; see its `form`."""
    return _form(form)


class Unrolled(NamedTuple):
    """What walking a sequence leaves behind."""

    carry: Carry  # after the last real step, leaves [..., H]
    ys: Array  # [..., T, H], zero where masked
    carries: Carry  # after each step, leaves [..., T, H]


def unroll(
    cell: Cell,
    params: Params,
    xs: Array,
    *,
    carry: Carry | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    taps: Carry | None = None,
    weight_taps: Params | None = None,
    routes: dict[str, Carry | None] | None = None,
    reverse: bool = False,
    truncate_every: int | None = None,
    cut: Array | None = None,
    remat_every: int | None = None,
    recurrent_mask: Array | None = None,
    form: str | None = None,
) -> Unrolled:
    """Walks sequences with a cell: carry_t = step(params, carry_{t-1}, x_t).

    Leading axes are free: one sequence [T, D] or a batch [..., T, D], by the same code.

        >>> import jax
        >>> from seqlab import LSTM, unroll
        >>> cell = LSTM(4)
        >>> xs = jax.random.normal(jax.random.key(0), (2, 7, 3))
        >>> walked = unroll(cell, cell.init(jax.random.key(1), 3), xs)
        >>> walked.ys.shape, walked.carries.c.shape, walked.carry.h.shape
        ((2, 7, 4), (2, 7, 4), (2, 4))

    Args:
      cell: anything that satisfies `seqlab.types.Cell`.
      params: its parameters.
      xs: inputs, [..., T, D].
      carry: first state; `cell.initial_carry(params, batch_shape)` if None.
      mask: [..., T] bool, True where real. A masked step keeps the carry: padding changes nothing,
        in either direction, whatever it holds (NaN included), and a row without a real step ends in
        its first state.
      reset: [..., T] bool, True where a row starts anew: its carry is the first state of a fresh
        sequence before that step is walked, and no gradient crosses.
      taps: None, or zeros shaped like `carries`, added to the carry after each step; the gradient
        with respect to them is dL/dcarry_t, see `gradflow.taps`.
      weight_taps: None, or zeros shaped like `params` with a leading axis T, added to the
        parameters of each step; the gradient with respect to them is each step's share of
        dL/dparams, see `gradflow.weights`.
      routes: None, or for a cell with `step_by_route` the routes left open to the gradient, each
        with None or zeros shaped like `carries` that are added to what this route reads; see
        `gradflow.paths`. Values stay those of `step`.
      reverse: walk from T-1 down to 0; `ys[t]` still belongs to `xs[t]`.
      truncate_every: None, or k: no gradient crosses the borders between chunks of k steps (counted
        in the direction walked). Values are those of the whole sequence; with k >= T so is the
        gradient.
      cut: None, or [..., T] bool, True where no gradient crosses on the way into that step: borders
        of its own for every row, which may be traced; see `gradflow.truncation`.
      remat_every: None, or k: keep only every k-th carry for the backward pass and compute the rest
        again. Changes memory, never values; the least memory is near k = sqrt(T).
      recurrent_mask: None, or [..., H], constant over time: what the cell's matrices read of h is
        multiplied by it (variational dropout). Only for cells whose `step` takes it.
      form: "scan", the plain `jax.lax.scan` of `step`; "fast", the loop from which everything is
        taken that does not wait for the step before (`seqlab.fast.loop`), not for a step that holds
        a loop, an effect or a `jax.custom_vjp` of its own, nor in a `jax.shard_map` with check_vma;
        "native", the same with what is left as machine code of its own, on a processor, with
        llvmlite, for steps of matrix products and operations element by element (see
        `why_not_native`; not with `weight_taps`), and on the way back where it can be; "auto", the
        first of native, fast and scan that can be had, except that products of 2^22 multiply-adds
        and more stay XLA's where a device of XLA's has more than two cores; "associative", in
        parallel over time, for a cell whose step is affine in each unit of the carry (MinGRU,
        MinLSTM, LRU): for a GPU, slower than the loop on a processor. All give the same values and
        derivatives, to rounding. None is what `using` says, else "auto", which is never native with
        SEQLAB_NATIVE=0 in the environment.

    Returns:
      Unrolled(carry, ys, carries).

    Raises:
      ValueError: on an empty batch or time axis, a mask, carry or taps of another shape, or a
        `step` that changes the shape or dtype of the carry; a form that the cell does not
        have, or "associative" with `remat_every`, `truncate_every` or `cut`.

    References: Werbos, 1990 (back-propagation through time); Williams and Peng, 1990 (truncation);
    Chen et al., 2016 (recomputation); Gal and Ghahramani, 2016 (variational dropout).
    """
    xs = jnp.asarray(xs)
    params, carry, taps, weight_taps = map(_in_jax, (params, carry, taps, weight_taps))
    if xs.ndim < 2 or 0 in xs.shape:
        raise ValueError(
            f"unroll: xs has shape {xs.shape}, expected [..., T, D] with no axis of length 0"
        )
    *batch_shape, num_steps, _ = xs.shape
    axis = len(batch_shape)
    for name, every in (("truncate_every", truncate_every), ("remat_every", remat_every)):
        if every is not None and every < 1:
            raise ValueError(f"unroll: {name}={every}, expected None or 1 step or more")
    mask = None if mask is None else jnp.asarray(mask)
    reset = None if reset is None else jnp.asarray(reset)
    cut = None if cut is None else jnp.asarray(cut)
    for name, flags in (("mask", mask), ("reset", reset), ("cut", cut)):
        if flags is not None and (flags.shape != xs.shape[:-1] or flags.dtype != jnp.bool_):
            raise ValueError(
                f"unroll: {name} has shape {flags.shape} and dtype {flags.dtype}, "
                f"expected {xs.shape[:-1]} and bool"
            )

    form = _form.value if form is None else form
    if form not in FORMS:
        raise ValueError(f"unroll: form={form!r}, expected one of {', '.join(FORMS)}")
    if form == "associative" and not (remat_every is truncate_every is cut is None):
        raise ValueError(
            "unroll: form='associative' keeps all steps and all of the gradient; leave out "
            "remat_every and truncate_every, and cut"
        )

    fresh = cell.initial_carry(params, tuple(batch_shape))
    carry = fresh if carry is None else carry
    _same_shapes(cell, "carry", carry, fresh)
    options = {} if recurrent_mask is None else {"recurrent_mask": recurrent_mask}
    if recurrent_mask is not None and recurrent_mask.shape != (*batch_shape, cell.hidden_size):
        raise ValueError(
            f"{cell}: recurrent_mask has shape {recurrent_mask.shape}, "
            f"expected {(*batch_shape, cell.hidden_size)}"
        )
    routed = None if routes is None else with_routes(cell, routes)
    after = jax.eval_shape(lambda: cell.step(params, carry, jnp.take(xs, 0, axis=axis), **options))
    _same_shapes(cell, "the carry that step returns", after, carry)
    if taps is not None:
        _same_shapes(cell, "taps", taps, _with_steps(carry, num_steps, axis))
    if weight_taps is not None:
        _same_shapes(cell, "weight_taps", weight_taps, _with_steps(params, num_steps, 0))

    borders = None
    if truncate_every is not None and truncate_every < num_steps:
        walked = jnp.arange(num_steps)[::-1] if reverse else jnp.arange(num_steps)
        borders = (walked % truncate_every == 0) & (walked > 0)  # the first state is no border

    def step(weights, carry, x, route_taps, options):
        if routed is None:
            return cell.step(weights, carry, x, **options)
        reads = dict.fromkeys(routed.routes, jax.lax.stop_gradient(carry))
        for route, tap in route_taps.items():
            reads[route] = carry if tap is None else jax.tree.map(jnp.add, carry, tap)
        return routed.step_by_route(weights, reads, x, **options)

    def body(same, carry, inputs):
        params, fresh, options = same
        x, real, new_row, border, own_border, tap, weight_tap, route_taps = inputs
        if border is not None:
            carry = jax.tree.map(lambda c: jnp.where(border, jax.lax.stop_gradient(c), c), carry)
        if own_border is not None:
            carry = _select(own_border, jax.lax.stop_gradient(carry), carry)
        if new_row is not None:
            carry = _select(new_row, fresh, carry)
        weights = params if weight_tap is None else jax.tree.map(jnp.add, params, weight_tap)
        if real is None:
            carry = step(weights, carry, x, route_taps, options)
        else:
            # Before the step and after it: else a NaN in the padding leaks into the gradients.
            new = step(weights, carry, jnp.where(real[..., None], x, 0.0), route_taps, options)
            carry = _select(real, new, carry)
        return carry if tap is None else jax.tree.map(jnp.add, carry, tap)

    steps = (xs, mask, reset, borders, cut, taps, weight_taps, routes)
    axes = (axis, axis, axis, 0, axis, axis, 0, axis)
    axes = tuple(jax.tree.map(lambda _, a=a: a, tree) for a, tree in zip(axes, steps, strict=True))
    same = (params, fresh if reset is not None else None, options)
    with jax.named_scope("unroll"):
        found = None
        if form != "scan":
            try:
                found = walk(
                    body,
                    same,
                    carry,
                    steps,
                    axes=axes,
                    reverse=reverse,
                    chunk=remat_every,
                    remat=remat_every is not None,
                    is_parallel=form == "associative",
                    is_native=None if form == "auto" and _AUTO_IS_NATIVE else form == "native",
                )
            except UnsupportedError as error:
                name = type(cell).__name__
                raise ValueError(
                    f"{name}: form={form!r} cannot be had: {error}; use 'auto'"
                ) from None
            if found is None and form != "auto":
                name = type(cell).__name__
                raise ValueError(f"{name}: form={form!r} cannot be had: {NEEDS[form]}; use 'auto'")
        if found is None:
            steps = jax.tree.map(lambda leaf, axis: jnp.moveaxis(leaf, axis, 0), steps, axes)
            found = _scan(body, same, carry, steps, num_steps, remat_every, reverse)
    carry, trail = found
    carries = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, axis), trail)
    ys = cell.output(carries)
    if mask is not None:
        ys = jnp.where(mask[..., None], ys, 0.0)
    return Unrolled(carry, ys, carries)


def linearize_step(
    step: Callable[[Carry], Carry], carry: Carry
) -> tuple[Carry, Callable[[Carry], Carry]]:
    """`jax.linearize`: (the carry after a step, the derivative as a linear function).

    Products of one tangent with several matrices, the gates', are one product with all of them.

    Raises:
      ValueError: a carry that holds integers.
    """
    if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(carry)):
        raise ValueError("the carry holds integers, which have no tangents: see step_jacobians")
    after, tangent = jax.linearize(step, carry)
    return after, joined(tangent, carry)


def bidirectional(
    cells: tuple[Cell, Cell],
    params: Params,
    xs: Array,
    *,
    carry: Carry | None = None,
    taps: Carry | None = None,
    weight_taps: Params | None = None,
    recurrent_mask: Array | None = None,
    **loop,
) -> Unrolled:
    """Walks sequences in both directions; the backward walk starts at each row's last real step.

    Args:
      cells: the forward and the backward cell.
      params: `{"forward": ..., "backward": ...}`.
      xs: inputs, [..., T, D].
      carry, taps, weight_taps, recurrent_mask: None, or the same two keys.
      **loop: `mask`, `truncate_every` and the rest of `unroll`.

    Returns:
      Unrolled: `ys` [..., T, H_forward + H_backward]; `carry` and `carries` with the same two keys.

    References: Schuster and Paliwal, 1997.
    """

    def walk(name, cell, reverse):
        own = {
            key: None if tree is None else tree[name]
            for key, tree in (
                ("carry", carry),
                ("taps", taps),
                ("weight_taps", weight_taps),
                ("recurrent_mask", recurrent_mask),
            )
        }
        with jax.named_scope(name):
            return unroll(cell, params[name], xs, reverse=reverse, **own, **loop)

    forward = walk("forward", cells[0], False)
    backward = walk("backward", cells[1], True)
    return Unrolled(
        {"forward": forward.carry, "backward": backward.carry},
        jnp.concatenate([forward.ys, backward.ys], axis=-1),
        {"forward": forward.carries, "backward": backward.carries},
    )


_both_ways = bidirectional  # `stack` has a flag of that name


def with_routes(cell: Cell, routes: Iterable[str] = ()) -> RoutedCell:
    """The cell itself, known to have `routes` and `step_by_route`.

    Raises:
      ValueError: for a cell without routes, or one of `routes` that it has not.
    """
    known = getattr(cell, "routes", ())
    if not known:
        raise ValueError(f"{cell}: no routes to tell apart; write `routes` and `step_by_route`")
    for route in routes:
        if route not in known:
            raise ValueError(f"{cell}: no route {route!r}, expected one of {', '.join(known)}")
    return cast(RoutedCell, cell)


def init_stack(
    cells: Sequence[Cell], key: Array, input_size: int, *, bidirectional: bool = False
) -> Params:
    """Fresh parameters `{"layer_0": ..., "layer_1": ...}` for `stack`."""
    params, width = {}, input_size
    for index, (cell, layer_key) in enumerate(
        zip(cells, jax.random.split(key, len(cells)), strict=True)
    ):
        if bidirectional:
            key_forward, key_backward = jax.random.split(layer_key)
            params[f"layer_{index}"] = {
                "forward": cell.init(key_forward, width),
                "backward": cell.init(key_backward, width),
            }
        else:
            params[f"layer_{index}"] = cell.init(layer_key, width)
        width = cell.hidden_size * (2 if bidirectional else 1)
    return params


def stack(
    cells: Sequence[Cell],
    params: Params,
    xs: Array,
    *,
    bidirectional: bool = False,
    carry: Carry | None = None,
    taps: Carry | None = None,
    weight_taps: Params | None = None,
    dropout: float = 0.0,
    variational: bool = False,
    recurrent_dropout: float = 0.0,
    key: Array | None = None,
    **loop,
) -> Unrolled:
    """Walks sequences through layers, each reading the outputs of the one below.

    Dropout is inverted (kept values are divided by the keep probability), drawn outside the loop.

    Args:
      cells: one a layer.
      params: `{"layer_0": ..., ...}`, see `init_stack`.
      xs: inputs, [..., T, D].
      bidirectional: every layer walks both ways (`bidirectional`).
      carry, taps, weight_taps: None, or the same keys as `params`.
      dropout: probability with which an output is dropped on its way to the layer above; not after
        the last.
      variational: one such mask a sequence, the same at every step, rather than a fresh one at
        each.
      recurrent_dropout: probability with which a unit of h is dropped on its way into the layer's
        own matrices, always one mask a sequence.
      key: random key of the masks; None drops nothing (evaluation).
      **loop: `mask`, `truncate_every` and the rest of `unroll`, for every layer.

    Returns:
      Unrolled: `ys` of the last layer; `carry` and `carries` by layer.

    Raises:
      ValueError: for a rate outside [0, 1), or `dropout` with a single layer, where there is
        nothing between layers.

    References: Zaremba et al., 2014 (between layers); Gal and Ghahramani, 2016 (variational).
    """
    for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"stack: {name}={rate}, expected a probability below 1")
    if dropout and len(cells) == 1:
        raise ValueError(
            f"stack: dropout={dropout} acts between layers and there is one; "
            "add a layer or use recurrent_dropout"
        )
    xs = jnp.asarray(xs)
    keys = iter([None] * 3 * len(cells) if key is None else jax.random.split(key, 3 * len(cells)))
    last_carry, trails, ys = {}, {}, xs
    for index, cell in enumerate(cells):
        name = f"layer_{index}"
        if index > 0:
            shape = (*ys.shape[:-2], 1, ys.shape[-1]) if variational else ys.shape
            ys = ys * dropout_mask(next(keys), dropout, shape, ys.dtype)
        h_shape = (*xs.shape[:-2], cell.hidden_size)
        h_masks = {
            direction: dropout_mask(next(keys), recurrent_dropout, h_shape, ys.dtype)
            for direction in (("forward", "backward") if bidirectional else ("forward",))
        }
        own = {
            "carry": None if carry is None else carry[name],
            "taps": None if taps is None else taps[name],
            "weight_taps": None if weight_taps is None else weight_taps[name],
        }
        if recurrent_dropout and key is not None:
            own["recurrent_mask"] = h_masks if bidirectional else h_masks["forward"]
        with jax.named_scope(name):
            if bidirectional:
                layer = _both_ways((cell, cell), params[name], ys, **own, **loop)
            else:
                layer = unroll(cell, params[name], ys, **own, **loop)
        last_carry[name], trails[name], ys = layer.carry, layer.carries, layer.ys
    return Unrolled(last_carry, ys, trails)


def dropout_mask(key: Array | None, rate: float, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """1 / (1 - rate) where kept, 0 where dropped; ones without a key or a rate.

    `shape` has the rows of a batch first, drawn by `draw_rows`.
    """
    if key is None or not rate:
        return jnp.ones(shape, dtype)
    kept = draw_rows(lambda shape: jax.random.bernoulli(key, 1.0 - rate, shape), shape)
    return kept.astype(dtype) / (1.0 - rate)


def draw_rows(draw: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...]) -> Array:
    """`draw(shape)`; where rows are shared out over devices, this device's rows of the whole draw.

    In a training step on several devices every device holds the same random key and its own rows of
    the batch: drawn by `draw_rows`, a mask is the same as on one device, whatever their number.

    Args:
      draw: shape -> random array.
      shape: of this device's share, rows first.
    """
    try:
        count = jax.lax.axis_size(SHARDS)
    except NameError:  # no such axis: one device has it all
        return draw(shape)
    whole = draw((shape[0] * count, *shape[1:]))
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(SHARDS) * shape[0], shape[0])


def _in_jax(tree):
    """Numpy leaves in the dtype that jax gives them: without x64, float64 is float32, unwarned."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, tree)


def _select(flags, yes, no):
    """Leaves of `yes` in the rows where `flags` [...] is True, else those of `no`."""
    return jax.tree.map(lambda a, b: jnp.where(flags[..., None], a, b), yes, no)


def _scan(body, same, carry, steps, num_steps, remat_every, reverse):
    """`jax.lax.scan`, or the same in chunks of `remat_every` whose insides are computed twice.

    The scopes are how `seqlab.recorder` knows a time step from any other loop's turn.
    """

    def turn(carry, inputs):
        carry = body(same, carry, inputs)
        return carry, carry

    def scan(carry, part):
        with jax.named_scope("steps"):
            return jax.lax.scan(turn, carry, part, reverse=reverse)

    if remat_every is None or remat_every >= num_steps:
        return scan(carry, steps)
    chunk = jax.checkpoint(scan, prevent_cse=False)  # a scan around it keeps the two runs apart
    whole = num_steps // remat_every * remat_every
    main = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, remat_every, *leaf.shape[1:]), steps)
    rest = jax.tree.map(lambda leaf: leaf[whole:], steps)

    def walk_main(carry):
        with jax.named_scope("chunks"):
            carry, trail = jax.lax.scan(chunk, carry, main, reverse=reverse)
        return carry, jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), trail)

    if whole == num_steps:
        return walk_main(carry)

    def walk_rest(carry):
        with jax.named_scope(f"from_step_{whole}"):
            return jax.checkpoint(scan)(carry, rest)

    if reverse:
        carry, late = walk_rest(carry)
        carry, early = walk_main(carry)
    else:
        carry, early = walk_main(carry)
        carry, late = walk_rest(carry)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early, late)


def _with_steps(tree, num_steps, axis):
    """Shapes of `tree` with an axis of `num_steps` at `axis`."""

    def shape(leaf):
        return jax.ShapeDtypeStruct((*leaf.shape[:axis], num_steps, *leaf.shape[axis:]), leaf.dtype)

    return jax.tree.map(shape, tree)


def _same_shapes(cell, what, found, expected):
    """Raises `ValueError` naming the leaf of `found` that differs from `expected`."""
    found_leaves, found_tree = jax.tree_util.tree_flatten_with_path(found)
    expected_leaves, expected_tree = jax.tree_util.tree_flatten_with_path(expected)
    if found_tree != expected_tree:
        raise ValueError(f"{cell}: {what} is built as {found_tree}, expected {expected_tree}")
    for (path, leaf), (_, target) in zip(found_leaves, expected_leaves, strict=True):
        if leaf.shape != target.shape or leaf.dtype != target.dtype:
            raise ValueError(
                f"{cell}: {what}{jax.tree_util.keystr(path)} has shape {leaf.shape} and dtype "
                f"{leaf.dtype}, expected {target.shape} and {target.dtype}"
            )
