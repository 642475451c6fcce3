"""Which run made a figure of README and docs, and does it still come out so?

    python -m experiments.reproduce --list
    python -m experiments.reproduce --figure gradient_over_time --out /tmp/figures
    python -m experiments.reproduce --check
    python -m experiments.reproduce --check vanishing_gradients --out /tmp/check
    python -m experiments.reproduce --record vanishing_gradients RUN_DIR --figures paths

Every picture in README.md and docs/ belongs to a manifest, docs/figures/NAME.json: the study and
its whole config, seed and data digests, the versions and the machine, a sha256 of each kind of line
in metrics.jsonl and of each picture, and the figures of summary.json with what they may move by.

`--check` makes the runs again, one after the other, and says of each

    identical          every line and every figure to the last bit: same machine, same versions
                       (loops are machine code where they were: it sets SEQLAB_NATIVE)
    within tolerance   other bits, and every figure within what the manifest allows
    MOVED              a figure lies further off, is gone, or a check of the study has turned;
                       old and new are shown
    OTHER DATA         figures moved, and the data are not those of the manifest (the embedded text
                       differs between versions of Python)
    FAILED             the run did not end well

and its exit code is 1 where it is neither of the first two. `--figure` does the same for one
picture and leaves it in DIR. Both leave their runs in DIR/NAME; the same command with `--out DIR`
keeps what is finished there.

`--record NAME RUN_DIR` writes the manifest of a finished run and copies its pictures into docs/;
without RUN_DIR it makes the run of the old manifest again. Tolerances that someone wrote into a
manifest stay. A run that reads another (`--beside`, `--vectors`) names it as runs/NAME, of whose
manifest it is made first where it is not in DIR. Benchmarks have a manifest too, of kind "timing":
listed, never checked, since a clock never reads the same twice.
"""

import dataclasses
import fnmatch
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from seqlab.cli import config_of, parse
from seqlab.data.checks import check_known
from seqlab.errors import InputError
from seqlab.files import read_object, sha256, to_json, write_whole
from seqlab.runlog import (
    CONFIG,
    FIGURES,
    METRICS,
    OWN_FIGURES,
    SUMMARY,
    Run,
    config_values,
    read_run,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"
MANIFESTS = "figures"  # folder in docs
TOLERANCE = {"rel": 0.02, "abs": 1e-6}  # of a figure that no pattern of the manifest names
MAX_KINDS = (
    80  # of metric lines; beyond, lines count as of one kind where their fields are the same
)
LONGEST_WORD = 40  # characters of a text that tells kinds apart
GOOD = ("identical", "within tolerance", "timing")


@dataclass(frozen=True)
class Config:
    """What to do; one of the first four."""

    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """show every figure, its command and what it took"""
    figure: str | None = None
    """make the run of this figure again, and put it into --out"""
    check: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[NAME ...]")] = None
    """make runs again and say which moved; all of them if none is named"""
    record: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME [RUN_DIR]")] = None
    """write a manifest from a finished run, or from a fresh one of the old manifest"""
    figures: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="STEM[=STEM] ...")] = None
    """for --record: which figures of the run go into docs/, =STEM where they are called otherwise
    there; none: for its numbers alone; those of the old manifest, or the one called NAME, if
    not said"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """where runs go. Default: runs/reproduce/<time>"""
    docs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = DOCS
    """the folder with the pictures and figures/NAME.json"""


class Change(NamedTuple):
    """A figure that is not where the manifest has it."""

    name: str
    before: Any
    now: Any
    allowed: str


@dataclass
class Comparison:
    """How a run stands to its manifest."""

    verdict: str
    moved: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Does what is asked; the exit code: 0, 1 where something moved, 2 for a user's mistake."""
    config = tyro.cli(
        Config,
        args=list(sys.argv[1:] if argv is None else argv),
        prog="python -m experiments.reproduce",
        description=__doc__,
    )
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    try:
        return run(config, console)
    except InputError as error:
        sys.stderr.write("error: " + " ".join(str(error).splitlines()) + "\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command with --out DIR goes on with what is there\n")
        return 130


