"""Track forecasts: judged on the sphere, rolled out step by step, learned from the labels alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import typhoon_track as study
from seqlab.cli import main
from seqlab.data.storms import simulated_storms
from seqlab.data.track_cases import track_cases
from seqlab.data.tracks import Storm
from seqlab.forecasts import Prediction
from seqlab.geodesy import destination, displacement_km
from seqlab.runlog import RunLog, read_run

TINY = study.Config(cell="rnn", hidden_size=4, num_nets=1, window=8)
TRACK = "time,lat,lon,wind_kt,id\n" + "".join(
    f"2020-09-{1 + t // 4:02d}T{6 * (t % 4):02d}:00,{-15 - 0.5 * t},{177 + 0.7 * t},60,A\n"
    for t in range(8)
)


def untrained(config, storms):
    """Nets as they are drawn, with the scales of some storms."""
    cases = track_cases(storms)
    inputs, targets = study.fit_scales(cases)
    keys = jax.random.split(jax.random.key(3), config.num_nets)
    params = jax.vmap(study.make_model(config).init)(keys)
    return study.Trained(jax.device_get(params), inputs, targets), cases


@pytest.fixture(scope="module")
def storms():
    return simulated_storms(np.random.default_rng(0), range(2000, 2002), 6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quick run that also forecasts a track of the southern hemisphere over the date line."""
    folder = tmp_path_factory.mktemp("typhoon")
    (folder / "track.csv").write_text(TRACK)
    flags = ("--quick", "--cell", "rnn", "--window", "8", "--num-epochs", "2", "--num-nets", "1",
             "--predict", str(folder / "track.csv"))  # fmt: skip
    return read_run(main(study.Config, study.run, argv=[*flags, "--out", str(folder / "run")]))


def test_the_summary_has_the_promised_keys(finished):
    for hours in study.LEADS_HOURS:
        for prefix in ("", "persistence_", "cliper_"):
            assert finished.summary[f"{prefix}track_error_{hours}h_km"] > 0
    summary = finished.summary
    assert summary["skill_24h_low"] < summary["skill_24h"] < summary["skill_24h_high"]
    ratio = summary["track_error_24h_km"] / summary["persistence_track_error_24h_km"]
    assert summary["skill_24h"] == pytest.approx(1 - ratio)
    ratio = summary["track_error_24h_km"] / summary["cliper_track_error_24h_km"]
    assert summary["skill_over_cliper_24h"] == pytest.approx(1 - ratio)
    assert 0 <= summary["coverage_90"] <= 1
    assert summary["cliper_track_error_72h_km"] < summary["persistence_track_error_72h_km"]


def test_parts_are_whole_seasons_and_share_no_storm(finished):
    parts = {row["split"]: row for row in finished.metrics if row.get("result") == "part"}
    years = {name: (row["first_year"], row["last_year"]) for name, row in parts.items()}
    assert years == {"train": (2005, 2010), "valid": (2011, 2014), "test": (2015, 2019)}


def test_a_track_of_ones_own_is_forecast_again_by_the_saved_nets(finished, tmp_path):
    path = finished.config["predict"]
    flags = ["--predict", path, "--predict-from", str(finished.path), "--out", str(tmp_path / "r")]
    again = read_run(main(study.Config, study.run, study.plot, argv=flags))
    (track,) = [row for row in again.metrics if row.get("result") == "track"]
    (found,) = [row for row in again.metrics if row.get("result") == "path"]
    first = [row for row in finished.metrics if row.get("result") == "path"][-1]
    assert found == first
    assert found["start"] == "2020-09-02T18:00"
    assert (track["lon"][0], round(track["lon"][-1], 6)) == (177, -178.1)
    assert len(found["lat"]) == 12
    assert min(found["radius_km"]) > 0
    assert (again.path / "figures" / "map.png").stat().st_size > 10_000


