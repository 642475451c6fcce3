"""Checks at the edge of the data layer; every failure is an `InputError` that names the field."""

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from seqlab.errors import InputError


def check_finite(array: np.ndarray, name: str) -> None:
    """Refuses an array that holds a NaN or an infinity.

    Args:
      array: numbers of any shape.
      name: what the user calls the array; it begins the message.

    Raises:
      InputError: naming the first such entry in row-major order, as in "xs[3, 12, 0] is nan".
    """
    array = np.asarray(array)
    finite = np.isfinite(array)
    if finite.all():
        return
    index = np.unravel_index(np.argmin(finite), array.shape)
    place = f"[{', '.join(str(i) for i in index)}]" if index else ""
    raise InputError(f"{name}{place} is {array[index]}")


def check_at_least(value: int, minimum: int, field: str, reason: str = "") -> None:
    """Refuses a whole number below `minimum`; `reason` says where the limit comes from.

    Raises:
      InputError: naming the field, the limit and the value found.
    """
    if value < minimum:
        because = f" ({reason})" if reason else ""
        raise InputError(f"{field} must be {minimum} or more{because}, got {value}")


def check_positive(value: float, field: str) -> None:
    """Refuses a number that is not above 0 and finite.

    Raises:
      InputError: naming the field and the value found.
    """
    if not 0 < value < float("inf"):
        raise InputError(f"{field} must be above 0, got {value}")


def check_share(value: float, field: str) -> None:
    """Refuses what is not a share from 0 to below 1; NaN is none.

    Raises:
      InputError: naming the field and the value found.
    """
    if not 0.0 <= value < 1.0:
        raise InputError(f"{field} must be a share below 1, got {value}")


def check_distinct(values: Sequence[object], field: str) -> None:
    """Refuses no values at all, and one that is there twice.

    Raises:
      InputError: naming the field and the values found.
    """
    if not values:
        raise InputError(f"{field} is empty: number of {field} must be 1 or more")
    if len(set(values)) != len(values):
        raise InputError(f"{field} names one twice: {' '.join(map(str, values))}")


def check_known(value: str, known: Iterable[str], field: str) -> None:
    """Refuses a name that is not one of `known`.

    Raises:
      InputError: naming the field, the nearest known name if one is near, and all of them.
    """
    known = list(known)
    if value in known:
        return
    near = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise InputError(f"unknown {field} {value!r}{hint} known: {', '.join(known)}")
