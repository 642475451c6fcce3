"""Best tracks of tropical cyclones: one `Storm` record, and strict readers of archives' texts.

`read_storms(path)` knows the format by the first line and yields storm after storm, as a stream
(but for `hurdat2-table`). Files may be gzipped.

* jma: RSMC Tokyo, western North Pacific, in fixed columns or with commas. Years have 2 digits: 51
  and up is 19xx. Leading zeros that a spreadsheet took off are put back. Wind is blank or 0
  where it is not known.
* hurdat2: NHC, Atlantic and eastern North Pacific. Unknown wind and pressure are -99 and -999.
* hurdat2-table: the same with a header line, sorted by time. Longitudes beyond -180 are wrapped,
  and rows without a position left out.
* ibtracs: IBTrACS v04 as CSV, all basins. Left out are the line of units below the header, the
  rows of spur tracks, and rows whose position is IBTrACS's own interpolation (an IFLAG with a P and
  no O, I or V), since these know of the point behind them. Wind and pressure are WMO's.
* table: anybody's, with columns time,lat,lon and, if there are any, wind_kt,pressure_hpa,id; times
  such as 2019-08-30T06:00, UTC.

Best tracks are drawn after a storm is over, from all that is known of it. Their points are smoother
than what a forecaster sees in time, and errors against them smaller than an agency's.

Wind is the agency's own maximum sustained wind, over 10 minutes (JMA) or 1 minute (NHC): figures of
two archives are not one scale. A line that does not fit is an `InputError` with its number; nothing
is repaired in silence beyond what the table says.

References: RSMC Tokyo, format of best track files; Landsea and Franklin, 2013 (HURDAT2); Knapp et
al., 2010 (IBTrACS).
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np

from seqlab.data.checks import check_known
from seqlab.data.rdata import read_tables
from seqlab.errors import InputError
from seqlab.files import name_of, numbered_lines
from seqlab.geodesy import wrap_longitude

PRESSURES_HPA = (800.0, 1100.0)  # what a centre can have
WINDS_KT = (0.0, 250.0)
GRADES = frozenset("123456789")  # of JMA: 2 depression ... 5 typhoon, 6 extratropical
_TABLE_COLUMNS = ("time", "lat", "lon", "wind_kt", "pressure_hpa", "id")
_HURDAT2_TABLE = ("Key", "Name", "DateTime", "Record", "Status", "Lat", "Lon", "Wind", "Pressure")
_IBTRACS = ("SID", "SEASON", "NAME", "ISO_TIME", "LAT", "LON", "WMO_WIND", "WMO_PRES")


@dataclass(frozen=True, eq=False)
class Storm:
    """One storm's best track, in order of time.

    Attributes:
      id: of the archive, unique in it.
      name: or "".
      year: of the season that the archive counts it to.
      times: UTC, datetime64[m] [T], increasing.
      lat: degrees north, float64 [T].
      lon: degrees east in [-180, 180), float64 [T].
      wind_kt: maximum sustained wind in knots, float64 [T]; NaN where not known.
      pressure_hpa: central pressure, float64 [T]; NaN where not known.
    """

    id: str
    name: str
    year: int
    times: np.ndarray
    lat: np.ndarray
    lon: np.ndarray
    wind_kt: np.ndarray
    pressure_hpa: np.ndarray

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, rows: np.ndarray | slice) -> "Storm":
        """The storm with only some of its points."""
        arrays = (self.times, self.lat, self.lon, self.wind_kt, self.pressure_hpa)
        return Storm(self.id, self.name, self.year, *(array[rows] for array in arrays))


def every_hours(storm: Storm, hours: int = 6) -> list[Storm]:
    """The storm at whole multiples of `hours` UTC, as unbroken pieces of the same id.

    Points between the marks (3-hourly rows near land, landfalls) are left out, and a mark without a
    point of its own ends a piece: nothing is interpolated, since a point between two others would
    tell of the second before it was known.

    Args:
      storm: with points at any minute.
      hours: from one mark to the next.

    Returns:
      list: pieces in order, each with points exactly `hours` apart; perhaps of a single point.
    """
    minutes = storm.times.astype(np.int64)
    is_mark = minutes % (60 * hours) == 0
    kept = storm.rows(is_mark)
    breaks = np.flatnonzero(np.diff(minutes[is_mark]) != 60 * hours) + 1
    borders = [0, *breaks.tolist(), len(kept)]
    return [kept.rows(slice(start, stop)) for start, stop in pairwise(borders) if stop > start]


def read_storms(path: Path | str, file_format: str | None = None) -> Iterator[Storm]:
    """Storm after storm of a file; the module says which formats there are.

    Args:
      path: of the file, perhaps gzipped; "-" is standard input.
      file_format: a name of `FORMATS`; by the first line if None.

    Raises:
      InputError: naming file, line and field, for whatever does not fit; a file without a storm.
    """
    lines = _Lines(Path(path))
    if file_format is None:
        file_format = _format_of(lines)
    else:
        check_known(file_format, FORMATS, "format")
    storm = None
    for storm in FORMATS[file_format](lines):
        yield storm
    if storm is None:
        raise InputError(f"{lines.name} holds no storm")


def hurdat2_of_r(path: Path) -> Iterator[Storm]:
    """Storms of the Atlantic from the table `AL` of R's package HURDAT.

    Its first storm's key and name are missing: they are those of AL011851. Rows without a position
    are left out.

    Raises:
      InputError: a file that is not that table.
    """
    columns = read_tables(path).get("AL", {})
    if missing := set(_HURDAT2_TABLE) - set(columns):
        raise InputError(f"{path}: the table AL lacks {', '.join(sorted(missing))}")
    keys = np.where(columns["Key"] == "", "AL011851", columns["Key"])
    times = columns["DateTime"].astype("datetime64[s]").astype("datetime64[m]")
    has_place = ~np.isnan(columns["Lat"]) & ~np.isnan(columns["Lon"])
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(has_place).tolist():
        rows_of.setdefault(str(keys[row]), []).append(row)
    for key, rows in rows_of.items():
        lat, lon, wind, pressure = (columns[n][rows] for n in ("Lat", "Lon", "Wind", "Pressure"))
        name = str(columns["Name"][rows[0]]) or "UNNAMED"
        yield Storm(key, name, int(key[4:]), times[rows], lat, wrap_longitude(lon), wind, pressure)


class _Lines:
    """Lines of a text one after the other, which can be put back once, and how to complain."""

    def __init__(self, path: Path):
        self.name, self.number = name_of(path), 0
        self._lines = numbered_lines(path)
        self._back: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[str]:
        while True:
            line = self.take()
            if line is None:
                return
            yield line

    def take(self) -> str | None:
        """The next line without its end, blank lines passed over; None at the end of the file."""
        while True:
            if self._back:
                self.number, line = self._back.pop()
            else:
                number_and_line = next(self._lines, None)
                if number_and_line is None:
                    return None
                self.number, content = number_and_line
                try:
                    line = content.decode("utf-8-sig" if self.number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    self.fail(f"not UTF-8 ({error.reason})")
            line = line.rstrip("\r\n")
            if line.strip():
                return line

    def put_back(self, line: str) -> None:
        self._back.append((self.number, line))

    def fail(self, what: str) -> NoReturn:
        raise InputError(f"{self.name}, line {self.number}: {what}")

    def whole(self, text: str, field: str) -> int:
        text = text.strip()
        if not (text.isascii() and text.lstrip("-").isdigit()):
            self.fail(f"{field} is {text!r}, expected a whole number")
        return int(text)

    def real(self, text: str, field: str, low: float, high: float) -> float:
        try:
            value = float(text)
        except ValueError:
            self.fail(f"{field} is {text.strip()!r}, expected a number")
        if not low <= value <= high:
            self.fail(f"{field} is {value:g}, expected {low:g} to {high:g}")
        return value

    def known(self, text: str, field: str, limits: tuple[float, float], missing=("",)) -> float:
        """A number, or NaN for what stands for one that is not known."""
        return np.nan if text.strip() in missing else self.real(text, field, *limits)

    def wind(self, text: str, missing=("",)) -> float:
        return self.known(text, "wind (kt)", WINDS_KT, missing)

    def pressure(self, text: str, missing=("",)) -> float:
        return self.known(text, "pressure (hPa)", PRESSURES_HPA, missing)

    def time(self, text: str, pattern: str) -> np.datetime64:
        try:
            return np.datetime64(datetime.strptime(text, pattern), "m")
        except ValueError:
            self.fail(f"time is {text!r}, expected a date and hour as {pattern}")


class _Points:
    """Points of one storm as they are read."""

    def __init__(self, lines: _Lines, id: str, name: str, year: int):
        self.lines, self.id, self.name, self.year = lines, id, name, year
        self.points: list[tuple] = []

    def add(self, time: np.datetime64, lat: float, lon: float, wind: float, pressure: float):
        if self.points and time <= self.points[-1][0]:
            self.lines.fail(
                f"storm {self.id}: time {time} is not after {self.points[-1][0]} of the row before"
            )
        self.points.append((time, lat, lon, wind, pressure))

    def storm(self) -> Storm:
        times, *columns = zip(*self.points, strict=True)
        lat, lon, wind, pressure = np.array(columns, float)
        times = np.array(times, "datetime64[m]")
        return Storm(self.id, self.name, self.year, times, lat, wrap_longitude(lon), wind, pressure)


def _format_of(lines: _Lines) -> str:
    first = lines.take()
    if first is None:
        raise InputError(f"{lines.name} is empty")
    lines.put_back(first)
    words = [word.strip() for word in first.split(",")]
    if first.startswith("66666") or words[:3] == ["A", "B", "C"]:
        return "jma"
    if words[: len(_HURDAT2_TABLE)] == list(_HURDAT2_TABLE):
        return "hurdat2-table"
    if set(_IBTRACS) <= set(words):
        return "ibtracs"
    if set(_TABLE_COLUMNS[:3]) <= set(words):
        return "table"
    if len(words) == 4 and len(words[0]) == 8 and words[2].isdigit():
        return "hurdat2"
    lines.fail(
        "no known format: expected a JMA header (66666 ...), a HURDAT2 header (AL011851, ...), the "
        f"columns of IBTrACS ({', '.join(_IBTRACS)} ...) or {','.join(_TABLE_COLUMNS[:3])}"
    )


def _jma(lines: _Lines) -> Iterator[Storm]:
    """RSMC Tokyo: a header row with the number of rows that follow."""
    is_first = True
    for line in lines:
        fields = [field.strip() for field in line.split(",")] if "," in line else line.split()
        if is_first and fields[:3] == ["A", "B", "C"]:  # letters that a spreadsheet left
            is_first = False
            continue
        is_first = False
        if fields[0] != "66666":
            lines.fail(f"expected a storm's header, which begins with 66666, got {line[:30]!r}")
        if len(fields) < 7:
            lines.fail(f"the header has {len(fields)} fields, expected 7 or more")
        number = fields[1].zfill(4)
        year = _century(lines.whole(number, "international number") // 100)
        count = lines.whole(fields[2], "number of rows")
        if count < 1:
            lines.fail(f"number of rows is {count}, expected 1 or more")
        name = fields[7] if "," in line else line[30:50].strip()
        points = _Points(lines, f"{year}{number[2:]}", "" if name.isdigit() else name, year)
        for row in range(count):
            line = lines.take()
            if line is None or line.startswith("66666"):
                lines.fail(f"storm {points.id}: {row} rows, its header counts {count}")
            _jma_row(lines, line, points)
        yield points.storm()


def _jma_row(lines: _Lines, line: str, points: _Points) -> None:
    if "," in line:
        fields = [field.strip() for field in line.split(",")]
        wind = fields[6] if len(fields) > 6 else ""
    else:
        fields, wind = line.split(), line[33:36].strip()
    if len(fields) < 6:
        lines.fail(f"{len(fields)} fields, expected 6 or more")
    time, indicator, grade, lat, lon, pressure = fields[:6]
    if indicator.lstrip("0") != "2":
        lines.fail(f"indicator is {indicator!r}, expected 002 of a track's row")
    if grade not in GRADES:
        lines.fail(f"grade is {grade!r}, expected 1 to 9")
    time = time.zfill(8)
    if len(time) > 8 or not time.isdigit():
        lines.fail(f"time is {time!r}, expected yymmddhh")
    if abs(_century(int(time[:2])) - points.year) > 1:  # some begin in the last days of December
        lines.fail(f"time is {time!r}, of another year than storm {points.id}")
    points.add(
        lines.time(f"{_century(int(time[:2]))}{time[2:]}", "%Y%m%d%H"),
        lines.real(f"{lines.whole(lat, 'latitude') / 10}", "latitude", -90, 90),
        lines.real(f"{lines.whole(lon, 'longitude') / 10}", "longitude", -180, 360),
        lines.wind(wind, ("", "0", "000")),
        lines.pressure(pressure, ("", "0", "0000")),
    )


def _century(year: int) -> int:
    """A 2-digit year of JMA's, whose tracks begin in 1951."""
    return year + (1900 if year >= 51 else 2000)