def run(config: Config, console: Console) -> int:
    """The one thing that is asked for."""
    asked = [
        name
        for name in ("list", "figure", "check", "record")
        if getattr(config, name) not in (None, False)
    ]
    if len(asked) != 1:
        raise InputError("say one of --list, --figure NAME, --check [NAME ...], --record NAME")
    if config.figures is not None and config.record is None:
        raise InputError("--figures goes with --record")
    manifests = read_manifests(config.docs)
    if config.list:
        show_list(manifests, console)
        return 0
    out = config.out or Path("runs") / "reproduce" / f"{datetime.now():%Y%m%d-%H%M%S}"
    if config.record is not None:
        return record(config, manifests, out, console)
    if config.figure is not None:
        name = named(config.figure, manifests)
        found = remake([name], manifests, out, console)
        for each in manifests[name]["figures"]:
            drawn = out / name / FIGURES / each["drawn"]
            wanted = config.figure in (name, Path(each["file"]).stem)
            if wanted and drawn.exists():
                console.print(f"figure in {shutil.copy(drawn, out / Path(each['file']).name)}")
    else:
        assert config.check is not None
        names = [named(name, manifests) for name in config.check] or list(manifests)
        found = remake(list(dict.fromkeys(names)), manifests, out, console)
    show(found, console)
    return 0 if all(each.verdict in GOOD for each in found.values()) else 1


# Manifests.


def read_manifests(docs: Path) -> dict[str, dict[str, Any]]:
    """Every manifest by name."""
    if not docs.is_dir():
        raise InputError(f"{docs}: no such folder; run this in a clone, or say --docs")
    paths = sorted((docs / MANIFESTS).glob("*.json"))
    return {path.stem: read_object(path) for path in paths}


def named(name: str, manifests: Mapping[str, Any]) -> str:
    """The manifest of that name, or with a figure of that name."""
    stems = {
        Path(figure["file"]).stem: own
        for own, manifest in manifests.items()
        for figure in manifest["figures"]
    }
    known = {**stems, **{own: own for own in manifests}}
    check_known(name, sorted(known), "figure")
    return known[name]


def record(config: Config, manifests: Mapping[str, Any], out: Path, console: Console) -> int:
    """Writes a manifest, and copies the pictures that it names."""
    assert config.record is not None
    if not 1 <= len(config.record) <= 2:
        raise InputError("--record takes a name and, unless it has a manifest, a run directory")
    name, *places = config.record
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"--record {name}: the name of a file, of letters, digits, _ and -")
    old = manifests.get(name)
    if places:
        finished = read_run(places[0])
    elif old is None:
        raise InputError(f"{name} has no manifest yet: make its run, then --record {name} RUN_DIR")
    else:
        found = make(name, manifests, out, console)
        if found is None:
            raise InputError(f"the run in {out / name} did not end well")
        finished = found
    new = manifest_of(finished, name, manifests, config)
    for each in new["figures"]:
        for other, manifest in manifests.items():
            if other != name and each["file"] in (own["file"] for own in manifest["figures"]):
                raise InputError(f"{each['file']} is of {other}: call yours otherwise, STEM=STEM")
    if old is not None and old["kind"] != "timing":
        show({name: compare(old, finished)}, console)
    for each in new["figures"]:
        target = config.docs.parent / each["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(finished.path / FIGURES / each["drawn"], target)
    path = config.docs / MANIFESTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_json(new))
    pictures = ", ".join(each["file"] for each in new["figures"])
    console.print(f"recorded in {path}: {pictures or 'no figure'}")
    if new["made_with"]["git_modified"]:
        console.print("its code was not committed when it ran: commit and record again")
    return 0