def test_a_track_of_one_point_is_a_message(finished, tmp_path, capsys):
    path = tmp_path / "short.csv"
    path.write_text("".join(TRACK.splitlines(keepends=True)[:2]))
    flags = ["--predict", str(path), "--predict-from", str(finished.path)]
    with pytest.raises(SystemExit) as stop:
        main(study.Config, study.run, argv=[*flags, "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert f"{path}, storm A: no storm has two points 6 hours apart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--train-until", "1900"), "no group of the years up to 1900"),
        (("--tracks", "nowhere.txt"), "nowhere.txt does not exist"),
        (("--window", "1"), "window must be 2 or more"),
        (("--predict-from", "runs/x"), "predict_from is read with --predict FILE"),
        (("--learning-rate", "0"), "learning_rate must be above 0"),
        (("--cell", "grru"), "did you mean 'gru'"),
    ],
)
def test_a_users_mistake_is_one_message(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(study.Config, study.run, argv=["--quick", *flags, "--out", str(tmp_path / "run")])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_errors_are_distances_on_the_sphere(storms):
    cases = track_cases(storms)
    assert np.nanmax(study.track_errors(cases, cases.targets)) < 1e-6
    beside = study.track_errors(cases, np.zeros_like(cases.targets))
    lengths = np.hypot(cases.targets[..., 0], cases.targets[..., 1])
    np.testing.assert_allclose(beside[cases.is_case], lengths[cases.is_case], atol=1e-6)
    assert np.isnan(beside[~cases.is_case]).all()


@pytest.mark.parametrize("head", ["point", "gaussian", "quantile"])
def test_windows_as_long_as_the_past_say_what_whole_tracks_say(storms, head):
    whole = replace(TINY, head=head, num_nets=2)
    one = replace(whole, shape="many-to-one", window=20)
    trained, cases = untrained(whole, [storm.rows(slice(0, 20)) for storm in storms[:3]])
    first, second = study.forecast(whole, trained, cases), study.forecast(one, trained, cases)
    real = cases.is_real
    np.testing.assert_allclose(first.mean[real], second.mean[real], rtol=1e-4, atol=0.05)
    if head != "point":
        low, high = (np.array(each.interval())[:, real] for each in (first, second))
        np.testing.assert_allclose(low, high, rtol=1e-4, atol=0.05)


def test_a_second_step_is_the_first_step_from_where_the_first_led(storms):
    config = replace(TINY, strategy="recursive", head="point", shape="many-to-one")
    storm = storms[0].rows(slice(0, 12))
    trained, cases = untrained(config, [storm])
    two = study.forecast(config, trained, cases).mean[0, 11, :2]
    lat, lon = destination(storm.lat[-1], storm.lon[-1], two[0])
    longer = Storm(
        "b", "", 2000, np.append(storm.times, storm.times[-1] + np.timedelta64(360, "m")),
        np.append(storm.lat, lat), np.append(storm.lon, lon),
        np.append(storm.wind_kt, storm.wind_kt[-1]),
        np.append(storm.pressure_hpa, storm.pressure_hpa[-1]),
    )  # fmt: skip
    onward = study.forecast(config, trained, track_cases([longer])).mean[0, 12, 0]
    there = destination(lat, lon, onward)
    expected = displacement_km(storm.lat[-1], storm.lon[-1], *there)
    np.testing.assert_allclose(two[1], expected, rtol=1e-5, atol=1e-3)


def test_paths_that_are_drawn_spread_with_the_lead(storms):
    config = replace(TINY, strategy="recursive", num_samples=6)
    trained, cases = untrained(config, [storm.rows(slice(0, 6)) for storm in storms[:4]])
    found = study.forecast(config, trained, cases)
    assert found.std is not None
    spread = found.std[cases.is_real].mean(axis=(0, 2))
    assert spread[-1] > 2 * spread[0]


def test_the_disk_holds_ninety_per_cent_of_a_round_gaussian():
    rng = np.random.default_rng(0)
    radius = study.radius_km(Prediction(np.zeros((1, 2)), np.full((1, 2), 30.0)))
    inside = np.hypot(*rng.normal(0, 30.0, (2, 20_000))) < radius[0]
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert study.radius_km(Prediction(np.zeros((1, 2)))) is None


def test_the_skill_comes_from_the_labels(tmp_path):
    """Learned in seconds; dealt out at random over the steps, the same labels teach none."""
    config = study.Config(cell="rnn", hidden_size=12, num_nets=1, num_epochs=8, learning_rate=0.02)
    parts = study.load_parts(config)
    errors = {}
    for is_shuffled in (False, True):
        own = replace(config, shuffle_labels=is_shuffled)
        with RunLog(own, experiment="test", out=tmp_path / str(is_shuffled)) as log:
            trained = study.train(own, parts, log)
        found = study.track_errors(parts["test"], study.forecast(own, trained, parts["test"]).mean)
        errors[is_shuffled] = np.nanmean(found[..., 3])
    motion = study.persistence(parts["test"].features[..., 3:5], 12)
    still = np.nanmean(study.track_errors(parts["test"], motion)[..., 3])
    assert errors[False] < 0.95 * still < 1.5 * still < errors[True]
