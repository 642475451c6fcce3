"""Storms and engines by the name of their set: simulated, an archive, or a user's own files."""

from pathlib import Path
from typing import Any

import numpy as np

from seqlab.data.checks import check_known
from seqlab.data.engines import SUBSETS, Engine, read_subset
from seqlab.data.storms import simulated_storms
from seqlab.data.tracks import Storm, read_storms
from seqlab.data.wear import simulated_engines
from seqlab.errors import InputError

STORM_SETS = {"simulated": "", "jma": "jma_best_track", "hurdat2": "hurdat2_atlantic"}
SIMULATED_YEARS = range(1990, 2020)
ENGINE_SETS = ("simulated", "simulated-regimes", *(name.lower() for name in SUBSETS))
SIMULATED_REGIMES = {"simulated": 1, "simulated-regimes": 6}
NUM_ENGINES = 100  # simulated, in each part


def load_storms(
    dataset: str = "simulated", *, tracks: Path | str | None = None, seed: int = 0
) -> list[Storm]:
    """All storms of a set, in the order of its file.

    Args:
      dataset: "simulated" (25 a year, 1990 to 2019, by `seqlab.data.storms`), "jma" (western North
        Pacific) or "hurdat2" (Atlantic).
      tracks: a best-track file to read instead, see `seqlab.data.tracks`.
      seed: of simulated storms.

    Raises:
      InputError: an unknown set, or files that cannot be had or read.
    """
    check_known(dataset, STORM_SETS, "dataset")
    if tracks is not None:
        return list(read_storms(tracks))
    if dataset == "simulated":
        return simulated_storms(np.random.default_rng(seed), SIMULATED_YEARS)
    from seqlab.data.builders import load  # a second of imports that simulated storms need not

    return [_storm(example) for example in load(STORM_SETS[dataset], "train+validation+test")]


def load_engines(
    dataset: str = "simulated", *, folder: Path | str | None = None, seed: int = 0
) -> tuple[list[Engine], list[Engine]]:
    """(train, test): engines that ran to failure, and engines cut off before it.

    Args:
      dataset: "simulated" or "simulated-regimes" (one and six operating regimes, by
        `seqlab.data.wear`), or a subset of C-MAPSS, "fd001" to "fd004".
      folder: that holds the subset's three files; they are fetched without it.
      seed: of simulated engines.

    Raises:
      InputError: an unknown set, or files that cannot be had or read.
    """
    check_known(dataset, ENGINE_SETS, "dataset")
    if dataset in SIMULATED_REGIMES:
        if folder is not None:
            raise InputError(f"folder is read for fd001 to fd004, not for {dataset}")
        regimes = SIMULATED_REGIMES[dataset]
        rng = np.random.default_rng(seed)
        return simulated_engines(rng, NUM_ENGINES, NUM_ENGINES, regimes)
    if folder is not None:
        return read_subset(folder, dataset.upper())
    from seqlab.data.builders import load

    name = "cmapss" if dataset == "fd001" else f"cmapss_{dataset}"
    train, test = ([_engine(each) for each in load(name, part)] for part in ("train", "test"))
    return train, test


def _storm(example: dict[str, Any]) -> Storm:
    values = dict(example)
    times = values.pop("minutes").astype("datetime64[m]")
    return Storm(times=times, **{**values, "year": int(values["year"])})


def _engine(example: dict[str, Any]) -> Engine:
    return Engine(**{**example, "cycles_left": int(example["cycles_left"])})