def manifest_of(
    finished: Run, name: str, manifests: Mapping[str, Any], config: Config
) -> dict[str, Any]:
    """All that is to be known of a run to make it again and to tell whether it moved."""
    source, old = finished.record, manifests.get(name)
    module = source.get("module")
    if module is None:
        raise InputError(f"{finished.path} is a run of a script, not of a module: python -m ...")
    is_timing = ".benchmarks." in module
    folder = config.docs.name + ("/benchmarks" if is_timing else "")
    figures = []
    for drawn, stem in chosen_figures(finished, name, old, config.figures):
        kept = {each["drawn"]: each["file"] for each in old["figures"]} if old else {}
        file = f"{folder}/{stem}.png" if stem else kept[drawn]
        digest = sha256(finished.path / FIGURES / drawn)
        figures.append({"file": file, "drawn": drawn, "sha256": digest})
    values, needs = dict(finished.config), needs_of(finished, manifests)
    for key, (need, rest) in needs.items():
        values[key] = str(Path("runs", need, rest))
    manifest = {
        "kind": "timing" if is_timing else "figures",
        "experiment": source["experiment"],
        "module": module,
        "command": command_of(module, values),
        "seed": values.get("seed"),
        "config": values,
        "needs": {key: need for key, (need, _) in needs.items()},
        "figures": figures,
        "made_with": {
            **{key: source.get(key) for key in ("started_utc", "git_commit", "git_modified")},
            **{key: source.get(key) for key in ("device", "processor", "native", "versions")},
            "wall_s": finished.summary["wall_s"],
        },
    }
    if is_timing:
        return manifest
    return manifest | {
        "data": data_digests(finished),
        "tolerances": old["tolerances"] if old else {"*": TOLERANCE},
        "expected": dict(scalars(outcomes(finished))),
        "checks": {
            check["name"]: {key: check.get(key) for key in ("found", "tolerance", "passed")}
            for check in checks_of(finished)
        },
        "lines": digests(finished.path),
    }


def needs_of(finished: Run, manifests: Mapping[str, Any]) -> dict[str, tuple[str, Path]]:
    """Fields of a run's config that name another run, or a file of one: its manifest, and the file.

    Raises:
      InputError: a run that no manifest has.
    """
    found = {}
    for key, value in finished.config.items():
        if not isinstance(value, str) or not value or not Path(value).exists():
            continue
        place = Path(value)
        folders = [place, *place.parents]
        folder = next((each for each in folders if (each / SUMMARY).exists()), None)
        if folder is None:
            continue
        lines = digests(folder)
        names = [name for name, each in manifests.items() if each.get("lines") == lines]
        if not names:
            raise InputError(f"{key} names {folder}, a run without a manifest: --record it first")
        found[key] = (names[0], place.relative_to(folder))
    return found


def chosen_figures(
    finished: Run, name: str, old: dict[str, Any] | None, asked: tuple[str, ...] | None
) -> list[tuple[str, str | None]]:
    """(file in the run, stem in docs or None to keep it), one a picture."""
    drawn = sorted(path.name for path in (finished.path / FIGURES).glob("*.png"))
    if asked is None and old is not None:
        pairs = [(each["drawn"], None) for each in old["figures"]]
    else:
        words = [word.partition("=") for word in ((name,) if asked is None else asked)]
        pairs = [(f"{stem}.png", other or stem) for stem, _, other in words]
    for file, _ in pairs:
        if file not in drawn:
            stems = ", ".join(Path(each).stem for each in drawn) or "none"
            raise InputError(f"{finished.path} has no figure {Path(file).stem}; --figures: {stems}")
    return pairs


def command_of(module_name: str, values: Mapping[str, Any]) -> str:
    """The command line that has a config's values, from the defaults or a preset."""
    config_class = study(module_name).Config
    wanted = config_of(config_class, {"config": values, "experiment": module_name}, module_name)
    written = config_values(wanted)
    best: list[str] | None = None
    presets = [name for name in ("quick", "full") if hasattr(config_class, name)]
    starts = [(config_class(), [])]
    starts += [(getattr(config_class, name)(), [f"--{name}"]) for name in presets]
    for start, words in starts:
        for name, before in config_values(start).items():
            if written[name] != before:
                words = [*words, *flag(name, written[name])]
        if best is None or len(words) < len(best):
            best = words
    assert best is not None
    if parse(config_class, best, module_name).config != wanted:
        raise InputError(f"{module_name}: no flags give the config of this run: {shlex.join(best)}")
    return shlex.join(["python", "-m", module_name, *best])


def flag(name: str, value: Any) -> list[str]:
    """The words that set a field."""
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{word}" if value else f"--no-{word}"]
    return [f"--{word}", *map(str, value if isinstance(value, list) else [value])]


def study(module_name: str) -> Any:
    """The module of a study."""
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{module_name}: {error}") from error
    if not dataclasses.is_dataclass(getattr(module, "Config", None)):
        raise InputError(f"{module_name} is no experiment: it has no dataclass Config")
    return module


