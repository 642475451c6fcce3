"""Timing of variants side by side, for benchmarks."""

import time
from collections.abc import Callable, Mapping


def time_variants(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one a round, after one call each to warm up.

    The calls take turns, in an order that is reversed every other round, so that what the machine
    does beside falls on all of them alike.
    """
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    for call in calls.values():
        call()
    for k in range(rounds):
        for label in list(calls)[:: -1 if k % 2 else 1]:
            start = time.perf_counter()
            calls[label]()
            seconds[label].append(time.perf_counter() - start)
    return seconds
