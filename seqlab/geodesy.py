"""Places on the Earth, taken as a sphere: distances, displacements, and the way back. Plain numpy.

Angles are degrees at the edge and radians inside; latitudes are positive north, longitudes positive
east. A displacement from a place is the vector (east, north) in km of its tangent plane whose
length and direction are those of the great circle to the target (azimuthal equidistant
coordinates): unlike differences of degrees it knows no date line and no narrow longitudes near a
pole, and `destination` is its exact inverse up to half the way round the Earth.
"""

import numpy as np

EARTH_RADIUS_KM = 6371.0  # of a sphere; the figure with which track errors are usually given
KM_PER_DEGREE = EARTH_RADIUS_KM * np.pi / 180


def wrap_longitude(lon):
    """Longitudes in [-180, 180), degrees, [...]."""
    return np.mod(np.asarray(lon, float) + 180.0, 360.0) - 180.0


def great_circle_km(lat, lon, other_lat, other_lon):
    """Shortest distance over the sphere in km, [...], between places in degrees, [...].

    By the haversine formula, which is sharp for near places too, with a = sin^2 (half an angle):

        h = hav(dlat) + cos lat cos lat' hav(dlon),      d = 2 R asin(sqrt h),      R = 6371 km.

    References: Sinnott, 1984.
    """
    lat, lon, other_lat, other_lon = _radians(lat, lon, other_lat, other_lon)
    h = np.sin((other_lat - lat) / 2) ** 2
    h = h + np.cos(lat) * np.cos(other_lat) * np.sin((other_lon - lon) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))


def displacement_km(lat, lon, other_lat, other_lon):
    """From the first places to the others: (east, north) in km, [..., 2].

    With theta the bearing of the great circle at the first place, clockwise from north, and d its
    length, (d sin theta, d cos theta). Zero where the two are one place.

    Args:
      lat, lon: where from, degrees, [...].
      other_lat, other_lon: where to, degrees, [...].

    References: Snyder, 1987, chapter 25 (azimuthal equidistant, oblique aspect).
    """
    distance = great_circle_km(lat, lon, other_lat, other_lon)
    lat, lon, other_lat, other_lon = _radians(lat, lon, other_lat, other_lon)
    east = np.cos(other_lat) * np.sin(other_lon - lon)
    # cos lat sin lat' - sin lat cos lat' cos dlon, without the cancellation for near places.
    half = np.sin((other_lon - lon) / 2) ** 2
    north = np.sin(other_lat - lat) + 2 * np.sin(lat) * np.cos(other_lat) * half
    length = np.hypot(east, north)
    scale = distance / np.where(length > 0, length, 1.0)
    return np.stack([east * scale, north * scale], axis=-1)


def destination(lat, lon, displacement):
    """Where a displacement leads: (lat, lon) in degrees, [...], longitudes in [-180, 180).

    The inverse of `displacement_km`. With d its length over R and theta its bearing,

        sin lat' = sin lat cos d + cos lat sin d cos theta,
        dlon = atan2(sin theta sin d cos lat, cos d - sin lat sin lat').

    Args:
      lat, lon: where from, degrees, [...].
      displacement: (east, north) in km, [..., 2].
    """
    lat, lon = _radians(lat, lon)
    displacement = np.asarray(displacement, float)
    angle = np.hypot(displacement[..., 0], displacement[..., 1]) / EARTH_RADIUS_KM
    bearing = np.arctan2(displacement[..., 0], displacement[..., 1])
    # As a vector along the starting place's up, north and east: sharp at any angle.
    up, north, east = (
        np.cos(angle),
        np.sin(angle) * np.cos(bearing),
        np.sin(angle) * np.sin(bearing),
    )
    axis = up * np.sin(lat) + north * np.cos(lat)
    out = up * np.cos(lat) - north * np.sin(lat)
    reached = np.arctan2(axis, np.hypot(out, east))
    return np.degrees(reached), wrap_longitude(np.degrees(lon + np.arctan2(east, out)))


def _radians(*angles):
    return tuple(np.radians(np.asarray(angle, float)) for angle in angles)