# What a run holds.


def outcomes(finished: Run) -> dict[str, Any]:
    """The figures of its summary but for clock, memory and the study's own checks."""
    own = {*OWN_FIGURES, "checks"}
    return {name: value for name, value in finished.summary.items() if name not in own}


def checks_of(finished: Run) -> list[dict[str, Any]]:
    """The study's comparisons with theory and literature."""
    return finished.summary.get("checks") or []


def scalars(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text in nested figures by dotted name, but for clock and memory."""
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list):
        names = [part.get("name") if isinstance(part, Mapping) else None for part in value]
        parts = (
            (label_of(name, index, is_alone=names.count(name) == 1), part)
            for index, (name, part) in enumerate(zip(names, value, strict=True))
        )
    else:
        last = name.rpartition(".")[2]
        if last not in OWN_FIGURES and not re.search(
            r"(^|_)(wall_s|compile_s|ms|per_s|per_second)$", last
        ):
            yield name, value
        return
    for key, part in parts:
        yield from scalars(part, f"{name}.{key}" if name else str(key))


def label_of(name: Any, index: int, *, is_alone: bool) -> Any:
    """What to call an entry of a list: its name where it has one of its own."""
    if name is None:
        return index
    return name if is_alone else f"{name}.{index}"


def data_digests(finished: Run) -> dict[str, str]:
    """Data set -> digest, from the lines that have one."""
    rows = [json.loads(line) for _, line in lines_of(finished.path)]
    return {
        str(row.get("dataset", "data")): row["digest"]
        for row in rows
        if isinstance(row.get("digest"), str)
    }


def lines_of(path: Path) -> list[tuple[str, bytes]]:
    """(name of a run within it, line): a run's metrics, or where it has none, its runs'."""
    own = (path / METRICS).read_bytes().splitlines(keepends=True)
    return [("", line) for line in own] or [
        (f"{inner.parent.name} ", line)
        for inner in sorted(path.glob(f"*/{METRICS}"))
        for line in inner.read_bytes().splitlines(keepends=True)
    ]


def digests(path: Path) -> dict[str, dict[str, Any]]:
    """Kind of line in a run's metrics -> how many there are and the sha256 of their bytes."""
    found_lines = lines_of(path)
    lines = [line for _, line in found_lines]
    rows = [(run, json.loads(line)) for run, line in found_lines]
    kinds = [run + kind_of(row, with_texts=True) for run, row in rows]
    if len(set(kinds)) > MAX_KINDS:
        kinds = [run + kind_of(row, with_texts=False) for run, row in rows]
    found: dict[str, dict[str, Any]] = {}
    hashes: dict[str, Any] = {}
    for kind, line in zip(kinds, lines, strict=True):
        hashes.setdefault(kind, hashlib.sha256()).update(line)
        found.setdefault(kind, {"lines": 0})["lines"] += 1
    return {kind: {**each, "sha256": hashes[kind].hexdigest()} for kind, each in found.items()}


def kind_of(row: Mapping[str, Any], *, with_texts: bool) -> str:
    """`cell=lstm probe=carry: log_norm_median ...`: the texts of a line, and its other fields."""
    texts = {name: value for name, value in row.items() if isinstance(value, str)}
    others = [name for name in row if name not in texts and name != "step"]
    shown = (
        [f"{name}={value}" for name, value in texts.items() if len(value) <= LONGEST_WORD]
        if with_texts
        else list(texts)
    )
    return f"{' '.join(shown)}: {' '.join(others)}"


# Making a run again, and comparing.


def remake(
    names: Sequence[str], manifests: Mapping[str, dict[str, Any]], out: Path, console: Console
) -> dict[str, Comparison]:
    """Makes each run again, and compares."""
    found = {}
    for number, name in enumerate(names, start=1):
        manifest = manifests[name]
        console.print(f"{number}/{len(names)} {name}: {manifest['command']}", soft_wrap=True)
        if manifest["kind"] == "timing":
            found[name] = Comparison("timing", notes=["timings are not checked"])
            continue
        finished = make(name, manifests, out, console)
        if finished is None:
            found[name] = Comparison("FAILED", notes=[f"see {log_of(out / name)}"])
        else:
            found[name] = compare(manifest, finished)
    return found


def make(
    name: str, manifests: Mapping[str, dict[str, Any]], out: Path, console: Console
) -> Run | None:
    """The run of a manifest in out/NAME, kept if it is finished there; None where it fails.

    It is a process of its own, as a reader would start it: how many devices XLA has is settled
    when a process begins. The runs that it reads are made first.
    """
    manifest, folder = manifests[name], out / name
    config = dict(manifest["config"])
    for key, need in manifest.get("needs", {}).items():
        console.print(f"{name} reads {need}: {manifests[need]['command']}", soft_wrap=True)
        if make(need, manifests, out, console) is None:
            return None
        config[key] = str((out / Path(config[key]).relative_to("runs")).resolve())
    if (folder / SUMMARY).exists():
        finished = read_run(folder)
        if any(finished.config.get(key) != value for key, value in config.items()):
            raise InputError(f"{folder} holds a run of another config; name another --out")
        console.print(f"kept: {folder}, started {finished.record['started_utc']}", soft_wrap=True)
        return finished
    folder.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"took {manifest['made_with']['wall_s']:.0f} s when it was recorded")
    with tempfile.TemporaryDirectory() as asked, log_of(folder).open("a") as log:
        wanted = {"experiment": manifest["experiment"], "config": config}
        (Path(asked) / CONFIG).write_text(to_json(wanted))
        command = [sys.executable, "-m", manifest["module"]]
        command += ["--from-run", asked, "--out", str(folder.resolve())]
        # Loops as they were, left to XLA before there was machine code for them.
        loops = {"SEQLAB_NATIVE": "1" if manifest["made_with"].get("native") else "0"}
        wait(subprocess.Popen(command, stdout=log, env=os.environ | loops))  # its bar stays visible
    return read_run(folder) if (folder / SUMMARY).exists() else None