def _hurdat2(lines: _Lines) -> Iterator[Storm]:
    """NHC: a header row with the number of rows that follow."""
    for line in lines:
        fields = [field.strip() for field in line.split(",")]
        id = fields[0]
        if len(id) != 8 or not id[:2].isalpha() or not id[2:].isdigit() or len(fields) < 3:
            lines.fail(f"expected a storm's header such as AL011851, got {line[:30]!r}")
        count = lines.whole(fields[2], "number of rows")
        if count < 1:
            lines.fail(f"number of rows is {count}, expected 1 or more")
        points = _Points(lines, id, fields[1], int(id[4:]))
        for row in range(count):
            line = lines.take()
            if line is None or line[:2].isalpha():
                lines.fail(f"storm {id}: {row} rows, its header counts {count}")
            fields = [field.strip() for field in line.split(",")]
            if len(fields) < 8:
                lines.fail(f"{len(fields)} fields, expected 8 or more")
            points.add(
                lines.time(fields[0] + fields[1].zfill(4), "%Y%m%d%H%M"),
                _degrees(lines, fields[4], "latitude", "NS", 90),
                _degrees(lines, fields[5], "longitude", "EW", 360),
                lines.wind(fields[6], ("", "-99", "-999")),
                lines.pressure(fields[7], ("", "-99", "-999")),
            )
        yield points.storm()


