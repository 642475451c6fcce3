"""Engines as arrays to learn from: settings and sensors of each cycle, and cycles to failure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqlab.data.engines import NUM_SENSORS, NUM_SETTINGS, Engine
from seqlab.data.groups import Part, Scaler, fit_scaler
from seqlab.errors import InputError

RAREST = 0.01  # share of the training cycles that an operating regime has at least


@dataclass(frozen=True, eq=False)
class EngineCases:
    """N engines of at most T cycles, padded at the end.

    Attributes:
      ids: of the engines, N.
      settings: [N, T, 3]; NaN where missing or padded.
      sensors: [N, T, 21]; likewise.
      is_real: which cycles there are, bool [N, T].
      life: cycles to failure after each cycle, [N, T]; NaN where it is not known (censored).
    """

    ids: tuple[str, ...]
    settings: np.ndarray
    sensors: np.ndarray
    is_real: np.ndarray
    life: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def last(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the last cycle of each engine is: (row, step), [N] each."""
        return np.arange(len(self)), self.is_real.sum(axis=1) - 1


def engine_cases(engines: Sequence[Engine], prefix: str = "") -> EngineCases:
    """Engines side by side.

    Args:
      engines: of any lengths.
      prefix: of their ids, so that engine 1 of a train file is another than that of a test file.

    Raises:
      InputError: no engine, or one of another number of settings or sensors.
    """
    if not engines:
        raise InputError("there are no engines")
    shape = (len(engines), max(map(len, engines)))
    settings = np.full((*shape, NUM_SETTINGS), np.nan)
    sensors = np.full((*shape, NUM_SENSORS), np.nan)
    is_real, life = np.zeros(shape, bool), np.full(shape, np.nan)
    for row, engine in enumerate(engines):
        for name, found, size in (("settings", engine.settings, NUM_SETTINGS),
                                  ("sensors", engine.sensors, NUM_SENSORS)):  # fmt: skip
            if found.shape != (len(engine), size):
                raise InputError(
                    f"engine {engine.id}: {name} have shape {found.shape}, expected "
                    f"({len(engine)}, {size})"
                )
        settings[row, : len(engine)], sensors[row, : len(engine)] = engine.settings, engine.sensors
        is_real[row, : len(engine)] = True
        if engine.cycles_left is not None:
            life[row, : len(engine)] = engine.remaining_life
    ids = tuple(f"{prefix}{engine.id}" for engine in engines)
    return EngineCases(ids, settings, sensors, is_real, life)


@dataclass(frozen=True, eq=False)
class EngineScaler:
    """Scales of settings and, regime by regime, of sensors; made by `fit_engine_scaler` alone.

    Attributes:
      regimes: the first setting of each, rounded to whole numbers, float [R].
      settings, sensors: scalers of the training engines.
    """

    regimes: np.ndarray
    settings: Scaler
    sensors: Scaler

    @property
    def groups(self) -> frozenset:
        """The engines that it was fitted on."""
        return self.sensors.groups | self.settings.groups

    def regime_of(self, settings: np.ndarray) -> np.ndarray:
        """The nearest regime of each cycle, [...], from settings [..., 3]; 0 where missing."""
        distance = np.abs(settings[..., :1] - self.regimes)
        return np.argmin(np.where(np.isnan(distance), np.inf, distance), axis=-1)

    def __call__(self, cases: EngineCases) -> np.ndarray:
        """Settings and sensors in standard deviations, float32 [N, T, 24]; 0 where missing."""
        scaled = self.sensors(cases.sensors, self.regime_of(cases.settings))
        return np.concatenate([self.settings(cases.settings), scaled], axis=-1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Its numbers, for a run's files; `from_json` makes it again, without its groups."""
        parts = {"settings": self.settings.to_json(), "sensors": self.sensors.to_json()}
        return {"regimes": self.regimes.tolist(), **parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "EngineScaler":
        """The scaler whose `to_json` this was."""
        settings, sensors = (Scaler.from_json(value[name]) for name in ("settings", "sensors"))
        return cls(np.array(value["regimes"], float), settings, sensors)


def fit_engine_scaler(part: str, cases: EngineCases) -> EngineScaler:
    """Finds the operating regimes and the scales in each, from the training engines.

    A regime is a whole number that the first setting rounds to in 1 % of the cycles or more: one
    in FD001 and FD003, six in FD002 and FD004, whose sensors differ more between regimes than over
    an engine's life.

    Args:
      part: the name of the part; it has to be "train".
      cases: its engines.

    Raises:
      InputError: another part; values that are infinite.
    """
    rows = cases.is_real
    groups = [id for id, row in zip(cases.ids, rows, strict=True) for _ in range(row.sum())]
    settings, sensors = cases.settings[rows], cases.sensors[rows]
    rounded = np.round(settings[~np.isnan(settings[:, 0]), 0])
    values, counts = np.unique(rounded, return_counts=True)
    found = values[counts >= RAREST * counts.sum()] if len(values) else np.zeros(1)
    scaler = fit_scaler(Part(part, settings, groups))
    kinds = EngineScaler(found, scaler, scaler).regime_of(settings)
    return EngineScaler(
        found, scaler, fit_scaler(Part(part, sensors, groups), kinds, max(len(found), 1))
    )
