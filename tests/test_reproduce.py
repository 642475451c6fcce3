"""Every figure of README and docs has a manifest that is well formed, and a check that can fail."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pytest

from experiments import reproduce
from seqlab.cli import config_of, parse
from seqlab.files import sha256
from seqlab.runlog import RunLog, read_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MANIFESTS = reproduce.read_manifests(ROOT / "docs")
FIGURES = {
    figure["file"]: (name, figure["sha256"])
    for name, manifest in MANIFESTS.items()
    for figure in manifest["figures"]
}
STUDY = '''
"""A study of a second: one number, which the environment can move."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqlab import plots
from seqlab.cli import main
from seqlab.runlog import RunLog, read_run


@dataclass(frozen=True)
class Config:
    """A study of a second."""

    cells: tuple[str, ...] = ("rnn", "lstm")
    """names"""
    is_shifted: bool = False
    """a switch"""
    beside: Path | None = None
    """metrics of another run"""
    seed: int = 0

    @classmethod
    def quick(cls):
        return cls(cells=("rnn",))


def run(config, log):
    shift = float(os.environ.get("TINY_SHIFT", "0"))
    if shift < 0:
        raise RuntimeError("asked to fail")
    log.write(step=0, dataset="text", digest=os.environ.get("TINY_DATA", "abc"))
    if config.beside:
        log.write(step=0, other=len(config.beside.read_text().splitlines()))
    draws = np.random.default_rng(config.seed).normal(size=5) + shift
    for name in config.cells:
        log.write(step=1, cell=name, draws=draws)
    error = float(os.environ.get("TINY_ERROR", "1e-14"))
    log.finish(
        nets=[{"name": name, "mean": 2.0 + shift, "time_ms": os.getpid()} for name in config.cells],
        nothing=None,
        checks=[{"name": "closed form", "found": error, "expected": 0.0, "tolerance": 1e-10,
                 "passed": error < 1e-10}],
    )


def plot(directory):
    figure, (axes,) = plots.new_figure(1, width=3, height=2)
    axes.plot(read_run(directory).metrics[-1]["draws"])
    plots.save(figure, directory / "figures" / "draws.png")


if __name__ == "__main__":
    main(Config, run, plot)
