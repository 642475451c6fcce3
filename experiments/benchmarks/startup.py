"""How long until seqlab is there, next to what it stands on?

    python -m experiments.benchmarks.startup

Seconds of fresh Python processes, from start to end: with nothing to do, importing jax, importing
seqlab and a cell of it, asking an experiment for its flags; medians over rounds, variants
interleaved with the order turned every other round. Run it alone on the machine.
"""

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

from seqlab.cli import main
from seqlab.data.checks import check_at_least
from seqlab.runlog import RunLog
from seqlab.timing import time_variants

STARTS = {
    "python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import jax": ["-c", "import jax"],
    "import seqlab": ["-c", "import seqlab"],
    "import seqlab, LSTM and unroll": ["-c", "from seqlab import LSTM, unroll"],
    "import flax.linen": ["-c", "import flax.linen"],
    "vanishing_gradients --help": ["-m", "experiments.vanishing_gradients", "--help"],
}


@dataclass(frozen=True)
class Config:
    """Time to start."""

    rounds: int = 9
    """timed rounds"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        check_at_least(self.rounds, 1, "rounds")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(rounds=1)


def run(config: Config, log: RunLog) -> None:
    """Times every start."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start(arguments):
        subprocess.run(
            [sys.executable, *arguments], env=environment, check=True, capture_output=True
        )

    calls = {name: lambda args=args: start(args) for name, args in STARTS.items()}
    seconds = time_variants(calls, config.rounds)
    jax_s = statistics.median(seconds["import jax"])
    rows = []
    for name, times in seconds.items():
        log.write(step=0, variant=name, rounds=len(times))
        rows.append(
            {
                "start": name,
                "median_s": statistics.median(times),
                "least_s": min(times),
                "x_import_jax": statistics.median(times) / jax_s,
            }
        )
    log.table("fresh processes", rows)
    log.finish(rows=rows)


if __name__ == "__main__":
    main(Config, run)
