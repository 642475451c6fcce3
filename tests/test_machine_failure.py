"""Remaining life: judged capped and raw, alarms by hand, learned from the labels alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import machine_failure as study
from seqlab.cli import main
from seqlab.data.engine_cases import engine_cases, fit_engine_scaler
from seqlab.data.wear import simulated_engines
from seqlab.forecasts import phm08_score
from seqlab.runlog import RunLog, read_run

TINY = study.Config(cell="rnn", hidden_size=4, num_nets=2, window=30)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quick run that also tells the life of two engines of a file, one of a single cycle."""
    folder = tmp_path_factory.mktemp("machine")
    _, (engine, *_) = simulated_engines(np.random.default_rng(5), 1, 1)
    rows = np.concatenate([engine.settings, engine.sensors], axis=1)
    lines = [f"1 {cycle} " + " ".join(f"{x:.6f}" for x in row) for cycle, row in
             enumerate(rows, start=1)]  # fmt: skip
    lines.append("2 1 " + " ".join(["nan"] * 24))
    path = folder / "engines.txt"
    path.write_text("\n".join(lines) + "\n")
    flags = ("--quick", "--cell", "rnn", "--predict", str(path), "--out", str(folder / "run"))
    return read_run(main(study.Config, study.run, argv=list(flags)))


def test_the_summary_has_the_promised_keys(finished):
    summary = finished.summary
    rows = [row for row in finished.metrics if row.get("result") == "engine"]
    true, said = (np.array([row[name] for row in rows]) for name in ("true", "predicted"))
    assert len(rows) == summary["num_test_engines"] == 100
    capped = np.minimum(true, 125)
    assert summary["rul_rmse_capped"] == pytest.approx(np.sqrt(np.mean((said - capped) ** 2)))
    assert summary["rul_rmse_raw"] == pytest.approx(np.sqrt(np.mean((said - true) ** 2)))
    assert summary["rul_rmse_raw"] > summary["rul_rmse_capped"]
    assert summary["rul_score"] == pytest.approx(phm08_score(said, capped))
    assert 0 <= summary["coverage_90"] <= 1
    low, high = (summary[f"rul_rmse_capped_{edge}"] for edge in ("low", "high"))
    assert low < summary["rul_rmse_capped"] < high
    trees, mean = (summary[f"{name}_rul_rmse_capped"] for name in
                   ("gradient_boosting_window", "mean_life"))  # fmt: skip
    assert trees < 0.75 * mean


def test_engines_of_ones_own_are_told_again_by_the_saved_nets(finished, tmp_path):
    flags = ["--predict", finished.config["predict"], "--predict-from", str(finished.path)]
    again = read_run(main(study.Config, study.run, study.plot,
                          argv=[*flags, "--out", str(tmp_path / "run")]))  # fmt: skip
    first, found = ([row for row in run.metrics if row.get("result") == "predicted"]
                    for run in (finished, again))  # fmt: skip
    assert found == first
    assert [row["engine"] for row in found] == ["1", "2"]
    assert all(row["90 % from"] <= row["cycles left"] <= row["to"] for row in found)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dataset", "fd002"), "name a folder with train_FD002.txt"),
        (("--dataset", "fd001", "--folder", "nowhere"), "nowhere has no train_FD001.txt"),
        (("--folder", "nowhere"), "folder is read for fd001 to fd004"),
        (("--near-cycles", "200"), "not below the cap"),
        (("--valid-share", "1.5"), "valid_share must be below 1"),
        (("--cap", "-1"), "cap must be above 0"),
    ],
)
def test_a_users_mistake_is_one_message(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(study.Config, study.run, argv=["--quick", *flags, "--out", str(tmp_path / "run")])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_parts_share_no_engine_and_no_scale():
    parts = study.load_parts(study.Config())
    ids = [set(part.ids) for part in parts.values()]
    assert [len(each) for each in ids] == [85, 15, 100]
    assert not ids[0] & ids[1] | ids[0] & ids[2] | ids[1] & ids[2]
    assert fit_engine_scaler("train", parts["train"]).groups == ids[0]


def test_alarms_by_hand():
    train, _ = simulated_engines(np.random.default_rng(0), 3, 1)
    cases = engine_cases(train)
    config = replace(TINY, near_cycles=30, alarm_cycles=3)
    lives = np.where(cases.is_real, 100.0, np.nan)
    ends = cases.is_real.sum(axis=1)
    lives[0, [4, 5, 7, 8, 9]] = 20.0  # two in a row, then three: alarm at the tenth cycle
    lives[1, ends[1] - 10 : ends[1]] = 20.0  # alarm at the third of the last ten
    found = study.alarm_cycles(config, cases, lives, 30)
    assert found.tolist() == [10, ends[1] - 7, 0]
    shares = study.first_alarms(config, cases, lives, 30)
    assert shares["detected"] == pytest.approx(2 / 3)
    assert shares["false_alarms"] == pytest.approx(1 / 3)  # the first engine's, long before
    assert shares["lead_cycles"] == np.median([ends[0] - 10, 7])
    none = study.first_alarms(config, cases, lives, 10)
    assert none["detected"] == 0
    assert np.isnan(none["lead_cycles"])


@pytest.mark.parametrize("head", ["gaussian", "quantile"])
def test_an_engine_shorter_than_the_window_is_all_read(head):
    """Its windows say what its whole sequence says, though neither is full."""
    _, test = simulated_engines(np.random.default_rng(0), 1, 3)
    short = [replace(engine, sensors=engine.sensors[:12], settings=engine.settings[:12])
             for engine in test]  # fmt: skip
    cases = engine_cases(short)
    config = replace(TINY, head=head)
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.device_get(jax.vmap(study.make_model(config).init)(keys))
    trained = study.Trained(params, fit_engine_scaler("train", cases))
    whole = study.forecast(config, trained, cases)
    windows = study.forecast(replace(config, shape="many-to-one"), trained, cases)
    np.testing.assert_allclose(whole.mean, windows.mean, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(whole.interval(), windows.interval(), rtol=1e-4, atol=1e-3)


def test_the_skill_comes_from_the_labels(tmp_path):
    config = study.Config(cell="rnn", hidden_size=8, num_nets=1, num_epochs=16, learning_rate=0.01,
                          crop=80)  # fmt: skip
    parts = study.load_parts(config)
    test = parts["test"]
    capped = np.minimum(test.life[test.last], config.cap)
    errors = {}
    for is_shuffled in (False, True):
        own = replace(config, shuffle_labels=is_shuffled)
        with RunLog(own, experiment="test", out=tmp_path / str(is_shuffled)) as log:
            trained = study.train(own, parts, log)
        said = study.forecast(own, trained, test).mean[test.last]
        errors[is_shuffled] = np.sqrt(np.mean((said - capped) ** 2))
    # Without labels that belong to it a net can say one life for all.
    assert errors[False] < 0.7 * np.std(capped) < 0.9 * np.std(capped) < errors[True]