'''


def test_every_picture_of_readme_and_docs_has_a_manifest():
    pictures = {
        (page.parent / link).resolve().relative_to(ROOT).as_posix()
        for page in PAGES
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert pictures
    unknown = pictures - set(FIGURES)
    assert not unknown, f"record them: python -m experiments.reproduce --record NAME RUN: {unknown}"


@pytest.mark.parametrize("file", FIGURES)
def test_a_picture_is_the_one_that_was_recorded(file):
    name, digest = FIGURES[file]
    assert sha256(ROOT / file) == digest, f"python -m experiments.reproduce --record {name} RUN"


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_well_formed(name):
    manifest = MANIFESTS[name]
    config_class = reproduce.study(manifest["module"]).Config
    config = config_of(config_class, manifest, name)
    *_, module = manifest["module"].split(".")
    assert manifest["experiment"] == module
    words = manifest["command"].split()
    assert words[:3] == ["python", "-m", manifest["module"]]
    # The command that readers are shown makes this config, whatever the defaults are by now.
    assert parse(config_class, words[3:], manifest["module"]).config == config
    assert manifest["seed"] == manifest["config"]["seed"]
    assert manifest["made_with"]["wall_s"] > 0
    assert manifest["made_with"]["git_commit"]
    if manifest["kind"] == "timing":
        return
    assert manifest["made_with"]["git_modified"] is False, "commit, then record"
    assert manifest["expected"]
    assert manifest["lines"]
    assert all(re.fullmatch("[0-9a-f]{64}", each["sha256"]) for each in manifest["lines"].values())
    for value in manifest["expected"].values():
        assert not isinstance(value, float) or math.isfinite(value)
    for tolerance in manifest["tolerances"].values():
        assert set(tolerance) <= {"rel", "abs"}
        assert all(0 <= value < 1 for value in tolerance.values())


@pytest.fixture(scope="module")
def write():
    spec = importlib.util.spec_from_file_location("write", ROOT / "docs" / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_as_written_from_the_recorded_runs(write):
    for name, folder in write.WRITTEN.items():
        assert (folder / name).read_text(encoding="utf-8") == write.written(name), (
            f"{name}: python docs/write.py"
        )


def test_a_run_that_moves_moves_the_page(write, monkeypatch):
    runs = write.recorded()
    runs["babi"]["mean_accuracy"] = 0.12345
    monkeypatch.setattr(write, "recorded", lambda: runs)
    assert "the mean is 12.3 %" in write.written("README.md")
    del runs["babi"]["mean_accuracy"]
    with pytest.raises(jinja2.UndefinedError, match="mean_accuracy"):
        write.written("README.md")


def test_numbers_are_written_as_readers_expect(write):
    assert [write.fixed(-0.04), write.fixed(-0.06), write.fixed(9.995, 0)] == ["0.0", "-0.1", "10"]
    assert write.pct(0.6611) == "66.1"
    assert write.count(12800.0) == "12,800"
    assert [write.minutes({"wall_s": s}) for s in (2, 100, 290, 601)] == ["0.5", "1.5", "5", "10"]
    rows = [{"cell": "rnn", "x": 1}, {"cell": "gru", "x": 2}, {"cell": "gru", "x": 3}]
    assert write.row(rows, cell="rnn")["x"] == 1
    for cell in ("gru", "lstm"):
        with pytest.raises(ValueError, match="rows of 3"):
            write.row(rows, cell=cell)
    run = {"nets.lstm.loss.0": 3.0, "nets.lstm.loss.1": 1.0, "nets.gru.loss.0": 2.0, "wall_s": 9.0}
    assert write.like(run, "nets.lstm.loss.?", "nets.gru.*") == [3.0, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"named like nets\.rnn"):
        write.like(run, "nets.lstm.*", "nets.rnn.*")
    named = {
        f"nets.{item}.{key}": value
        for item, values in {
            "sgd.2": {"name": "sgd", "length": 30, "loss.0": 1.0},
            "sgd + clip.3": {"name": "sgd + clip", "length": 50, "loss.0": 2.0},
            "sgd.10": {"name": "sgd", "length": 50, "loss.0": 3.0},
        }.items()
        for key, value in values.items()
    }
    assert write.of(named, "nets", name="sgd", length=50)["0.loss.0"] == 3
    assert sorted(write.like(write.of(named, "nets", name="sgd"), "?.loss.0")) == [1, 3]
    with pytest.raises(ValueError, match="none of nets has"):
        write.of(named, "nets", name="sgd", length=60)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A clone with one study, its run and its manifest; what runs `reproduce` there."""
    (tmp_path / "tinystudy.py").write_text(STUDY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    docs = tmp_path / "docs"
    docs.mkdir()

    def call(*words):
        return reproduce.main([*words, "--docs", str(docs)])

    out = tmp_path / "run"
    command = [sys.executable, "-m", "tinystudy", "--cells", "rnn", "gru", "--is-shifted"]
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    assert call("--record", "tiny", str(out), "--figures", "draws=noise") == 0
    yield tmp_path, call
    sys.modules.pop("tinystudy", None)


def test_a_run_is_recorded_listed_checked_and_moved(tiny, monkeypatch, capsys):
    folder, call = tiny
    manifest = json.loads((folder / "docs" / "figures" / "tiny.json").read_text())
    assert manifest["command"] == "python -m tinystudy --cells rnn gru --is-shifted"
    assert manifest["figures"][0]["file"] == "docs/noise.png"
    assert manifest["figures"][0]["sha256"] == sha256(folder / "docs" / "noise.png")
    assert manifest["data"] == {"text": "abc"}
    means = {f"nets.{cell}.mean": 2.0 for cell in ("rnn", "gru")}
    names = {f"nets.{cell}.name": cell for cell in ("rnn", "gru")}
    assert manifest["expected"] == {**means, **names, "nothing": None}
    assert set(manifest["lines"]) == {
        "dataset=text digest=abc: ",
        "cell=rnn: draws",
        "cell=gru: draws",
    }
    assert call("--list") == 0
    assert "docs/noise.png" in capsys.readouterr().out.replace("\n", "")

    def check(place):
        capsys.readouterr()
        return call("--check", "noise", "--out", str(folder / place)), capsys.readouterr().out

    for kept in (False, True):
        code, said = check("one")
        assert (code, "tiny: identical" in said, "kept:" in said) == (0, True, kept)

    monkeypatch.setenv("TINY_SHIFT", "0.01")
    code, said = check("two")
    assert (code, "tiny: within tolerance" in said) == (0, True)
    assert "2 of 3 kinds of lines have other bits" in said
    assert "same versions and machine: the code has changed" in said

    monkeypatch.setenv("TINY_SHIFT", "0.5")
    code, said = check("three")
    assert (code, "tiny: MOVED" in said) == (1, True)
    assert re.search(r"nets\.rnn\.mean\W+2\W+2\.5\W+2 %", said)

    monkeypatch.setenv("TINY_DATA", "other")
    code, said = check("four")
    assert (code, "tiny: OTHER DATA" in said) == (1, True)

    monkeypatch.setenv("TINY_SHIFT", "-1")
    code, said = check("five")
    assert (code, "tiny: FAILED" in said) == (1, True)


def test_a_figure_is_made_again_and_a_manifest_renewed(tiny, monkeypatch, capsys):
    folder, call = tiny
    path = folder / "docs" / "figures" / "tiny.json"
    manifest = json.loads(path.read_text())
    manifest["tolerances"] = {"nets.*": {"abs": 0.7}, **manifest["tolerances"]}
    path.write_text(json.dumps(manifest))
    monkeypatch.setenv("TINY_SHIFT", "0.5")
    assert call("--figure", "noise", "--out", str(folder / "again")) == 0  # as the pattern allows
    drawn = folder / "again" / "noise.png"
    assert drawn.stat().st_size > 1000
    assert sha256(drawn) != manifest["figures"][0]["sha256"]

    assert call("--record", "tiny", "--out", str(folder / "again")) == 0
    renewed = json.loads(path.read_text())
    assert renewed["expected"]["nets.rnn.mean"] == 2.5
    assert renewed["tolerances"] == manifest["tolerances"]
    assert renewed["figures"][0]["sha256"] == sha256(folder / "docs" / "noise.png")
    assert sha256(drawn) == renewed["figures"][0]["sha256"]

    run = str(folder / "run")
    for words, complaint in (
        (("--record", "other", run, "--figures", "draws=noise"), "docs/noise.png is of tiny"),
        (("--record", "other", run), "has no figure other; --figures: draws"),
        (("--record", "other"), "has no manifest yet"),
        (("--record", "a/b", run), "the name of a file"),
        (("--check", "nois"), "did you mean 'noise'"),
        (("--check", "--list"), "say one of"),
        (("--list", "--figures", "draws"), "--figures goes with --record"),
    ):
        capsys.readouterr()
        assert call(*words) == 2
        assert complaint in capsys.readouterr().err


def test_a_run_that_reads_another_has_it_made_first(tiny, capsys):
    folder, call = tiny
    command = [sys.executable, "-m", "tinystudy", "--beside", str(folder / "run" / "metrics.jsonl")]
    subprocess.run([*command, "--out", str(folder / "second")], check=True, capture_output=True)
    assert call("--record", "second", str(folder / "second"), "--figures") == 0
    manifest = json.loads((folder / "docs" / "figures" / "second.json").read_text())
    assert manifest["command"] == "python -m tinystudy --beside runs/tiny/metrics.jsonl"
    assert manifest["needs"] == {"beside": "tiny"}
    for kept in (0, 2):
        capsys.readouterr()
        assert call("--check", "second", "--out", str(folder / "again")) == 0
        said = capsys.readouterr().out
        assert "second reads tiny: python -m tinystudy --cells rnn gru --is-shifted" in said
        assert "second: identical" in said
        assert said.count("kept:") == kept
    assert read_run(folder / "again" / "second").config["beside"] == str(
        folder / "again" / "tiny" / "metrics.jsonl"
    )
    for manifest in (folder / "docs" / "figures").glob("*.json"):
        manifest.unlink()
    assert call("--record", "second", str(folder / "second"), "--figures") == 2
    assert "beside names" in capsys.readouterr().err


@dataclass(frozen=True)
class NoConfig:
    seed: int = 0


def test_entries_of_one_name_are_all_kept():
    nets = [{"name": "rnn", "length": 50}, {"name": "rnn", "length": 200}, {"name": "gru", "x": 1}]
    assert dict(reproduce.scalars({"nets": nets, "list": [7]})) == {
        "nets.rnn.0.name": "rnn", "nets.rnn.0.length": 50, "nets.rnn.1.name": "rnn",
        "nets.rnn.1.length": 200, "nets.gru.name": "gru", "nets.gru.x": 1, "list.0": 7,
    }  # fmt: skip


def finished(tmp_path, **summary):
    log = RunLog(NoConfig(), experiment="tiny", module="tiny", out=tmp_path)
    log.write(step=0, value=1.0)
    log.finish(**summary)
    return read_run(tmp_path)


def manifest_for(run):
    return {
        "made_with": run.record,
        "data": {},
        "tolerances": {"*": reproduce.TOLERANCE},
        "expected": dict(reproduce.scalars(reproduce.outcomes(run))),
        "checks": {each["name"]: each for each in reproduce.checks_of(run)},
        "lines": reproduce.digests(run.path),
    }


def check_of(found, passed):
    return [{"name": "law", "found": found, "tolerance": 1e-10, "passed": passed}]


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ({"loss": 2.0}, {"loss": 2.0}, "identical"),
        ({"loss": 2.0}, {"loss": 2.03}, "within tolerance"),
        ({"loss": 2.0}, {"loss": 2.05}, "MOVED"),
        ({"loss": 2.0}, {"loss": None}, "MOVED"),
        ({"loss": None}, {"loss": None}, "identical"),
        ({"loss": 2.0}, {}, "MOVED"),
        ({"name": "a"}, {"name": "b"}, "MOVED"),
        ({"is_so": True}, {"is_so": False}, "MOVED"),
        ({"lag": 16}, {"lag": 17}, "MOVED"),
        ({"x_ms": 1.0}, {"x_ms": 9.0}, "identical"),
        # A check may move by what it may differ from theory, and may not turn.
        ({"checks": check_of(1e-14, True)}, {"checks": check_of(9e-12, True)}, "within tolerance"),
        ({"checks": check_of(1e-14, True)}, {"checks": check_of(2e-10, False)}, "MOVED"),
        ({"checks": check_of(1e-14, True)}, {"checks": []}, "MOVED"),
    ],
)
def test_the_verdict(before, now, verdict, tmp_path):
    manifest = manifest_for(finished(tmp_path / "before", **before))
    found = reproduce.compare(manifest, finished(tmp_path / "now", **now))
    assert found.verdict == verdict
    assert bool(found.moved) == (verdict == "MOVED")


def test_many_kinds_of_lines_are_told_apart_by_their_fields(tmp_path):
    rows = [{"step": 0, "word": f"w{k}", "loss": 1.0} for k in range(reproduce.MAX_KINDS + 1)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(reproduce.digests(tmp_path)) == ["word: loss"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    assert list(reproduce.digests(tmp_path)) == [f"word=w{k}: loss" for k in range(3)]


def test_a_run_that_only_compares_has_the_lines_of_the_runs_within_it(tmp_path):
    run = finished(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text("")
    for name, loss in (("a", 1.0), ("b", 2.0)):
        (run.path / name).mkdir()
        row = {"step": 0, "dataset": "texts", "digest": f"of {name}", "loss": loss}
        (run.path / name / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    found = reproduce.digests(run.path)
    assert [kind.split()[0] for kind in found] == ["a", "b"]
    one, other = found.values()
    assert one["sha256"] != other["sha256"]
    assert reproduce.data_digests(run) == {"texts": "of b"}
    nested = dict(reproduce.scalars({"models": {"a": {"loss": 1.0, "wall_s": 2.0, "device": "x"}}}))
    assert nested == {"models.a.loss": 1.0}
