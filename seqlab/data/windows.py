"""Long sequences with an answer at every step, in batches: crops, or windows up to a step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seqlab.errors import InputError


@dataclass(frozen=True, eq=False)
class Answered:
    """N sequences of at most T steps, padded at the end, with K answers a step.

    Attributes:
      xs: inputs, scaled and finite, float32 [N, T, D].
      targets: float32 [N, T, K]; finite also where not known.
      is_known: which targets count, bool [N, T, K].
      is_real: which steps there are, bool [N, T].
    """

    xs: np.ndarray
    targets: np.ndarray
    is_known: np.ndarray
    is_real: np.ndarray

    def windows(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The `length` steps up to each (sequence, step) of `rows` [M, 2], and which are real.

        Steps before the first are zeros in front, and not real: a sequence shorter than the window
        is all there.
        """
        places = rows[:, 1:] + np.arange(1 - length, 1)
        inside = np.maximum(places, 0)
        mask = (places >= 0) & self.is_real[rows[:, :1], inside]
        return np.where(mask[..., None], self.xs[rows[:, :1], inside], np.float32(0)), mask


class Batches:
    """Batches of one net, in an order of its own each epoch, without end.

    A batch has xs [B, T, D], mask [B, T], targets and is_known: [B, T, K] of crops, [B, K] of
    windows. A last batch of an epoch that is not full is left out.

    Attributes:
      per_epoch: batches an epoch.
    """

    def __init__(
        self, data: Answered, batch_size: int, *, crop: int | None = None,
        window: int | None = None, seed: int | list[int] = 0,
    ):  # fmt: skip
        """Either of the two lengths is given.

        Args:
          data: the sequences.
          batch_size: B, crops or windows; fewer where there are not as many.
          crop: steps of a crop, which begins anywhere such that it is full if it can be.
          window: steps of a window, which ends at any step with a known target.
          seed: of the order.

        Raises:
          InputError: nothing to learn from.
        """
        if (crop is None) == (window is None):
            raise ValueError("Batches: give crop or window")
        self.data, self.crop, self.window, self.seed = data, crop, window, seed
        if crop is not None:
            lengths = data.is_real.sum(axis=1)
            self._rows = np.stack([np.arange(len(lengths)), lengths], axis=1)
        else:
            self._rows = np.argwhere(data.is_known.any(axis=-1))
        if not data.is_known.any():
            raise InputError("no step has a target: there is nothing to learn from")
        self._size = min(batch_size, len(self._rows))
        self.per_epoch = len(self._rows) // self._size

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        while True:
            order = rng.permutation(len(self._rows))
            for start in range(0, self.per_epoch * self._size, self._size):
                rows = self._rows[order[start : start + self._size]]
                if self.crop is not None:
                    yield self._crops(rows, self.crop, rng)
                elif self.window is not None:
                    yield self._windows(rows, self.window)

    def _crops(self, rows, crop, rng):
        steps = min(crop, self.data.xs.shape[1])
        latest = np.maximum(rows[:, 1] - steps, 0)
        at = rows[:, :1], rng.integers(latest, endpoint=True)[:, None] + np.arange(steps)
        data = self.data
        return {"xs": data.xs[at], "mask": data.is_real[at], "targets": data.targets[at],
                "is_known": data.is_known[at]}  # fmt: skip

    def _windows(self, rows, window):
        xs, mask = self.data.windows(rows, window)
        at = rows[:, 0], rows[:, 1]
        return {"xs": xs, "mask": mask, "targets": self.data.targets[at],
                "is_known": self.data.is_known[at]}  # fmt: skip