def log_of(folder: Path) -> Path:
    """Where a run's standard output goes."""
    return folder.with_name(folder.name + ".log")


def wait(process: subprocess.Popen) -> None:
    """Until a run has ended; one that is stopped with this process may save first."""

    def stop(number: int, frame: object) -> None:
        del number, frame
        sys.exit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        process.wait()
    except KeyboardInterrupt:  # the terminal has sent it to the run as well
        process.wait()
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        signal.signal(signal.SIGTERM, before)


def compare(manifest: Mapping[str, Any], finished: Run) -> Comparison:
    """Where a run stands to its manifest."""
    moved, is_same, nearest = [], True, (0.0, "")
    now = dict(scalars(outcomes(finished)))
    for name, before in manifest["expected"].items():
        if name not in now:
            moved.append(Change(name, before, "gone", ""))
            continue
        tolerance = tolerance_of(name, manifest["tolerances"])
        share = share_used(before, now[name], tolerance)
        is_same &= before == now[name]
        nearest = max(nearest, (share, name))
        if share > 1:
            moved.append(Change(name, before, now[name], text_of(tolerance)))
    checks = {check["name"]: check for check in checks_of(finished)}
    for name, before in manifest["checks"].items():
        check = checks.get(name)
        if check is None:
            moved.append(Change(f"check {name}", before["found"], "gone", ""))
            continue
        is_same &= all(before[key] == check.get(key) for key in before)
        if before["passed"] != check.get("passed"):
            words = [
                f"{state_of(each.get('passed'))}: {shown(each.get('found'))}"
                for each in (before, check)
            ]
            moved.append(Change(f"check {name}", *words, ""))
            continue
        # What a check lets its figure differ from theory by, it may differ from itself by.
        allowed = before["tolerance"]
        tolerance = tolerance_of(f"checks.{name}", manifest["tolerances"])
        if is_number(allowed):
            tolerance = {"rel": tolerance["rel"], "abs": max(allowed, tolerance["abs"])}
        if share_used(before["found"], check.get("found"), tolerance) > 1:
            moved.append(
                Change(f"check {name}", before["found"], check.get("found"), text_of(tolerance))
            )
    lines = digests(finished.path)
    changed = [kind for kind, each in manifest["lines"].items() if lines.get(kind) != each]
    notes = []
    new = [name for name in now if name not in manifest["expected"]]
    new += [f"check {name}" for name in checks if name not in manifest["checks"]]
    if new:
        notes.append(f"not in the manifest, record it anew: {', '.join(new)}")
    if not moved and is_same and not changed and len(lines) == len(manifest["lines"]):
        return Comparison("identical", notes=notes)
    other_data = manifest["data"] != data_digests(finished)
    notes += differences(manifest["made_with"], finished.record)
    if other_data:
        notes.append(f"data: {manifest['data']} -> {data_digests(finished)}")
    if changed:
        notes.append(f"{len(changed)} of {len(manifest['lines'])} kinds of lines have other bits")
    if moved:
        notes += [f"other bits: {kind}" for kind in changed]
        return Comparison("OTHER DATA" if other_data else "MOVED", moved, notes)
    if nearest[0] > 0:
        notes.append(f"largest move: {nearest[1]}, {100 * nearest[0]:.2g} % of what is allowed")
    return Comparison("within tolerance", notes=notes)