def _degrees(lines: _Lines, text: str, field: str, letters: str, limit: float) -> float:
    if text[-1:] not in letters or not text:
        lines.fail(f"{field} is {text!r}, expected a number and {letters[0]} or {letters[1]}")
    value = lines.real(text[:-1], field, -limit, limit)
    return value if text[-1] == letters[0] else -value


def _hurdat2_table(lines: _Lines) -> Iterator[Storm]:
    def point(points, row):
        if not row["Lat"] or not row["Lon"]:
            return  # a row that has no position tells of a storm's status only
        points.add(
            lines.time(row["DateTime"], "%Y-%m-%dT%H:%MZ"),
            lines.real(row["Lat"], "Lat", -90, 90),
            lines.real(row["Lon"], "Lon", -360, 360),
            lines.wind(row["Wind"]),
            lines.pressure(row["Pressure"]),
        )

    def year(row):
        return lines.whole(row["Key"][4:], "year in Key")

    # By time, not by storm: storms that lived at once are mixed.
    return _grouped(lines, _HURDAT2_TABLE, "Key", "Name", year, point, is_mixed=True)


def _ibtracs(lines: _Lines) -> Iterator[Storm]:
    def point(points, row):
        is_spur = "spur" in row.get("TRACK_TYPE", "").lower()
        sources = set(row.get("IFLAG", ""))  # of the position, a letter an agency
        if is_spur or ("P" in sources and not sources & set("OIV")):
            return
        points.add(
            lines.time(row["ISO_TIME"], "%Y-%m-%d %H:%M:%S"),
            lines.real(row["LAT"], "LAT", -90, 90),
            lines.real(row["LON"], "LON", -360, 360),
            lines.wind(row["WMO_WIND"]),
            lines.pressure(row["WMO_PRES"], ("", "0")),
        )

    def year(row):
        return lines.whole(row["SEASON"], "SEASON")

    return _grouped(lines, _IBTRACS, "SID", "NAME", year, point, has_units=True)


