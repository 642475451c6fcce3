"""Alarms before a failure: when they are given, and how many are right. Plain numpy.

An alarm is given after so many cycles in a row with a predicted remaining life below a threshold.
"""

from typing import NamedTuple

import numpy as np


class Alarms(NamedTuple):
    """First alarms of machines at one threshold.

    Attributes:
      detected: share of the machines that came near failure in their record that had an alarm; NaN
        where none came near.
      false_alarms: share of all machines whose alarm was too early.
      lead_cycles: median of the true remaining life at the alarm, over machines with one; NaN where
        there is none.
    """

    detected: float
    false_alarms: float
    lead_cycles: float


def alarm_cycles(
    lives: np.ndarray, is_real: np.ndarray, threshold: float, in_a_row: int
) -> np.ndarray:
    """The cycle of each machine's first alarm, from 1, [N]; 0 where there is none.

    Args:
      lives: predicted after each cycle, [N, T].
      is_real: which cycles there are, bool [N, T].
      threshold: below which a life is alarming.
      in_a_row: cycles that it takes.
    """
    is_low = np.where(is_real, lives, np.inf) < threshold
    count = np.cumsum(is_low.astype(int), axis=1)
    count[:, in_a_row:] -= count[:, :-in_a_row].copy()
    is_alarm = count >= in_a_row
    return np.where(is_alarm.any(axis=1), is_alarm.argmax(axis=1) + 1, 0)


def judge_alarms(cycles: np.ndarray, lives: np.ndarray, last: np.ndarray, near: float) -> Alarms:
    """How good the first alarms are.

    Args:
      cycles: of each machine's first alarm, from 1, or 0, [N]; of `alarm_cycles`.
      lives: true remaining life after each cycle, [N, T].
      last: index of the last cycle of each machine, [N].
      near: remaining life that counts as near failure; an alarm with more than twice as much to go
        is too early.
    """
    rows = np.arange(len(lives))
    came_near = lives[rows, last] <= near
    has_alarm = cycles > 0
    lead = lives[rows, np.maximum(cycles - 1, 0)]
    return Alarms(
        float(np.mean(has_alarm[came_near])) if came_near.any() else float("nan"),
        float(np.mean(has_alarm & (lead > 2 * near))),
        float(np.median(lead[has_alarm])) if has_alarm.any() else float("nan"),
    )
