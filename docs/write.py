"""Writes README.md, README.ko.md and docs/studies.md from templates/ and recorded runs.

    python docs/write.py            # after an edit of a template, or after --record
    python docs/write.py --check    # names what is not as written; exit code 1

A template is Markdown with numbers as expressions of Jinja: {{ babi["mean_accuracy"] | pct }} is a
figure of docs/figures/babi.json, by the name that it has in `expected` there; `runs` holds them all
by name, `bench` what is kept in docs/benchmarks/. A run that is recorded again moves every sentence
that quotes it. Text are the figures of other people, with their source beside, and those of runs
that have no manifest yet.
"""

import difflib
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import jinja2

from experiments.reproduce import read_manifests

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WRITTEN = {"README.md": ROOT, "README.ko.md": ROOT, "studies.md": DOCS}
NOTE = "<!-- Written by docs/write.py from docs/templates/{name}: edit that. -->\n\n"


def recorded() -> dict[str, dict]:
    """Name of a manifest -> its figures by dotted name, what its checks found, and its seconds."""
    return {
        name: {
            **manifest.get("expected", {}),
            **{f"check {own}": each["found"] for own, each in manifest.get("checks", {}).items()},
            "wall_s": manifest["made_with"]["wall_s"],
        }
        for name, manifest in read_manifests(DOCS).items()
    }


def benchmarks() -> dict[str, dict]:
    """Name of a benchmark -> its summary: rows, and what else it has."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["summary"]
        for path in sorted((DOCS / "benchmarks").glob("*.json"))
    }


def fixed(value: float, digits: int = 1) -> str:
    """So many digits after the point; no minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text


def pct(share: float, digits: int = 1) -> str:
    """A share in per cent, without the sign."""
    return fixed(100 * share, digits)


def count(number: float) -> str:
    """A whole number with commas."""
    return f"{number:,.0f}"


def minutes(run: dict) -> str:
    """What the recorded run took: whole minutes, halves below five."""
    taken = run["wall_s"] / 60
    return f"{taken:.0f}" if taken >= 5 else f"{max(0.5, round(2 * taken) / 2):g}"


def like(run: dict, *patterns: str) -> list:
    """The figures whose names match, for `min` and `max`; at least one a pattern."""
    found = []
    for pattern in patterns:
        of_it = [value for name, value in run.items() if fnmatchcase(name, pattern)]
        if not of_it:
            raise ValueError(f"no figure is named like {pattern}")
        found += of_it
    return found


def of(run: dict, items: str, /, **wanted) -> dict:
    """The figures of those of a list's items that have these values, numbered from 0."""
    ends = {
        field: {
            key.removesuffix(f".{field}")
            for key, own in run.items()
            if key.startswith(f"{items}.") and key.endswith(f".{field}") and own == value
        }
        for field, value in wanted.items()
    }
    found = sorted(set.intersection(*ends.values()))
    if not found:
        raise ValueError(f"none of {items} has {wanted}")
    return {
        f"{number}.{key.removeprefix(f'{item}.')}": value
        for number, item in enumerate(found)
        for key, value in run.items()
        if key.startswith(f"{item}.")
    }


def row(rows: list[dict], **wanted) -> dict:
    """The one row with these values."""
    found = [each for each in rows if all(each.get(name) == wanted[name] for name in wanted)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} rows of {len(rows)} have {wanted}")
    return found[0]


def largest(benchmark: dict, cell: str) -> float:
    """Of the sizes' times as multiples of PyTorch's the largest, as training walks each."""
    times = {}
    for each in benchmark["rows"]:
        if each["cell"] == cell and each["variant"] in ("seqlab", "seqlab per core"):
            times[each["size"]] = each["x_torch"]  # the row per core, where there is one, is later
    return max(times.values())


def longest_compile(benchmark: dict) -> tuple[float, float]:
    """Of compiling the fast loop, beside the plain one, the worst: times, and seconds more."""
    seconds = {
        (each["cell"], each["size"], each["variant"]): each["compile_s"]
        for each in benchmark["rows"]
    }
    return max(
        (fast / seconds[cell, size, "seqlab scan"], fast - seconds[cell, size, "seqlab scan"])
        for (cell, size, variant), fast in seconds.items()
        if variant == "seqlab"
    )


def written(name: str) -> str:
    """A page as its template and the recorded runs give it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DOCS / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    environment.filters |= {
        "count": count, "fixed": fixed, "largest": largest, "like": like,
        "longest_compile": longest_compile, "minutes": minutes, "of": of, "pct": pct, "row": row,
    }  # fmt: skip
    runs = recorded()
    page = environment.get_template(name).render(**runs, runs=runs, bench=benchmarks())
    title, _, rest = page.partition("\n\n")
    return f"{title}\n\n{NOTE.format(name=name)}{rest}"


def main() -> int:
    """Writes, or with --check compares."""
    moved = 0
    for name, folder in WRITTEN.items():
        path, new = folder / name, written(name)
        if "--check" not in sys.argv[1:]:
            path.write_text(new, encoding="utf-8")
            continue
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = list(
            difflib.unified_diff(
                old.splitlines(), new.splitlines(), str(path), "as written", lineterm="", n=0
            )
        )
        moved += bool(lines)
        print("\n".join(lines) or f"{path}: as written")
    return int(moved > 0)


if __name__ == "__main__":
    sys.exit(main())
