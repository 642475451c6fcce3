"""What do the gradient probes cost, next to a training step, to hand-written code and to PyTorch?

    python -m experiments.benchmarks.probes

Per cell, in one process, variants interleaved with the order turned every other round; medians over
rounds; run it alone on the machine.

*norms*, a batch: the loss and all parameter gradients (the plain step); the same with the norm of
dL/dcarry_t at every step from the same backward pass; the norms alone; with `--one-by-one` also the
same norms by one backward pass a time step.

*products*, one sequence: the norm of d carry_T / d carry_t for every t, for any cell
(`log_product_norms`), next to a reverse scan written by hand for this cell, with all gates in one
matrix; by explicit Jacobians; and by `torch.func.jacrev` at every step, where PyTorch is installed.

*exponents*, one sequence, in float64 (whole spectra part too fast for float32 to leave out many
QR decompositions): all Lyapunov exponents with one at every step, at every tenth, as often as
`lyapunov_exponents` finds safe, and by a loop in NumPy for the tanh net; with the largest
difference from the first.
"""

import importlib.util
import statistics
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from seqlab.cells.lookup import lookup
from seqlab.cli import main
from seqlab.data.checks import check_at_least, check_known
from seqlab.gradflow.jacobians import log_jacobian_norms, log_product_norms, step_jacobians
from seqlab.gradflow.lyapunov import lyapunov_exponents
from seqlab.gradflow.taps import (
    carry_gradients,
    gradients,
    log_norm_over_time,
    zero_taps,
)
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.runlog import RunLog
from seqlab.timing import time_variants

PARTS = ("norms", "products", "exponents")


