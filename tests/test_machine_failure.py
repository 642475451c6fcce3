"""Remaining life: judged capped and raw, alarms by hand, learned from the labels alone."""

import io
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import machine_failure as study
from seqlab.alarms import alarm_cycles, judge_alarms
from seqlab.cli import main
from seqlab.data.engine_cases import engine_cases, fit_engine_scaler
from seqlab.data.engines import read_engines
from seqlab.data.wear import simulated_engines
from seqlab.forecasts import phm08_score
from seqlab.runlog import RunLog, read_run
from tests.tiny_training import goes_on_alike, stopped_after

TINY = study.Config(cell="rnn", hidden_size=4, num_nets=2, window=30)
SMALL = ("--quick", "--cell", "rnn", "--hidden-size", "6", "--crop", "30", "--log-every", "1",
         "--save-every", "5", "--num-trees", "10")  # fmt: skip


def run(out, *flags, at=None):
    """A run; with `at`, stopped after that update as by SIGTERM."""
    path = main(study.Config, stopped_after(study.run, at), argv=[*flags, "--out", str(out)],
                predict=study.predict)  # fmt: skip
    return read_run(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("machine") / "run", *SMALL)


def ask(finished, source):
    flags = ["--from-run", str(finished.path), "--predict", str(source)]
    main(study.Config, study.run, study.plot, flags, predict=study.predict)


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


def test_a_stopped_run_goes_on_to_the_same_numbers(finished, tmp_path):
    goes_on_alike(run, tmp_path / "run", SMALL, 7, finished)


def test_engines_of_ones_own_are_told(finished, tmp_path, monkeypatch, capsys):
    """One of some cycles and one of a single cycle, of which nothing was measured."""
    _, (engine, *_) = simulated_engines(np.random.default_rng(5), 1, 1)
    rows = np.concatenate([engine.settings, engine.sensors], axis=1)
    lines = [f"1 {cycle} " + " ".join(f"{x:.6f}" for x in row) for cycle, row in
             enumerate(rows, start=1)]  # fmt: skip
    path = tmp_path / "engines.txt"
    path.write_text("\n".join([*lines, "2 1 " + " ".join(["nan"] * 24)]) + "\n")
    ask(finished, path)
    printed = capsys.readouterr().out
    header, *told = (line.split("\t") for line in printed.splitlines())
    assert header == ["engine", "cycles_seen", "cycles_left", "low_90", "high_90"]
    assert [line[:2] for line in told] == [["1", str(len(engine))], ["2", "1"]]
    assert all(float(line[3]) <= float(line[2]) <= float(line[4]) for line in told)
    config, nets = study.load(finished.path)
    said = study.forecast(config, nets, engine_cases(list(read_engines(path))))
    assert float(told[0][2]) == pytest.approx(said.mean[0, len(engine) - 1], abs=0.06)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    ask(finished, "-")
    assert capsys.readouterr().out == printed
    damaged = io.BytesIO(path.read_bytes().replace(b"\n1 3 ", b"\n1 4 "))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=damaged))
    with pytest.raises(SystemExit) as stop:
        ask(finished, "-")
    assert stop.value.code == 2
    assert "standard input, line 3: cycle 4 of unit 1, expected 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dataset", "fd005"), "fd005"),
        (("--dataset", "fd002", "--folder", "nowhere"), "nowhere has no train_FD002.txt"),
        (("--predict", "engines.txt"), "name it with --from-run"),
        (("--dataset", "fd001", "--folder", "nowhere"), "nowhere has no train_FD001.txt"),
        (("--folder", "nowhere"), "folder is read for fd001 to fd004"),
        (("--near-cycles", "200"), "not below the cap"),
        (("--valid-share", "1.5"), "valid_share must be below 1"),
        (("--cap", "-1"), "cap must be above 0"),
    ],
)
def test_a_users_mistake_is_one_message(flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(study.Config, study.run, argv=["--quick", *flags, "--out", str(tmp_path / "run")],
             predict=study.predict)  # fmt: skip
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
    lives = np.where(cases.is_real, 100.0, np.nan)
    ends = cases.is_real.sum(axis=1)
    lives[0, [4, 5, 7, 8, 9]] = 20.0  # two in a row, then three: alarm at the tenth cycle
    lives[1, ends[1] - 10 : ends[1]] = 20.0  # alarm at the third of the last ten
    found = alarm_cycles(lives, cases.is_real, 30, 3)
    assert found.tolist() == [10, ends[1] - 7, 0]
    judged = judge_alarms(found, cases.life, cases.last[1], 30)
    assert judged.detected == pytest.approx(2 / 3)
    assert judged.false_alarms == pytest.approx(1 / 3)  # the first engine's, long before
    assert judged.lead_cycles == np.median([ends[0] - 10, 7])
    none = judge_alarms(alarm_cycles(lives, cases.is_real, 10, 3), cases.life, cases.last[1], 30)
    assert none.detected == 0
    assert np.isnan(none.lead_cycles)


@pytest.mark.parametrize("head", ["gaussian", "quantile"])
def test_an_engine_shorter_than_the_window_is_all_read(head):
    """Its windows say what its whole sequence says, though neither is full."""
    _, test = simulated_engines(np.random.default_rng(0), 1, 3)
    short = [replace(engine, sensors=engine.sensors[:12], settings=engine.settings[:12])
             for engine in test]  # fmt: skip
    cases = engine_cases(short)
    config = replace(TINY, head=head)
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.device_get(jax.vmap(study.make_forecaster(config).model.init)(keys))
    nets = study.Nets(params, fit_engine_scaler("train", cases))
    whole = study.forecast(config, nets, cases)
    windows = study.forecast(replace(config, shape="many-to-one"), nets, cases)
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
            nets, _ = study.train(own, parts, log)
        said = study.forecast(own, nets, test).mean[test.last]
        errors[is_shuffled] = np.sqrt(np.mean((said - capped) ** 2))
    # Without labels that belong to it a net can say one life for all.
    assert errors[False] < 0.7 * np.std(capped) < 0.9 * np.std(capped) < errors[True]
