"""Best tracks: every format is read strictly, and the made-up storms move as they are said to."""

import gzip
import struct

import numpy as np
import pytest

from seqlab.data import forecasting, tracks
from seqlab.data.storms import flow, simulated_storms
from seqlab.data.tracks import Storm, every_hours, read_storms
from seqlab.errors import InputError
from seqlab.geodesy import displacement_km

JMA = (
    "66666 1501  002 0001 1501 0 6             MEKKHALA              20150217        \r\n"
    "15011300 002 2 087 1429 1006     000                                            \r\n"
    "15011306 002 5 085 1904  995     035     00000 0000 80210 0150                  \r\n"
)
JMA_CSV = (
    "A,B,C,D,E,F,G,H,I,J,K,\r\n"
    "66666,305,2,6,305,0,6,NANGKA,20040217,,,\r\n"
    "3010100,2,2,88,1375,1004,0,,,,,\r\n"
    "3010106,2,5,97,1360,950,80,,,,,\r\n"
    "66666,5101,1,5101,0,6,19901017,,,,,\r\n"
    "51021906,2,2,200,1385,1010,,,,,,\r\n"
)
HURDAT2 = (
    "AL092011,              IRENE,      3,\n"
    "20110821, 0000,  , TS, 15.0N,  59.0W,  45, 1006,  105,    0\n"
    "20110821, 2137, L, TS, 15.5S, 181.0E, -99, -999,  130,    0\n"
    "20110822, 0600,  , HU, 16.0N,  62.2W,  65, 1003, -999, -999\n"
)
HURDAT2_TABLE = (
    "Key,Name,DateTime,Record,Status,Lat,Lon,Wind,Pressure\n"
    "AL011851,UNNAMED,1851-06-25T00:00Z,,HU,28.0,-94.8,80,\n"
    "AL021851,UNNAMED,1851-06-25T06:00Z,,HU,10.0,-359.5,,990\n"
    "AL011851,UNNAMED,1851-06-25T12:00Z,,HU,28.0,,80,\n"
    "AL011851,UNNAMED,1851-06-25T18:00Z,,HU,28.5,-96.0,80,\n"
)
IBTRACS = (
    "SID,SEASON,NUMBER,BASIN,SUBBASIN,NAME,ISO_TIME,NATURE,LAT,LON,WMO_WIND,WMO_PRES,WMO_AGENCY,"
    "TRACK_TYPE,DIST2LAND,LANDFALL,IFLAG,USA_AGENCY\n"
    " ,Year, , , , , , ,degrees_north,degrees_east,kts,mb, , ,km,km, , \n"
    "2015S1,2015,1,SP,MM,PAM,2015-03-09 00:00:00,TS,-8.5,179.9, ,1002,nadi,main,9,9,O_O____, \n"
    "2015S1,2015,1,SP,MM,PAM,2015-03-09 03:00:00,TS,-8.7,180.2, , , ,main,9,9,P_P____, \n"
    "2015S1,2015,1,SP,MM,PAM,2015-03-09 06:00:00,TS,-9.0,180.4,35, ,nadi,main,9,9,P_I____, \n"
    "2015S2,2015,2,SP,MM,NOT_NAMED,2015-03-10 00:00:00,TS,-8.5,170.0, , , ,spur-other,9,9,O, "
    "\n"
    "2016N1,2016,1,WP,MM,NEPARTAK,2016-07-02 18:00:00,TS,8.5,145.0, , , ,PROVISIONAL,9,9,O, \n"
    "2016N2,2016,1,WP,MM,X,2016-07-02 18:00:00,TS,8.5,145.0, , , ,PROVISIONAL_spur,9,9,O______, \n"
)
TABLE = "time,lat,lon,wind_kt\n2019-08-30T00:00,-10,359,\n2019-08-30 06:00Z,-11,-359,35\n"


