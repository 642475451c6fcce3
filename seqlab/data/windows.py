"""Long sequences with an answer at every step, in batches: crops, or windows up to a step."""

from dataclasses import dataclass

import numpy as np

from seqlab.errors import InputError


@dataclass(frozen=True, eq=False)
class Answered:
    """M sequences of at most T steps, padded at the end, with K answers a step.

    Attributes:
      xs: inputs, scaled and finite, float32 [M, T, D].
      targets: float32 [M, T, K]; finite also where not known.
      is_known: which targets count, bool [M, T, K].
      is_real: which steps there are, bool [M, T].
    """

    xs: np.ndarray
    targets: np.ndarray
    is_known: np.ndarray
    is_real: np.ndarray

    def windows(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The `length` steps up to each (sequence, step): xs [..., length, D] and which are real.

        Steps before the first are zeros in front, and not real: a sequence shorter than the window
        is all there.

        Args:
          rows: (sequence, step), [..., 2].
          length: of a window.
        """
        places = rows[..., 1:] + np.arange(1 - length, 1)
        inside = np.maximum(places, 0)
        mask = (places >= 0) & self.is_real[rows[..., :1], inside]
        return np.where(mask[..., None], self.xs[rows[..., :1], inside], np.float32(0)), mask


class NetBatches:
    """Batches of N nets trained side by side, for a `Feed`: a function of their number.

    Leaves are [B, N, ...], a net's rows each, in an order of the net's own that is new in each
    epoch: xs [B, N, L, D], mask [B, N, L], targets and is_known: [B, N, L, K] of crops, [B, N, K]
    of windows. What does not fill a last batch of an epoch is left out, others each time.
    """

    def __init__(
        self, data: Answered, batch_size: int, *, num_nets: int, crop: int | None = None,
        window: int | None = None, seed: int = 0,
    ):  # fmt: skip
        """Either of the two lengths is given.

        Args:
          data: the sequences.
          batch_size: B, crops or windows; fewer where there are not as many.
          num_nets: N.
          crop: steps of a crop, which begins anywhere such that it is full if it can be.
          window: steps of a window, which ends at any step with a known target.
          seed: of the orders.

        Raises:
          InputError: nothing to learn from.
          ValueError: both lengths given, or none.
        """
        if (crop is None) == (window is None):
            raise ValueError("NetBatches: give crop or window")
        if not data.is_known.any():
            raise InputError("no step has a target: there is nothing to learn from")
        self.data, self.num_nets, self.seed = data, num_nets, seed
        self.crop = None if crop is None else min(crop, data.xs.shape[1])
        self.window = window
        if crop is None:
            self._rows = np.argwhere(data.is_known.any(axis=-1))
        else:
            lengths = data.is_real.sum(axis=1)
            self._rows = np.stack([np.arange(len(lengths)), lengths], axis=1)
        self.batch_size = min(batch_size, len(self._rows))

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in which nothing is seen twice."""
        return len(self._rows) // self.batch_size

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Batch `number` of all nets; number // `batches_per_epoch` is its epoch."""
        epoch, place = divmod(number, self.batches_per_epoch)
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        rows, shares = [], []
        for net in range(self.num_nets):
            rng = np.random.RandomState([self.seed, net, epoch])
            rows.append(self._rows[rng.permutation(len(self._rows))[part]])
            shares.append(rng.uniform(size=len(self._rows))[part])
        rows, shares = np.stack(rows, axis=1), np.stack(shares, axis=1)
        data = self.data
        if self.crop is None:
            assert self.window is not None
            xs, mask = data.windows(rows, self.window)
            at = rows[..., 0], rows[..., 1]
        else:
            starts = shares * (np.maximum(rows[..., 1] - self.crop, 0) + 1)
            at = rows[..., :1], starts.astype(int)[..., None] + np.arange(self.crop)
            xs, mask = data.xs[at], data.is_real[at]
        return {"xs": xs, "mask": mask, "targets": data.targets[at], "is_known": data.is_known[at]}
