"""Tracks and engines as prepared data sets: whole, in double precision, split by year or file."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from seqlab.data import builders, engines, forecasting, sources, tracks
from seqlab.data.sources import SOURCES, File
from tests.test_data_engines import TRAIN
from tests.test_data_tracks import HURDAT2_TABLE, JMA_CSV

ROOT = Path(__file__).parents[1]
REAL_MIRROR = Path(os.environ.get("SEQLAB_DATA_MIRROR") or ROOT.parent / "shared" / "data")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch, no_network):
    """Own cache and mirror, and sources that are put back."""
    monkeypatch.setenv("SEQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr(sources, "SOURCES", dict(SOURCES))


def put(tmp_path, name, **texts):
    """Files of a set in the mirror, as its only ones."""
    files = []
    for stem, text in texts.items():
        path = tmp_path / "mirror" / name / stem.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(File(path.name, "", len(content), sha256))
    sources.SOURCES[name] = tuple(files)


def test_tracks_come_back_as_they_were_read(tmp_path):
    """To the last bit: 8.8 degrees are not 8.800000190734863."""
    one = JMA_CSV.split("66666,5101")[0].removeprefix("A,B,C,D,E,F,G,H,I,J,K,\r\n")
    later = [
        one.replace("66666,305,", f"66666,{year}05,").replace("30101", f"{year}0101")
        for year in (12, 15)
    ]
    put(tmp_path, "jma_best_track", bst_all__csv=JMA_CSV + "".join(later))
    found = forecasting.load_storms("jma")
    path = tmp_path / "mirror" / "jma_best_track" / "bst_all.csv"
    read = list(tracks.read_storms(path))
    assert [storm.id for storm in found] == ["200305", "195101", "201205", "201505"]
    for one, other in zip(found, read, strict=True):
        assert (one.name, one.year) == (other.name, other.year)
        for field in ("times", "lat", "lon", "wind_kt", "pressure_hpa"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert len(builders.load("jma_best_track", "test")) == 1
    assert len(builders.load("jma_best_track", "train")) == 2


def test_engines_come_back_as_they_were_read(tmp_path):
    put(tmp_path, "cmapss", train_FD001__txt=TRAIN, test_FD001__txt=TRAIN, RUL_FD001__txt="9\n7\n")
    train, test = forecasting.load_engines("fd001")
    assert [engine.cycles_left for engine in (*train, *test)] == [0, 0, 9, 7]
    (one, _), path = train, tmp_path / "mirror" / "cmapss" / "train_FD001.txt"
    read, _ = engines.read_engines(path)
    np.testing.assert_array_equal(one.settings, read.settings)
    np.testing.assert_array_equal(one.sensors, read.sensors)
    assert one.sensors.dtype == np.float64


def test_the_address_of_hurdat2_and_its_stand_in_are_read_by_their_names(tmp_path, monkeypatch):
    stand_in = tmp_path / "table.csv"
    stand_in.write_text(HURDAT2_TABLE)
    builder = builders.BUILDERS["hurdat2_atlantic"]
    storms = list(builder.storms(None, {"AL.rda": stand_in}))
    assert [storm.id for storm in storms] == ["AL011851", "AL021851"]
    called = []
    monkeypatch.setattr(tracks, "hurdat2_of_r", called.append)
    builder.storms(None, {"AL.rda": tmp_path / "AL.rda"})
    assert called == [tmp_path / "AL.rda"]


def real(name, monkeypatch):
    if not (REAL_MIRROR / name).is_dir():
        pytest.skip(f"no {name}: set SEQLAB_DATA_MIRROR to a folder that holds it")
    monkeypatch.setenv("SEQLAB_DATA_MIRROR", str(REAL_MIRROR))
    return sources.fetch(name)


def test_real_typhoons_are_all_read(monkeypatch):
    path = real("jma_best_track", monkeypatch)["bst_all.csv"]
    storms = list(tracks.read_storms(path))
    assert (len(storms), sum(map(len, storms))) == (1788, 65_383)
    assert len({storm.id for storm in storms}) == 1788
    crossing = [storm for storm in storms if np.ptp(storm.lon) > 180]
    assert crossing  # the date line is crossed
    assert all(np.isnan(storm.wind_kt).all() for storm in storms if storm.year < 1977)


def test_real_engines_are_all_read(monkeypatch):
    files = real("cmapss", monkeypatch)
    train = list(engines.read_engines(files["train_FD001.txt"]))
    test = list(engines.read_engines(files["test_FD001.txt"], files["RUL_FD001.txt"]))
    assert (len(train), sum(map(len, train))) == (100, 20_631)
    assert (len(test), sum(map(len, test))) == (100, 13_096)
    lives = [engine.cycles_left for engine in test]
    assert (min(lives), max(lives)) == (7, 145)
