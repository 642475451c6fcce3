"""What mkdocs is given besides the pages in this folder: front page, course, gallery, reference."""

import re
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import seqlab
from experiments.reproduce import read_manifests

ROOT = Path(__file__).parents[1]
TITLES = {
    "cells": "Cells",
    "recurrence": "The loop",
    "models": "Models",
    "gradflow": "Gradient instruments",
    "report": "Gradient report",
    "train": "Training",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the two empty parts of the menu."""
    for part in config.nav or []:
        if "Course" in part:
            part["Course"] = [f"course/{path.stem}.md" for path in notebooks()]
        elif "Reference" in part:
            part["Reference"] = [f"reference/{name}.md" for name in reference()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from other files of the repository."""
    pages = {
        "index.md": moved((ROOT / "README.md").read_text(encoding="utf-8")),
        "ko.md": moved((ROOT / "README.ko.md").read_text(encoding="utf-8")),
        "contributing.md": moved((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")),
        "changelog.md": moved((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
        "gallery.md": gallery(),
    }
    pages |= {f"course/{path.stem}.md": lesson(path) for path in notebooks()}
    pages |= {f"reference/{name}.md": text for name, text in reference().items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def moved(text: str) -> str:
    """A page of the repository's root, its links as from within docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(r"\]\(notebooks/(\w+)\.(?:py|ipynb)\)", r"](course/\1.md)", text)
    for old, new in (("CONTRIBUTING", "contributing"), ("README", "index"), ("README.ko", "ko")):
        text = text.replace(f"]({old}.md)", f"]({new}.md)")
    return text.replace("[CITATION.cff](CITATION.cff)", "CITATION.cff")


def notebooks() -> list[Path]:
    """The course's sources, in order."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.py"))


def lesson(path: Path) -> str:
    """A notebook as a page: its text, its code, and what was printed and drawn where it was run."""
    built = path.with_suffix(".ipynb")
    parts = []
    for cell in jupytext.read(built if built.exists() else path).cells:
        source = cell["source"]
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\(\.\./docs/", "](../", source))
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [shown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts) + "\n"


def shown(output: dict) -> str:
    """One output of a cell."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="">'
    if "text/html" in data:
        return data["text/html"]
    text = output.get("text") or data.get("text/plain") or ""
    return f"```text\n{text.rstrip()}\n```"


def gallery() -> str:
    """Every figure of README and docs with the command that makes it."""
    parts = ["# Gallery", "Every figure has a manifest; `python -m experiments.reproduce --check`."]
    for name, manifest in read_manifests(ROOT / "docs").items():
        parts.append(f"## {name}\n\n```bash\n{manifest['command']}\n```")
        for figure in manifest["figures"]:
            place = figure["file"].removeprefix("docs/")
            parts.append(f"![{Path(place).stem}]({place})")
    return "\n\n".join(parts) + "\n"


def reference() -> dict[str, str]:
    """Page name -> the public names of a part of the library."""
    names: dict[str, list[str]] = {}
    for name in sorted(seqlab.__all__):
        module = seqlab._MODULE_OF[name]
        part = module.partition(".")[0]
        names.setdefault(part if part in TITLES else "other", []).append(f"seqlab.{module}.{name}")
    pages = {}
    for part in [*TITLES, "other"]:
        entries = "\n\n".join(f"::: {name}" for name in names[part])
        pages[part] = f"# {TITLES.get(part, 'Everything else')}\n\n{entries}\n"
    return pages
