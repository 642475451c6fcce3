"""What do many nets cost, trained side by side in one program, next to one after the other?

    python -m experiments.benchmarks.ensemble

Updates of N small nets (adding problem, Adam, clipping) by `seqlab.ensemble.train_nets`, at once;
and of one net by the same function and by `seqlab.train.steps`, the way one run trains. The ratio
is of N nets at once to N times one: of the time of an update; of the first updates with what comes
before them, tracing and compiling or reading the program from the cache; and of runs of
`num_updates`, which are both together (starting Python N times would come on top). Run it alone on
the machine.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab.cells.lookup import make_cell
from seqlab.cli import main
from seqlab.data.checks import check_at_least
from seqlab.data.synthetic import adding
from seqlab.ensemble import stacked, train_nets
from seqlab.losses import squared_error
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToOne
from seqlab.runlog import RunLog
from seqlab.timing import time_variants
from seqlab.train import fresh_state, make_train_step, steps


@dataclass(frozen=True)
class Config:
    """N nets at once against N times one."""

    cells: tuple[str, ...] = ("rnn", "lstm", "gru")
    """names of cells, or package.module:Class"""
    sizes: tuple[int, ...] = (16, 64)
    """H, units"""
    num_nets: int = 64
    """N"""
    seq_len: int = 50
    """T, steps"""
    batch_size: int = 8
    """B, sequences of a net"""
    num_updates: int = 1000
    """of a run"""
    every: int = 20
    """updates a call, where nets are side by side"""
    rounds: int = 9
    """timed calls"""
    seed: int = 0
    num_devices: int | None = None
    """devices that share out the nets; None: as many as can have equal shares"""

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("num_nets", "num_updates", "batch_size", "every", "rounds"):
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seq_len, 2, "seq_len")
        for name in self.cells:
            for size in self.sizes:
                make_cell(name, size)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(("rnn",), (4,), num_nets=4, seq_len=4, batch_size=2, every=2, rounds=2)


def run(config: Config, log: RunLog) -> None:
    """Times every cell at every size."""
    rows = []
    for size in config.sizes:
        for name in config.cells:
            log.write(step=0, cell=name, hidden_size=size)
            rows.append({"cell": name, "hidden_size": size, **measure(name, size, config)})
    log.table(
        f"{config.num_nets} nets at once, T={config.seq_len}, B={config.batch_size}: x of "
        f"{config.num_nets} times one",
        rows,
    )
    checks = [
        {"name": f"{row['cell']}, H={row['hidden_size']}: {what} of all, x of single ones",
         "found": row[name], "expected": "<= 0.25", "tolerance": 0.0,
         "passed": row[name] <= 0.25 if config.num_nets >= 64 else None}
        for row in rows
        for what, name in (("an update", "x_one"), ("a run", "x_run"))
    ]  # fmt: skip
    log.table("checks", checks)
    log.finish(rows=rows, num_nets=config.num_nets, checks=checks)


def measure(name: str, size: int, config: Config) -> dict[str, float]:
    """Milliseconds of an update and seconds of the first one, and the ratios."""
    model = functional(ManyToOne, make_cell(name, size), input_size=2, output_size=1)
    optimizer = optax.adam(1e-3)

    def loss_fn(params, batch, key):
        del key  # nothing here is random
        logits = model.apply(params, batch.xs).logits
        return jnp.mean(squared_error(logits, batch.targets)), {}

    def start(key):
        return fresh_state(model.init, optimizer, key)

    train_step = make_train_step(loss_fn, optimizer, clip_norm=1.0)
    rng = np.random.default_rng(config.seed)

    def nets(count):
        state = jax.vmap(start)(jax.random.split(jax.random.key(config.seed), count))
        rows = [adding(rng, config.batch_size, config.seq_len) for _ in range(count)]
        batch = stacked(rows)
        return train_nets(
            train_step, state, itertools.repeat(batch), every=config.every,
            num_devices=config.num_devices,
        )  # fmt: skip

    def one_by_one() -> Iterator[Any]:
        """A look every `every` updates at a run of one net."""
        batch = adding(rng, config.batch_size, config.seq_len)
        state = start(jax.random.key(config.seed))
        each = steps(train_step, state, itertools.repeat(batch))
        while True:
            yield list(itertools.islice(each, config.every))[-1]

    makers = {
        "at once": lambda: nets(config.num_nets),
        "one": one_by_one,
        "one scanned": lambda: nets(1),
    }
    first, calls = {}, {}
    for label, make in makers.items():
        begin = time.perf_counter()
        walk = make()
        jax.block_until_ready(next(walk)[1])
        first[label] = time.perf_counter() - begin
        calls[label] = lambda walk=walk: jax.block_until_ready(next(walk)[1])
    seconds = {
        label: float(np.median(times)) / config.every
        for label, times in time_variants(calls, config.rounds).items()
    }
    many = config.num_nets
    runs = {
        label: first[label] + (config.num_updates - config.every) * seconds[label]
        for label in ("at once", "one")
    }
    return {
        "ms_at_once": 1e3 * seconds["at once"],
        "ms_one": 1e3 * seconds["one"],
        "x_one": seconds["at once"] / (many * seconds["one"]),
        "x_one_scanned": seconds["at once"] / (many * seconds["one scanned"]),
        "first_s_at_once": first["at once"],
        "first_s_one": first["one"],
        "x_first": first["at once"] / (many * first["one"]),
        "x_run": runs["at once"] / (many * runs["one"]),
    }


if __name__ == "__main__":
    main(Config, run)
