"""Coastlines of the world to draw tracks on: a light outline that comes with the package.

`data/coastline_110m.txt` holds the shore lines of Natural Earth's "land", 1:110 million, version
4.1 (public domain, naturalearthdata.com), as they are in the arcs of `land-110m.json` of the npm
package world-atlas 2.0.2: a line of the file is a line on the map, points are longitude,latitude in
degrees to 0.01, and the seams along 180 degrees and the south pole are left out. 5,120 points,
65 kB; small islands are not in it.
"""

from functools import cache
from importlib.resources import files

import numpy as np


@cache
def coastlines() -> tuple[np.ndarray, ...]:
    """The lines, each [P, 2]: longitude and latitude in degrees."""
    text = (files("seqlab.plots") / "data" / "coastline_110m.txt").read_text(encoding="ascii")
    return tuple(
        np.array([point.split(",") for point in line.split()], float) for line in text.splitlines()
    )


def around(lon: np.ndarray, centre: float) -> np.ndarray:
    """The same longitudes, degrees [...], counted so that they lie within 180 of `centre`."""
    return centre + np.mod(np.asarray(lon, float) - centre + 180.0, 360.0) - 180.0


def unbroken(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line with NaN put in where it jumps round the map: (lon, lat), degrees, from [N] each."""
    jumps = np.flatnonzero(np.abs(np.diff(lon)) > 180.0) + 1
    return np.insert(lon, jumps, np.nan), np.insert(lat, jumps, np.nan)