def _table(lines: _Lines) -> Iterator[Storm]:
    def point(points, row):
        time = row["time"].removesuffix("Z").replace(" ", "T")
        points.add(
            lines.time(time[:16], "%Y-%m-%dT%H:%M"),
            lines.real(row["lat"], "lat", -90, 90),
            lines.real(row["lon"], "lon", -360, 360),
            lines.wind(row.get("wind_kt", "")),
            lines.pressure(row.get("pressure_hpa", "")),
        )

    def year(row):
        return lines.whole(row["time"][:4], "year in time")

    return _grouped(lines, _TABLE_COLUMNS[:3], "id", "id", year, point)


def _grouped(
    lines: _Lines,
    needed: Sequence[str],
    id: str,
    name: str,
    year: Callable[[dict[str, str]], int],
    point: Callable[[_Points, dict[str, str]], None],
    *,
    has_units: bool = False,
    is_mixed: bool = False,
) -> Iterator[Storm]:
    """Storms of a table with a header line; all rows without an id are one storm.

    A storm's rows follow each other and it is handed out when they are over, or `is_mixed`: then
    all are, in order of their first rows, at the end.
    """
    header = lines.take()
    assert header is not None
    columns = [word.strip() for word in next(csv.reader([header]))]
    for column in needed:
        if column not in columns:
            lines.fail(f"no column {column}; it has {', '.join(columns)}")
    if has_units:
        units = lines.take()
        if units is not None and not next(csv.reader([units]))[0].strip() == "":
            lines.put_back(units)
    storms: dict[str, _Points] = {}
    current = None
    for line in lines:
        values = [word.strip() for word in next(csv.reader([line]))]
        if len(values) != len(columns):
            lines.fail(f"{len(values)} fields, the header has {len(columns)}")
        row = dict(zip(columns, values, strict=True))
        own = row.get(id, "")
        if current is None or current.id != own:
            if current is not None and not is_mixed and current.points:
                yield current.storm()
                current.points = []
            if own in storms and not is_mixed:
                lines.fail(f"storm {own or '(no id)'} has rows in two places: sort by {id}")
            current = storms.get(own) or _Points(lines, own, row.get(name, ""), year(row))
            storms[own] = current
        point(current, row)
    for each in storms.values():
        if each.points:
            yield each.storm()


FORMATS: dict[str, Callable[[_Lines], Iterator[Storm]]] = {
    "jma": _jma,
    "hurdat2": _hurdat2,
    "hurdat2-table": _hurdat2_table,
    "ibtracs": _ibtracs,
    "table": _table,
}
