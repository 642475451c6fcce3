"""Track forecasts: judged on the sphere, rolled out step by step, learned from the labels alone."""

import io
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import typhoon_track as study
from seqlab.cli import main
from seqlab.data.storms import simulated_storms
from seqlab.data.track_cases import track_cases
from seqlab.data.tracks import Storm, read_storms
from seqlab.forecast_baselines import persistence, track_baselines
from seqlab.forecasts import Prediction
from seqlab.geodesy import destination, displacement_km
from seqlab.runlog import RunLog, read_run
from tests.tiny_training import goes_on_alike, stopped_after

TINY = study.Config(cell="rnn", hidden_size=4, num_nets=1, window=8)
# The rate is so large that the first epoch stays the best of one net, and the last of the other.
SMALL = ("--quick", "--cell", "rnn", "--window", "8", "--hidden-size", "6", "--first-year", "2008",
         "--num-epochs", "3", "--learning-rate", "0.5", "--log-every", "1",
         "--save-every", "2")  # fmt: skip
TRACK = "time,lat,lon,wind_kt,id\n" + "".join(
    f"2020-09-{1 + t // 4:02d}T{6 * (t % 4):02d}:00,{-15 - 0.5 * t},{177 + 0.7 * t},60,A\n"
    for t in range(8)
)


def untrained(config, storms):
    """Nets as they are drawn, with the scales of some storms."""
    cases = track_cases(storms)
    keys = jax.random.split(jax.random.key(3), config.num_nets)
    params = jax.vmap(study.make_forecaster(config).model.init)(keys)
    return study.Nets(jax.device_get(params), study.fit_scales(cases)), cases


def run(out, *flags, at=None):
    """A run; with `at`, stopped after that update as by SIGTERM."""
    path = main(study.Config, stopped_after(study.run, at), argv=[*flags, "--out", str(out)],
                predict=study.predict)  # fmt: skip
    return read_run(path)


@pytest.fixture(scope="module")
def storms():
    return simulated_storms(np.random.default_rng(0), range(2000, 2002), 6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("typhoon") / "run", *SMALL)


def ask(finished, source):
    flags = ["--from-run", str(finished.path), "--predict", str(source)]
    main(study.Config, study.run, study.plot, flags, predict=study.predict)


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
    parts = {row["part"]: row for row in finished.metrics if row.get("result") == "part"}
    years = {name: (row["first_year"], row["last_year"]) for name, row in parts.items()}
    assert years == {"train": (2008, 2010), "valid": (2011, 2014), "test": (2015, 2019)}


def test_a_stopped_run_goes_on_to_the_same_numbers(finished, tmp_path):
    goes_on_alike(run, tmp_path / "run", SMALL, 3, finished)


def test_each_net_is_kept_at_its_best_epoch(finished):
    valid = [row["crps"] for row in finished.metrics if row.get("split") == "valid"]
    best = np.argmin(valid, axis=0) + 1
    assert min(best) < max(best) == len(valid)
    assert finished.summary["best_epochs"] == best.tolist()
    config, nets = study.load(finished.path)
    parts = study.load_parts(config)
    data = study.answered(config, nets.scales, parts["valid"])
    scores = study.make_forecaster(config).scores(nets.params, data)
    np.testing.assert_allclose(scores, np.min(valid, axis=0), rtol=1e-5)
    # The scales of the run are those of its training storms, to the last bit.
    fitted = study.fit_scales(parts["train"])
    for one, other in zip(fitted, nets.scales, strict=True):
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_array_equal(one.std, other.std)


