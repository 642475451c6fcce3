"""Timing of variants side by side, for benchmarks."""

import time
from collections.abc import Callable, Mapping

PAUSE_S = 0.02


def time_variants(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one a round.

    The calls take turns, in an order that is reversed every other round, so that what the machine
    does beside falls on all of them alike. Each is timed as one step of many: after a pause, in
    which the threads of the one before go to sleep (OpenMP's, on which PyTorch runs, spin for a
    while on a core that the next call needs), and one untimed call, which wakes its own.
    """
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    for k in range(rounds):
        for label in list(calls)[:: -1 if k % 2 else 1]:
            time.sleep(PAUSE_S)
            calls[label]()
            start = time.perf_counter()
            calls[label]()
            seconds[label].append(time.perf_counter() - start)
    return seconds