def differences(made_with: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """What is not as when the manifest was recorded; or that it all is, and bits differ still."""
    found = []
    made_with = {"native": False} | dict(made_with)
    for key in ("device", "processor", "native"):
        if made_with.get(key) != record.get(key):
            found.append(f"{key}: {made_with.get(key)} -> {record.get(key)}")
    before, now = made_with["versions"], record["versions"]
    for package in dict.fromkeys([*before, *now]):
        if before.get(package) != now.get(package):
            found.append(f"{package} {before.get(package)} -> {now.get(package)}")
    return found or ["same versions and machine: the code has changed, or a library beside these"]


def tolerance_of(name: str, tolerances: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """That of the first pattern which fits."""
    for pattern, tolerance in tolerances.items():
        if fnmatch.fnmatchcase(name, pattern):
            return {"rel": 0.0, "abs": 0.0, **tolerance}
    return TOLERANCE


def share_used(before: Any, now: Any, tolerance: Mapping[str, float]) -> float:
    """How much of the tolerance a figure has used up, above 1 where it moved."""
    if before == now:
        return 0.0
    if not (is_number(before) and is_number(now)):
        return float("inf")
    allowed = tolerance["abs"] + tolerance["rel"] * abs(before)
    return abs(now - before) / allowed if allowed > 0 else float("inf")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Showing.


def show_list(manifests: Mapping[str, dict[str, Any]], console: Console) -> None:
    """One row a picture."""
    table = Table(title="figures of README and docs; wall time as recorded", title_justify="left")
    for column in ("name", "figure", "command", "recorded", "with", "takes"):
        table.add_column(column, overflow="fold", justify="right" if column == "takes" else "left")
    for name, manifest in manifests.items():
        made = manifest["made_with"]
        seconds = made["wall_s"]
        table.add_row(
            name + (" (timing)" if manifest["kind"] == "timing" else ""),
            "\n".join(each["file"] for each in manifest["figures"]),
            manifest["command"],
            made["started_utc"][:10],
            f"jax {made['versions']['jax']}, {made['device']}",
            f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min",
        )
    console.print(table)


def show(found: Mapping[str, Comparison], console: Console) -> None:
    """The verdicts, then every figure that moved, old and new."""
    for name, comparison in found.items():
        console.print(f"{name}: {comparison.verdict}", markup=False, highlight=False)
        for note in comparison.notes:
            console.print(f"  {note}", markup=False, highlight=False)
        if not comparison.moved:
            continue
        table = Table(title=f"moved in {name}", title_justify="left")
        for column in ("figure", "recorded", "now", "allowed"):
            table.add_column(column, overflow="fold")
        for change in comparison.moved:
            table.add_row(change.name, shown(change.before), shown(change.now), change.allowed)
        console.print(table)


def shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def state_of(passed: bool | None) -> str:
    return {True: "passed", False: "failed", None: "not judged"}[passed]


def text_of(tolerance: Mapping[str, float]) -> str:
    parts = [f"{100 * tolerance['rel']:g} %"] if tolerance["rel"] else []
    parts += [f"{tolerance['abs']:g}"] if tolerance["abs"] else []
    return " + ".join(parts) or "none"


if __name__ == "__main__":
    sys.exit(main())
