"""Best tracks as arrays to learn from: features of each 6-hourly point, displacements to come.

A forecast is made at a point of a track, from the points up to it, for H leads of 6, 12 ... 6 H
hours. Its targets are displacements (east, north) in km, in the tangent plane of the sphere at that
point (`seqlab.geodesy`), so that a date line, a pole or a hemisphere makes no difference to them;
`geodesy.destination` turns what is predicted into places again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqlab.data.tracks import Storm, every_hours
from seqlab.errors import InputError
from seqlab.geodesy import destination, displacement_km, great_circle_km

STEP_HOURS = 6
LONGEST_HOURS = 72
FEATURES = (
    "latitude", "sin longitude", "cos longitude", "motion east", "motion north", "motion known",
    "wind", "wind known", "pressure", "pressure known", "sin date", "cos date",
)  # fmt: skip
GROUPS = {
    "position": (0, 1, 2), "motion": (3, 4, 5), "wind": (6, 7), "pressure": (8, 9), "date": (10, 11)
}  # fmt: skip
FIRST_CASE = 2  # step from which a forecast is verified: CLIPER reads the motion 12 hours ago


@dataclass(frozen=True, eq=False)
class TrackCases:
    """Unbroken 6-hourly pieces of tracks, N of at most T steps, padded at the end.

    Attributes:
      ids: the storm that each piece is of, N.
      names, years: likewise.
      times: datetime64[m] [N, T].
      lat, lon: degrees, [N, T].
      wind_kt, pressure_hpa: [N, T]; NaN where not known.
      is_real: bool [N, T].
      features: as named in `FEATURES`, unscaled, float64 [N, T, D]; NaN where missing.
      targets: displacement from each point in km, [N, T, H, 2]; NaN where there is none.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    years: tuple[int, ...]
    times: np.ndarray
    lat: np.ndarray
    lon: np.ndarray
    wind_kt: np.ndarray
    pressure_hpa: np.ndarray
    is_real: np.ndarray
    features: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_case(self) -> np.ndarray:
        """Where a forecast is verified: from the third point of a piece on, bool [N, T, H]."""
        has_past = np.arange(self.is_real.shape[1]) >= FIRST_CASE
        return ~np.isnan(self.targets[..., 0]) & has_past[:, None]

    def of(self, groups) -> "TrackCases":
        """The pieces of some storms, by id.

        Raises:
          InputError: none of them has a piece.
        """
        rows = [row for row, id in enumerate(self.ids) if id in groups]
        if not rows:
            raise InputError("no track of the part has two points 6 hours apart")
        arrays = ("times", "lat", "lon", "wind_kt", "pressure_hpa", "is_real", "features",
                  "targets")  # fmt: skip
        texts = ("ids", "names", "years")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in arrays},
            **{name: tuple(getattr(self, name)[row] for row in rows) for name in texts},
        )

    def errors_km(self, displacements: np.ndarray) -> np.ndarray:
        """Great-circle distance from where displacements lead to the best track, [N, T, H].

        Args:
          displacements: forecast from each point, km, [N, T, H, 2].

        Returns:
          Distances in km; NaN where no forecast is verified.
        """
        lat, lon = destination(self.lat[..., None], self.lon[..., None], displacements)
        true_lat, true_lon = destination(self.lat[..., None], self.lon[..., None], self.targets)
        return np.where(self.is_case, great_circle_km(lat, lon, true_lat, true_lon), np.nan)


def track_cases(storms: Sequence[Storm], longest_hours: int = LONGEST_HOURS) -> TrackCases:
    """Pieces of two or more points, with their features and targets.

    Args:
      storms: with points at any hour; those at 00, 06, 12 and 18 UTC are read.
      longest_hours: the longest lead, a multiple of 6.

    Raises:
      InputError: a lead that is none, or no storm with two points 6 hours apart.
    """
    if longest_hours < STEP_HOURS or longest_hours % STEP_HOURS:
        raise InputError(f"longest_hours is {longest_hours}, expected a multiple of {STEP_HOURS}")
    pieces = [
        piece for storm in storms for piece in every_hours(storm, STEP_HOURS) if len(piece) > 1
    ]
    if not pieces:
        raise InputError("no storm has two points 6 hours apart at 00, 06, 12 or 18 UTC")
    shape = (len(pieces), max(map(len, pieces)))

    def padded(name):
        values = np.full(shape, np.nan)
        for row, piece in enumerate(pieces):
            values[row, : len(piece)] = getattr(piece, name)
        return values

    lat, lon, wind, pressure = map(padded, ("lat", "lon", "wind_kt", "pressure_hpa"))
    start = np.array([piece.times[0] for piece in pieces])
    times = start[:, None] + np.arange(shape[1]) * np.timedelta64(60 * STEP_HOURS, "m")
    motion = np.full((*shape, 2), np.nan)
    motion[:, 1:] = arriving_motion(lat[:, :-1], lon[:, :-1], lat[:, 1:], lon[:, 1:])
    targets = np.full((*shape, longest_hours // STEP_HOURS, 2), np.nan)
    for lead in range(1, min(targets.shape[2], shape[1] - 1) + 1):
        ahead = displacement_km(lat[:, :-lead], lon[:, :-lead], lat[:, lead:], lon[:, lead:])
        targets[:, :-lead, lead - 1] = ahead
    return TrackCases(
        ids=tuple(piece.id for piece in pieces),
        names=tuple(piece.name for piece in pieces),
        years=tuple(piece.year for piece in pieces),
        times=times,
        lat=lat,
        lon=lon,
        wind_kt=wind,
        pressure_hpa=pressure,
        is_real=~np.isnan(lat),
        features=point_features(lat, lon, motion, wind, pressure, times),
        targets=targets,
    )


def arriving_motion(lat, lon, later_lat, later_lon) -> np.ndarray:
    """The step between two places as (east, north) in km at the later one, [..., 2].

    Constant motion along the great circle is its repetition from there.
    """
    return -displacement_km(later_lat, later_lon, lat, lon)


def point_features(lat, lon, motion, wind_kt, pressure_hpa, times) -> np.ndarray:
    """`FEATURES` of points, [..., D], NaN where missing.

    Args:
      lat, lon: degrees, [...].
      motion: km over the last 6 hours, east and north, [..., 2]; NaN at the first point.
      wind_kt, pressure_hpa: [...]; NaN where not known.
      times: datetime64[m], [...].
    """
    day = (times - times.astype("datetime64[Y]").astype("datetime64[m]")).astype(float) / 1440
    season = 2 * np.pi * day / 365.25
    return np.stack(
        np.broadcast_arrays(
            lat, np.sin(np.radians(lon)), np.cos(np.radians(lon)), motion[..., 0], motion[..., 1],
            ~np.isnan(motion[..., 0]), wind_kt, ~np.isnan(wind_kt), pressure_hpa,
            ~np.isnan(pressure_hpa), np.sin(season), np.cos(season),
        ),
        axis=-1,
    ).astype(float)  # fmt: skip
