"""Made-up tropical cyclones: tracks that beta drift and a steering flow make, with noise.

A centre at latitude phi (degrees north) and longitude lambda moves with velocity v in km/h, towards
east and north,

    v(t) = s(phi, day) + b(phi) + e(t),        position by steps of one hour on the sphere,

* steering flow s, easterly trade winds south of the subtropical ridge and westerlies north of it:
  with z = (phi - R(day)) / 8 and R(day) = 27 + 5 cos(2 pi (day - 215) / 365) degrees,

      s_u = 7.5 + 22.5 tanh(z)  + S_u,           s_w = 7 exp(-(z - 0.3)^2) + S_w,

  so that a storm that crosses the ridge recurves: it turns from west over north to east. The ridge
  lies farthest north in early August. (S_u, S_w) ~ N(0, 4^2) km/h are the storm's own, constant;
* beta drift b, towards the pole and the west as planetary vorticity, of gradient beta(phi) =
  (2 Omega / R) cos phi, carries a vortex: b = 9 cos(phi) (-0.7, 0.7) km/h;
* the weather's e, an Ornstein-Uhlenbeck process in each component: standard deviation 5 km/h,
  correlation time 36 h.

A storm is born at latitude N(13, 4^2) cut to 5 .. 22 and longitude U(125, 190), on a day
N(245, 40^2) of its year, and lives 5 to 14 days or until latitude 50. Its wind W (kt) grows
towards a potential that warm water gives and fades north of 25 degrees; pressure follows it,

    dW/dt = (max(15, 120 - 5 max(phi - 25, 0)) K - W) / 48 h,
    p = 1010 - (W / 6.3)^(1 / 0.644) hPa,

with the storm's own K ~ U(0.4, 1). Positions are noted every 6 hours with an error of 10 km in each
component, to 0.1 degrees; wind to 5 kt. In the southern hemisphere all of it is mirrored.

The size of the numbers follows Chan and Williams, 1987 (beta drift of some km/h), and Atkinson and
Holliday, 1977 (wind and pressure); the flow is a cartoon, not a climatology.
"""

from typing import NamedTuple

import numpy as np

from seqlab.data.checks import check_at_least
from seqlab.data.tracks import Storm
from seqlab.geodesy import destination, wrap_longitude

HOURS = 6
_STEP = np.timedelta64(60 * HOURS, "m")
_NOISE_HOURS, _NOISE_KMH = 36.0, 5.0


class Flow(NamedTuple):
    """Velocities of the simulator without noise, km/h, [..., 2] each, towards east and north."""

    steering: np.ndarray
    beta_drift: np.ndarray


def flow(lat: np.ndarray, day: np.ndarray) -> Flow:
    """Steering flow and beta drift by latitude (degrees, positive) and day of the year, [...]."""
    lat, day = np.broadcast_arrays(np.asarray(lat, float), np.asarray(day, float))
    ridge = 27.0 + 5.0 * np.cos(2 * np.pi * (day - 215.0) / 365.0)
    z = (lat - ridge) / 8.0
    steering = np.stack([7.5 + 22.5 * np.tanh(z), 7.0 * np.exp(-((z - 0.3) ** 2))], axis=-1)
    drift = 9.0 * np.cos(np.radians(lat))[..., None] * np.array([-0.7, 0.7])
    return Flow(steering, drift)


def simulated_storms(
    rng: np.random.Generator, years: range, per_year: int = 25, *, is_southern: bool = False
) -> list[Storm]:
    """`per_year` storms a year, in order of their beginning; the module says how they move.

    Args:
      rng: of everything that is random.
      years: seasons.
      per_year: storms in each.
      is_southern: whether the equator is crossed over: latitudes and northward motion change sign.

    Raises:
      InputError: no year, or no storm a year.
    """
    check_at_least(len(years), 1, "years")
    check_at_least(per_year, 1, "per_year")
    season = np.repeat(list(years), per_year)
    days = np.clip(rng.normal(245.0, 40.0, (len(years), per_year)), 1.0, 350.0)
    days = np.sort(days, axis=1).ravel()
    tracks = _tracks(rng, days)
    start = np.array([f"{year}-01-01" for year in season], "datetime64[m]")
    first = start + (days * 4).astype(int) * _STEP
    storms = []
    for i, (lat, lon, wind, is_alive) in enumerate(zip(*tracks, strict=True)):
        count = int(is_alive.sum())
        storms.append(
            Storm(
                id=f"{season[i]}{i % per_year + 1:02d}",
                name="",
                year=int(season[i]),
                times=first[i] + np.arange(count) * _STEP,
                lat=np.round(lat[is_alive], 1) * (-1.0 if is_southern else 1.0),
                lon=wrap_longitude(np.round(lon[is_alive], 1)),
                wind_kt=5.0 * np.round(wind[is_alive] / 5.0),
                pressure_hpa=np.round(1010.0 - (wind[is_alive] / 6.3) ** (1 / 0.644)),
            )
        )
    return storms


def _tracks(rng, days):
    """Latitude, longitude, wind and whether the storm lives, [N, T] each, for N days of birth."""
    count, longest = len(days), 24 * 14
    lat = np.clip(rng.normal(13.0, 4.0, count), 5.0, 22.0)
    lon = rng.uniform(125.0, 190.0, count)
    num_hours = 24 * rng.integers(5, 14, count, endpoint=True)
    own = rng.normal(0.0, 4.0, (count, 2))
    potential = rng.uniform(0.4, 1.0, count)
    weather = rng.normal(0.0, _NOISE_KMH, (count, 2))
    keep = np.exp(-1.0 / _NOISE_HOURS)
    kick = _NOISE_KMH * np.sqrt(1 - keep**2)
    wind, is_alive, points = np.full(count, 25.0), np.ones(count, bool), []
    for hour in range(longest):
        is_alive = is_alive & (hour < num_hours) & (lat <= 50.0)
        if hour % HOURS == 0:
            points.append((lat, lon, wind, is_alive))
        steering, drift = flow(lat, days + hour / 24.0)
        lat, lon = destination(lat, lon, steering + drift + own + weather)
        weather = keep * weather + rng.normal(0.0, kick, (count, 2))
        goal = np.maximum(15.0, 120.0 - 5.0 * np.maximum(lat - 25.0, 0.0)) * potential
        wind = wind + (goal - wind) / 48.0
    lats, lons, winds, lives = (np.stack(each, axis=1) for each in zip(*points, strict=True))
    lats, lons = destination(lats, lons, rng.normal(0.0, 10.0, (*lats.shape, 2)))
    return lats, lons, winds, lives