@dataclass(frozen=True)
class Config:
    """Cost of gradient probes relative to a plain training step and to other ways."""

    cells: tuple[str, ...] = ("rnn", "lstm", "gru")
    """names of cells, or package.module:Class"""
    parts: tuple[str, ...] = PARTS
    """norms, products, exponents"""
    batch_size: int = 32
    """B, sequences, of the part "norms\""""
    seq_len: int = 200
    """T, steps"""
    hidden_size: int = 128
    """H, units, and width of the inputs"""
    rounds: int = 11
    """timed rounds"""
    one_by_one: bool = False
    """also time one backward pass a time step"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for name in self.cells:
            lookup(name)
        for name in self.parts:
            check_known(name, PARTS, "parts")
        for field in ("batch_size", "seq_len", "hidden_size", "rounds"):
            check_at_least(getattr(self, field), 1, field)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(
            cells=("rnn", "gru"), batch_size=4, seq_len=20, hidden_size=16, rounds=3,
            one_by_one=True,
        )  # fmt: skip


def run(config: Config, log: RunLog) -> None:
    """Times every variant of every cell."""
    parts = {"norms": norms, "products": products, "exponents": exponents}
    everything = []
    for part in config.parts:
        rows = []
        for name in config.cells:
            with jax.enable_x64(part == "exponents"):
                calls = parts[part](name, config)
                values = {variant: call() for variant, call in calls.items()}
                seconds = time_variants(calls, config.rounds)
            medians = {variant: statistics.median(times) for variant, times in seconds.items()}
            first = next(iter(medians.values()))
            for variant, times in seconds.items():
                log.write(step=0, part=part, cell=name, variant=variant, rounds=len(times))
                rows.append(
                    {
                        "cell": name,
                        "variant": variant,
                        "median_ms": medians[variant] * 1e3,
                        "least_ms": min(times) * 1e3,
                        "x_first": medians[variant] / first,
                    }
                )
                if part == "exponents":
                    rows[-1]["error"] = difference(values, variant)
        batch = f"B={config.batch_size} " if part == "norms" else ""
        log.table(f"{part}, {batch}T={config.seq_len} H={config.hidden_size}", rows)
        everything += [{"part": part, **row} for row in rows]
    log.finish(rows=everything)


def difference(values, variant):
    """The largest difference of a variant's values from the first one's."""
    first = np.asarray(next(iter(values.values())))
    return float(np.max(np.abs(np.asarray(values[variant]) - first)))


def norms(name, config):
    """Variant -> a compiled call without arguments."""
    size = config.hidden_size
    key_params, key_xs = jax.random.split(jax.random.key(config.seed))
    model = functional(ManyToOne, lookup(name)(hidden_size=size), input_size=size, output_size=1)
    params = model.init(key_params)
    xs = jax.random.normal(key_xs, (config.batch_size, config.seq_len, size))

    def loss(output):
        return jnp.sum(jnp.square(output.logits))

    def plain(params, xs):
        return jax.value_and_grad(lambda params: loss(model.apply(params, xs)))(params)

    def probed(params, xs):
        found = gradients(model.apply, loss, params, xs)
        return found.loss, found.params, log_norm_over_time(found.carries["rnn"])

    def alone(params, xs):
        return log_norm_over_time(carry_gradients(model.apply, loss, params, xs)["rnn"])

    def one_by_one(params, xs):
        zeros = zero_taps(model.apply, params, xs)["rnn"]

        def at(t):
            def tapped(row):
                taps = jax.tree.map(lambda leaf, part: leaf.at[..., t, :].set(part), zeros, row)
                return loss(model.apply(params, xs, taps={"rnn": taps}))

            grads = jax.grad(tapped)(jax.tree.map(lambda leaf: leaf[..., 0, :], zeros))
            return log_norm_over_time(grads)

        return jax.lax.map(at, jnp.arange(config.seq_len))

    chosen = {"plain step": plain, "step and norms": probed, "norms alone": alone}
    if config.one_by_one:
        chosen["norms, one backward pass a step"] = one_by_one
    return {label: compiled(function, params, xs) for label, function in chosen.items()}


def products(name, config):
    """Likewise; the first variant is the hand-written one, where there is one for the cell."""
    cell, params, xs = one_sequence(name, config)
    chosen = {
        "seqlab, any cell": lambda params, xs: log_product_norms(cell, params, xs),
        "explicit Jacobians": lambda params, xs: log_jacobian_norms(
            step_jacobians(cell, params, xs), norm="frobenius"
        ),
    }
    if name in BY_HAND:
        chosen = {"by hand": lambda params, xs: by_hand(name, params, xs)} | chosen
    calls = {label: compiled(function, params, xs) for label, function in chosen.items()}
    if name in BY_HAND and importlib.util.find_spec("torch") is not None:
        calls["torch.func.jacrev"] = torch_call(name, params, xs)
    return calls


def exponents(name, config):
    """Likewise."""
    cell, params, xs = one_sequence(name, config)
    safe = lyapunov_exponents(cell, params, xs).qr_every
    every = {"QR at every step": 1, "QR at every 10th": 10, f"QR as found safe ({safe})": safe}
    calls = {
        label: compiled(
            lambda params, xs, k=k: lyapunov_exponents(cell, params, xs, qr_every=k).exponents,
            params,
            xs,
        )
        for label, k in every.items()
    }
    if name == "rnn":
        calls["NumPy, QR at every step"] = numpy_call(params, xs)
    return calls


def one_sequence(name, config):
    """(cell, parameters, inputs [T, H])."""
    cell = lookup(name)(hidden_size=config.hidden_size)
    key_params, key_xs = jax.random.split(jax.random.key(config.seed))
    xs = jax.random.normal(key_xs, (config.seq_len, config.hidden_size))
    return cell, cell.init(key_params, config.hidden_size), xs


def compiled(function, *args):
    """A call without arguments."""
    program = jax.jit(function).lower(*args).compile()
    return lambda: jax.block_until_ready(program(*args))


def by_hand(name, params, xs):
    """Root mean square singular value of d carry_T / d carry_t, [T], by one reverse scan.

    Written for the three cells, as one would who needs nothing but this.
    """
    gates = BY_HAND[name]
    parts = [params[gate] for gate in gates] if gates else [params]
    W_x, W_h = (jnp.concatenate([p[key] for p in parts], axis=1) for key in ("W_x", "W_h"))
    bias = jnp.concatenate([p["b"] for p in parts])
    size = W_h.shape[0]
    projected = xs @ W_x + bias[None]
    zeros = jnp.zeros(size, xs.dtype)

    def split(a):
        return jnp.split(a, len(parts), axis=-1)

    if name == "rnn":

        def forward(h, a):
            h = jnp.tanh(a + h @ W_h)
            return h, 1.0 - h * h

        def backward(M, d):
            M = (M * d[None]) @ W_h.T
            return M, jnp.sqrt(jnp.mean(M * M) * size)

        rows = jax.lax.scan(forward, zeros, projected)[1]
        return jax.lax.scan(backward, jnp.eye(size), rows, reverse=True)[1]
    if name == "lstm":

        def forward(carry, a):
            h, c = carry
            i, f, g, o = split(a + h @ W_h)
            i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
            before, c = c, f * c + i * g
            t = jnp.tanh(c)
            by_c = jnp.concatenate(
                [g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], axis=-1
            )
            return (o * t, c), (f, o * (1 - t * t), by_c, t * o * (1 - o))

        def backward(M, row):
            f, c_by_h, by_c, by_o = row
            M_h, M_c = M
            M_c = M_c + M_h * c_by_h[None]
            pulled = jnp.concatenate([jnp.tile(M_c, (1, 3)) * by_c[None], M_h * by_o[None]], axis=1)
            M = pulled @ W_h.T, M_c * f[None]
            return M, jnp.sqrt((jnp.sum(M[0] ** 2) + jnp.sum(M[1] ** 2)) / (2 * size))

        rows = jax.lax.scan(forward, (zeros, zeros), projected)[1]
        eye = jnp.eye(2 * size)
        return jax.lax.scan(backward, (eye[:, :size], eye[:, size:]), rows, reverse=True)[1]

    W_rz, W_n = W_h[:, : 2 * size], W_h[:, 2 * size :]

    def forward(h, a):
        r, z = jnp.split(jax.nn.sigmoid(a[: 2 * size] + h @ W_rz), 2)
        n = jnp.tanh(a[2 * size :] + (r * h) @ W_n)
        after = (1 - z) * h + z * n
        return after, (1 - z, z * (1 - n * n), r, h * r * (1 - r), (n - h) * z * (1 - z))

    def backward(M, row):
        keep, by_n, r, by_r, by_z = (each[None] for each in row)
        pulled = (M * by_n) @ W_n.T
        both = jnp.concatenate([pulled * by_r, M * by_z], axis=1)
        M = M * keep + pulled * r + both @ W_rz.T
        return M, jnp.sqrt(jnp.mean(M * M) * size)

    rows = jax.lax.scan(forward, zeros, projected)[1]
    return jax.lax.scan(backward, jnp.eye(size), rows, reverse=True)[1]


BY_HAND = {"rnn": "", "lstm": "ifgo", "gru": "rzn"}  # cell -> its gates, in one matrix


def torch_call(name, params, xs):
    """`torch.func.jacrev` of the step at every t, and the products of what it gives."""
    import torch

    to = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), (params, xs))
    weights, inputs = to
    size = xs.shape[-1]

    def affine(gate, x, h):
        return x @ gate["W_x"] + gate["b"] + h @ gate["W_h"]

    def step(carry, x):
        if name == "rnn":
            return torch.tanh(affine(weights, x, carry))
        if name == "lstm":
            h, c = carry[:size], carry[size:]
            i, f, o = (torch.sigmoid(affine(weights[gate], x, h)) for gate in "ifo")
            c = f * c + i * torch.tanh(affine(weights["g"], x, h))
            return torch.cat([o * torch.tanh(c), c])
        r, z = (torch.sigmoid(affine(weights[gate], x, carry)) for gate in "rz")
        n = torch.tanh(affine(weights["n"], x, r * carry))
        return (1 - z) * carry + z * n

    def call():
        carry, jacobians = torch.zeros(size * (2 if name == "lstm" else 1)), []
        for x in inputs:
            jacobians.append(torch.func.jacrev(lambda carry, x=x: step(carry, x))(carry))
            carry = step(carry, x)
        product, found = torch.eye(len(carry)), []
        for jacobian in reversed(jacobians):
            product = product @ jacobian
            found.append(product.norm())
        return found

    return call


def numpy_call(params, xs):
    """All Lyapunov exponents of the tanh net, as one would write it in NumPy."""
    W_x, W_h, b = (np.asarray(params[key]) for key in ("W_x", "W_h", "b"))
    xs = np.asarray(xs)

    def call():
        h, total = np.zeros(len(W_h)), 0.0
        frame = np.eye(len(W_h))
        for x in xs:
            h = np.tanh(x @ W_x + b + h @ W_h)
            frame, upper = np.linalg.qr((1 - h * h)[:, None] * (W_h.T @ frame))
            total = total + np.log(np.abs(np.diagonal(upper)))
        return total / len(xs)

    return call


if __name__ == "__main__":
    main(Config, run)