def read(tmp_path, text, name="storms.txt"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return list(read_storms(path))


def fails(tmp_path, text):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    return str(error.value).removeprefix(str(tmp_path / "storms.txt"))


def test_jma_in_fixed_columns(tmp_path):
    (storm,) = read(tmp_path, JMA)
    assert (storm.id, storm.name, storm.year) == ("201501", "MEKKHALA", 2015)
    assert storm.times.astype(str).tolist() == ["2015-01-13T00:00", "2015-01-13T06:00"]
    np.testing.assert_allclose(storm.lat, [8.7, 8.5])
    np.testing.assert_allclose(storm.lon, [142.9, -169.6])  # past the date line
    np.testing.assert_array_equal(storm.wind_kt, [np.nan, 35])
    np.testing.assert_array_equal(storm.pressure_hpa, [1006, 995])


@pytest.mark.parametrize("name", ["storms.txt", "storms.csv.gz"])
def test_jma_from_a_spreadsheet_that_took_zeros_off(tmp_path, name):
    nangka, old = read(tmp_path, JMA_CSV, name)
    assert (nangka.id, nangka.name, nangka.year) == ("200305", "NANGKA", 2003)
    assert nangka.times.astype(str).tolist() == ["2003-01-01T00:00",
                                                 "2003-01-01T06:00"]  # fmt: skip
    np.testing.assert_array_equal(nangka.wind_kt, [np.nan, 80])
    assert (old.id, old.name, old.year) == ("195101", "", 1951)
    assert str(old.times[0]) == "1951-02-19T06:00"


def test_hurdat2_with_missing_values_and_a_landfall_between_the_hours(tmp_path):
    (storm,) = read(tmp_path, HURDAT2)
    assert (storm.id, storm.name, storm.year) == ("AL092011", "IRENE", 2011)
    assert str(storm.times[1]) == "2011-08-21T21:37"
    np.testing.assert_allclose(storm.lat, [15.0, -15.5, 16.0])
    np.testing.assert_allclose(storm.lon, [-59.0, -179.0, -62.2])
    np.testing.assert_array_equal(storm.wind_kt, [45, np.nan, 65])
    np.testing.assert_array_equal(storm.pressure_hpa, [1006, np.nan, 1003])


def test_hurdat2_as_a_table_of_mixed_storms(tmp_path):
    first, second = read(tmp_path, HURDAT2_TABLE)
    assert (first.id, len(first), second.id) == ("AL011851", 2, "AL021851")
    np.testing.assert_allclose(second.lon, [0.5])
    np.testing.assert_array_equal(second.pressure_hpa, [990])


def test_ibtracs_without_units_spurs_and_interpolated_positions(tmp_path):
    pam, nepartak = read(tmp_path, IBTRACS)
    assert (pam.id, pam.name, pam.year, nepartak.id) == ("2015S1", "PAM", 2015, "2016N1")
    np.testing.assert_allclose(pam.lon, [179.9, -179.6])
    moved = displacement_km(pam.lat[0], pam.lon[0], pam.lat[1], pam.lon[1])
    np.testing.assert_allclose(moved, [54.95, -55.6], atol=0.05)  # east over the date line, south
    np.testing.assert_array_equal(pam.wind_kt, [np.nan, 35])


def test_a_track_of_ones_own(tmp_path):
    (storm,) = read(tmp_path, TABLE)
    assert storm.id == ""
    np.testing.assert_allclose(storm.lon, [-1, 1])
    assert np.isnan(storm.pressure_hpa).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty"),
        ("hello\n", ", line 1: no known format"),
        (JMA.replace("087", "0x7"), ", line 2: latitude is '0x7', expected a whole number"),
        (JMA.replace("15011300", "13011300"), ", line 2: time is '13011300', of another"),
        (JMA.replace(" 087", " 987"), ", line 2: latitude is 98.7, expected -90 to 90"),
        (JMA.replace("15011300", "15013300"), ", line 2: time is '2015013300', expected a date"),
        (JMA.replace("15011306", "15011300"), ", line 3: storm 201501: time 2015-01-13T00"),
        (JMA.replace(" 002 0001", " 003 0001"), ", line 3: storm 201501: 2 rows"),
        (JMA + JMA.replace("  002 0001", "  001 0001"), ", line 6: expected a storm's header"),
        (JMA.replace("002 5", "002 x"), ", line 3: grade is 'x', expected 1 to 9"),
        (JMA.replace(" 995 ", "  95 "), ", line 3: pressure (hPa) is 95, expected 800 to 1100"),
        (JMA_CSV.replace("3010100,2,", "3010100,7,"), ", line 3: indicator is '7'"),
        (JMA_CSV.replace(",80,", ",x,"), ", line 4: wind (kt) is 'x', expected a number"),
        (HURDAT2.replace("15.0N", "15.0"), ", line 2: latitude is '15.0', expected a number"),
        (HURDAT2.replace("3,\n", "4,\n", 1), ", line 4: storm AL092011: 3 rows"),
        (HURDAT2.replace(", HU", ""), ", line 4: "),
        (HURDAT2_TABLE.replace("06-25T06:00Z", "6/25"), ", line 3: time is '1851-6/25'"),
        (HURDAT2_TABLE.replace(",,HU,28.5", ",HU,28.5"), ", line 5: 8 fields, the header has 9"),
        (IBTRACS.replace(",35, ", ",abc, "), ", line 5: wind (kt) is 'abc'"),
        (IBTRACS + IBTRACS.splitlines()[2] + "\n", ", line 9: storm 2015S1 has rows in two places"),
        (TABLE.replace("-11", "-95"), ", line 3: lat is -95, expected -90 to 90"),
        ("time,lat,lon\n", " holds no storm"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_line(tmp_path, text, message):
    assert fails(tmp_path, text).startswith(message)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(read_storms(tmp_path / "none"))


def test_reading_is_a_stream(tmp_path):
    """The first storm is there before the damage behind it is met."""
    path = tmp_path / "storms.txt"
    path.write_text(JMA + "damage\n")
    storms = read_storms(path)
    assert next(storms).id == "201501"
    with pytest.raises(InputError, match="line 4"):
        next(storms)


def test_marks_break_where_a_point_is_missing():
    hours = np.array([0, 3, 6, 12, 24, 30, 33, 41])
    times = np.datetime64("2015-01-01T00:00", "m") + hours * np.timedelta64(60, "m")
    values = np.arange(8.0)
    storm = Storm("a", "", 2015, times, values, values, values, values)
    pieces = every_hours(storm)
    assert [piece.lat.tolist() for piece in pieces] == [[0, 2, 3], [4, 5]]
    assert {piece.id for piece in pieces} == {"a"}
    assert every_hours(storm.rows(slice(1, 2))) == []
    assert [len(piece) for piece in every_hours(storm.rows(slice(0, 1)))] == [1]


def test_simulated_storms_recurve_and_repeat():
    storms = simulated_storms(np.random.default_rng(3), range(2000, 2004), 10)
    again = simulated_storms(np.random.default_rng(3), range(2000, 2004), 10)
    assert all((a.lat == b.lat).all() for a, b in zip(storms, again, strict=True))
    assert len({storm.id for storm in storms}) == 40
    assert [storm.year for storm in storms] == sorted([2000, 2001, 2002, 2003] * 10)
    assert all((np.diff(storm.times) == np.timedelta64(360, "m")).all() for storm in storms)
    east = {"tropics": [], "middle": []}
    for storm in storms:
        moves = displacement_km(storm.lat[:-1], storm.lon[:-1], storm.lat[1:], storm.lon[1:])
        east["tropics"] += moves[storm.lat[:-1] < 18, 0].tolist()
        east["middle"] += moves[storm.lat[:-1] > 38, 0].tolist()
    assert np.mean(east["tropics"]) < -60 < 60 < np.mean(east["middle"])


def test_simulated_velocity_is_the_flow_that_the_module_states():
    found = flow(np.array([27.0 + 5.0]), np.array([215.0]))  # on the ridge in early August
    np.testing.assert_allclose(found.steering[0], [7.5, 7 * np.exp(-0.09)])
    np.testing.assert_allclose(
        found.beta_drift[0], 6.3 * np.cos(np.radians(32)) * np.array([-1, 1])
    )
    # Over many storms the own shifts and the weather have no mean: what is left is the flow.
    storms = simulated_storms(np.random.default_rng(0), range(2000, 2020), 25)
    expected, moves = [], []
    for storm in storms:
        day = (storm.times - storm.times.astype("datetime64[Y]")).astype(float) / 1440
        expected.append(6 * sum(flow(storm.lat, day))[:-1])
        moves.append(displacement_km(storm.lat[:-1], storm.lon[:-1], storm.lat[1:], storm.lon[1:]))
    difference = np.concatenate(moves) - np.concatenate(expected)
    assert np.abs(difference.mean(axis=0)).max() < 5  # km in 6 h, of motions of some hundred
    south = simulated_storms(np.random.default_rng(0), range(2000, 2020), 25, is_southern=True)
    assert all((a.lat == -b.lat).all() for a, b in zip(storms, south, strict=True))


def rda(frame):
    """A data frame of texts and reals as R writes it, version 2, XDR."""

    def chars(text):
        return struct.pack(">ii", 9, len(text)) + text.encode()

    def strings(texts):
        return struct.pack(">ii", 16, len(texts)) + b"".join(map(chars, texts))

    columns = b"".join(
        strings(values)
        if isinstance(values[0], str)
        else struct.pack(f">ii{len(values)}d", 14, len(values), *values)
        for values in frame.values()
    )
    symbol = lambda name: struct.pack(">i", 1) + chars(name)  # noqa: E731
    table = struct.pack(">ii", 19 | 0x200, len(frame)) + columns
    table += struct.pack(">i", 2 | 0x400) + symbol("names") + strings(list(frame))
    table += struct.pack(">i", 254)
    body = struct.pack(">i", 2 | 0x400) + symbol("AL") + table + struct.pack(">i", 254)
    return b"RDX2\nX\n" + struct.pack(">iii", 2, 0x30503, 0x20300) + body


def test_the_table_of_r_is_read(tmp_path):
    nan = float("nan")
    frame = {
        "Key": ["", "AL021851", "AL021851"], "Name": ["", "X", "X"],
        "DateTime": [0.0, 21600.0, 43200.0], "Record": ["", "", ""], "Status": ["HU"] * 3,
        "Lat": [28.0, 10.0, 11.0], "Lon": [-94.8, -359.5, nan], "Wind": [80.0, nan, 30.0],
        "Pressure": [nan, 990.0, 980.0],
    }  # fmt: skip
    path = tmp_path / "AL.rda"
    path.write_bytes(gzip.compress(rda(frame)))
    first, second = tracks.hurdat2_of_r(path)
    assert (first.id, first.name, str(first.times[0])) == (
        "AL011851",
        "UNNAMED",
        "1970-01-01T00:00",
    )
    assert (second.id, second.name, len(second)) == ("AL021851", "X", 1)
    assert second.lon.tolist() == [0.5]
    path.write_bytes(rda(frame)[:-40])
    with pytest.raises(InputError, match=r"AL\.rda cannot be read"):
        list(tracks.hurdat2_of_r(path))
    path.write_bytes(b"no table")
    with pytest.raises(InputError, match=r"is not an \.rda file of version 2"):
        list(tracks.hurdat2_of_r(path))


def test_sets_by_name():
    assert len(forecasting.load_storms()) == 750
    with pytest.raises(InputError, match="did you mean 'jma'"):
        forecasting.load_storms("jmaa")