def test_a_track_of_ones_own_is_forecast(finished, tmp_path, monkeypatch, capsys):
    """Of the southern hemisphere, over the date line; the second storm has a gap."""
    later = TRACK.split("\n", 1)[1].replace(",A", ",B").replace("2020-09-01T12", "2020-09-01T13")
    (tmp_path / "track.csv").write_text(TRACK + later)
    ask(finished, tmp_path / "track.csv")
    printed = capsys.readouterr().out
    header, *lines = (line.split("\t") for line in printed.splitlines())
    assert header == ["storm", "name", "from_utc", "lead_h", "lat", "lon", "radius_90_km"]
    assert [line[0] for line in lines] == ["A"] * 12 + ["B"] * 12
    assert {line[2] for line in lines} == {"2020-09-02T18:00"}
    assert [int(line[3]) for line in lines[:12]] == list(range(6, 73, 6))
    config, nets = study.load(finished.path)
    (storm, _) = read_storms(tmp_path / "track.csv")
    cases = track_cases([storm])
    there = destination(storm.lat[-1], storm.lon[-1],
                        study.forecast(config, nets, cases).mean[0, 7])  # fmt: skip
    np.testing.assert_allclose([float(line[4]) for line in lines[:12]], there[0], atol=0.006)
    np.testing.assert_allclose([float(line[5]) for line in lines[:12]], there[1], atol=0.006)
    assert all(float(line[6]) > 0 for line in lines)
    content = (tmp_path / "track.csv").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    ask(finished, "-")
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (TRACK.splitlines()[:2], "standard input, storm A: a forecast needs two points 6 hours"),
        ([*TRACK.splitlines()[:3], "2020-09-01T12:00,x,9,60,A"], "standard input, line 4: lat is"),
        ([], "standard input is empty"),
    ],
)
def test_a_track_that_cannot_be_read_is_a_message(finished, lines, message, monkeypatch, capsys):
    content = "\n".join(lines).encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    with pytest.raises(SystemExit) as stop:
        ask(finished, "-")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.out == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--train-until", "1900"), "no group of the years up to 1900"),
        (("--tracks", "nowhere.txt"), "nowhere.txt does not exist"),
        (("--window", "1"), "window must be 2 or more"),
        (("--predict", "track.csv"), "name it with --from-run"),
        (("--learning-rate", "0"), "learning_rate must be above 0"),
        (("--cell", "grru"), "did you mean 'gru'"),
    ],
)
def test_a_users_mistake_is_one_message(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(study.Config, study.run, argv=["--quick", *flags, "--out", str(tmp_path / "run")],
             predict=study.predict)  # fmt: skip
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_errors_are_distances_on_the_sphere(storms):
    cases = track_cases(storms)
    assert np.nanmax(cases.errors_km(cases.targets)) < 1e-6
    beside = cases.errors_km(np.zeros_like(cases.targets))
    lengths = np.hypot(cases.targets[..., 0], cases.targets[..., 1])
    np.testing.assert_allclose(beside[cases.is_case], lengths[cases.is_case], atol=1e-6)
    assert np.isnan(beside[~cases.is_case]).all()


@pytest.mark.parametrize("head", ["point", "gaussian", "quantile"])
def test_windows_as_long_as_the_past_say_what_whole_tracks_say(storms, head):
    whole = replace(TINY, head=head, num_nets=2)
    one = replace(whole, shape="many-to-one", window=20)
    nets, cases = untrained(whole, [storm.rows(slice(0, 20)) for storm in storms[:3]])
    first, second = study.forecast(whole, nets, cases), study.forecast(one, nets, cases)
    real = cases.is_real
    np.testing.assert_allclose(first.mean[real], second.mean[real], rtol=1e-4, atol=0.05)
    if head != "point":
        low, high = (np.array(each.interval())[:, real] for each in (first, second))
        np.testing.assert_allclose(low, high, rtol=1e-4, atol=0.05)


def test_a_second_step_is_the_first_step_from_where_the_first_led(storms):
    config = replace(TINY, strategy="recursive", head="point", shape="many-to-one")
    storm = storms[0].rows(slice(0, 12))
    nets, cases = untrained(config, [storm])
    two = study.forecast(config, nets, cases).mean[0, 11, :2]
    lat, lon = destination(storm.lat[-1], storm.lon[-1], two[0])
    longer = Storm(
        "b", "", 2000, np.append(storm.times, storm.times[-1] + np.timedelta64(360, "m")),
        np.append(storm.lat, lat), np.append(storm.lon, lon),
        np.append(storm.wind_kt, storm.wind_kt[-1]),
        np.append(storm.pressure_hpa, storm.pressure_hpa[-1]),
    )  # fmt: skip
    onward = study.forecast(config, nets, track_cases([longer])).mean[0, 12, 0]
    there = destination(lat, lon, onward)
    expected = displacement_km(storm.lat[-1], storm.lon[-1], *there)
    np.testing.assert_allclose(two[1], expected, rtol=1e-5, atol=1e-3)


def test_paths_that_are_drawn_spread_with_the_lead(storms):
    config = replace(TINY, strategy="recursive", num_samples=6)
    nets, cases = untrained(config, [storm.rows(slice(0, 6)) for storm in storms[:4]])
    found = study.forecast(config, nets, cases)
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
            nets, _ = study.train(own, parts, log)
        found = parts["test"].errors_km(study.forecast(own, nets, parts["test"]).mean)
        errors[is_shuffled] = np.nanmean(found[..., 3])
    motion = persistence(parts["test"].features[..., 3:5], 12)
    still = np.nanmean(parts["test"].errors_km(motion)[..., 3])
    assert errors[False] < 0.95 * still < 1.5 * still < errors[True]


def test_what_is_learned_knows_nothing_of_later_storms(storms):
    """Other test storms, wherever they go: the same scales, cases and regressions to learn from."""
    far = [replace(storm, lat=-storm.lat, wind_kt=storm.wind_kt + 90) for storm in storms[6:]]
    learned = []
    for later in (storms[6:], far):
        cases = track_cases([*storms[:6], *later])
        parts = {"train": cases.of({s.id for s in storms[:4]}),
                 "valid": cases.of({s.id for s in storms[4:6]}),
                 "test": cases.of({s.id for s in later})}  # fmt: skip
        scales = study.fit_scales(parts["train"])
        assert scales.inputs.groups == set(parts["train"].ids)
        data = study.answered(TINY, scales, parts["train"])
        learned.append((data.xs, data.targets, scales.inputs.mean, scales.targets.std))
        same_test = parts | {"test": parts["valid"]}
        learned[-1] += (track_baselines(same_test)["cliper"],)
    for one, other in zip(*learned, strict=True):
        real = ~np.isnan(one)
        np.testing.assert_array_equal(
            np.asarray(one)[real].ravel(), other[~np.isnan(other)].ravel()
        )
