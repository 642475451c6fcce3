"""The house's walls: who imports whom, read from the source; and a few habits that ruff cannot see.

The checker itself is tested on small wrong trees, so that it is known to fail where it must.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# What each part of seqlab may import from seqlab, besides itself and `errors`.
ALLOWED = {
    "errors": set(),
    "files": set(),
    "timing": set(),
    "description": set(),
    "types": {"description"},
    "linalg": {"types"},
    "cells": {"description", "types", "linalg"},
    "fast": {"types", "cells"},
    "recurrence": {"types", "cells", "fast"},
    "models": {"description", "types", "linalg", "cells", "recurrence", "data"},
    "gradflow": {"types", "linalg", "cells", "recurrence"},
    "testing": {"types", "cells", "recurrence", "gradflow"},
    "losses": {"types"},
    "train": {"types", "losses"},
    "averaging": {"types", "train"},
    "checkpoint": {"types", "losses", "train", "files"},
    "devices": {"types"},
    "ensemble": {"types", "train"},
    "recorder": {"types", "recurrence", "train", "checkpoint"},
    "report": {"types", "cells", "recurrence", "gradflow", "recorder", "plots"},
    "session": {"types", "train", "checkpoint", "recorder", "devices", "runlog", "progress"},
    "replay": {"checkpoint", "recorder", "runlog", "cli"},
    "writers": set(),
    "embeddings": {"types", "losses", "data", "files", "devices"},
    "geodesy": set(),
    "data": {"files", "geodesy", "progress"},
    "scoring": {"files"},
    "ngram": {"data", "files", "scoring"},
    "metrics": set(),
    "forecasts": {"metrics"},
    "forecast_baselines": {"forecasts", "geodesy", "data"},
    "alarms": set(),
    "heads": {"types", "losses", "forecasts"},
    "forecaster": {
        "types",
        "data",
        "forecasts",
        "heads",
        "losses",
        "gradflow",
        "train",
        "ensemble",
        "checkpoint",
        "runlog",
        "session",
    },
    "translations": {"metrics"},
    "translator": {"types", "data", "cells", "models", "losses", "gradflow", "train"},
    "captions": {"types", "data", "cells", "models", "losses", "gradflow", "translator"},
    "asking": {"data", "checkpoint", "runlog", "train", "translator"},
    "baselines": set(),
    "progress": set(),
    "runview": set(),
    "runlog": {"writers", "files", "progress", "runview"},
    "plots": {"runlog", "geodesy"},
    "cli": {"runlog", "data", "devices", "writers"},
}
JAX_FREE = {
    "errors", "files", "timing", "geodesy", "data", "scoring", "ngram", "metrics", "forecasts",
    "forecast_baselines", "alarms", "baselines", "translations", "plots", "runlog", "writers",
    "progress", "runview",
}  # fmt: skip
JAX_FAMILY = {"jax", "jaxlib", "flax", "optax", "orbax"}
RECORDS_ONLY = {"types", "linalg", "cells", "fast", "recurrence", "gradflow", "losses", "train"}
NNX_IN_FUNCTIONS = "seqlab/cells/convert.py"  # its from_flax is handed a Flax cell
NNX_TRANSFORMS = {"jit", "grad", "value_and_grad", "vmap", "pmap", "scan", "while_loop", "remat"}


class Import(NamedTuple):
    """One imported name: `target` is the module, or the module's attribute, in full."""

    target: str
    line: int
    in_function: bool


def imports(tree: ast.Module, package: list[str]) -> Iterator[Import]:
    """Every import of a module in `package`; `from a import b` counts as `a.b`."""

    def walk(node, in_function):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            for alias in node.names:
                yield Import(".".join([*base, alias.name]), node.lineno, in_function)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, in_function)

    return walk(tree, in_function=False)


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Path below `root` and syntax tree of every Python file of the three code folders."""
    for folder in ("seqlab", "experiments", "notebooks"):
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def layer_of(parts: list[str]) -> str:
    """The part of seqlab that a dotted name or a path lies in; "" for seqlab itself."""
    return parts[1].removesuffix(".py") if len(parts) > 1 and parts[1] != "__init__.py" else ""


def import_violations(root: Path) -> list[str]:
    """One line for each import that the table forbids."""
    found = []
    for path, tree in sources(root):
        folder, *_ = parts = path.split("/")
        layer = layer_of(parts) if folder == "seqlab" else None
        if layer and layer not in ALLOWED:
            found.append(f"{path}: seqlab.{layer} is not in the table of layers")
            continue
        for target, line, in_function in imports(tree, parts[:-1]):
            top, *rest = target.split(".")
            complain = f"{path}:{line}: imports {target}: "
            if top in ("experiments", "notebooks", "tests"):
                found.append(complain + f"nothing imports {top}")
            if top in ("jax", "jaxlib", "flax", "optax") and any(p.startswith("_") for p in rest):
                found.append(complain + "a private name")
            if top == "flax" and rest[:1] == ["nnx"] and NNX_TRANSFORMS & set(rest[1:]):
                found.append(complain + "only jax's transforms are used")
            if layer is None:
                continue
            if top == "seqlab" and layer:
                other = layer_of([top, *rest])
                if other not in ALLOWED:
                    found.append(complain + "take it from the module that defines it")
                elif other not in {layer, "errors"} | ALLOWED[layer]:
                    found.append(complain + f"{layer} may not import {other}")
            if layer in JAX_FREE and top in JAX_FAMILY:
                found.append(complain + f"{layer} is free of jax")
            if layer in RECORDS_ONLY and top == "flax" and rest[:1] != ["struct"]:
                if not (path == NNX_IN_FUNCTIONS and in_function):
                    found.append(complain + f"{layer} takes only flax.struct from flax")
    return found


def habit_violations(root: Path) -> list[str]:
    """One line for each undocumented public name, print, blind except or nnx transform."""
    found = []
    for path, tree in sources(root):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "nnx"
                and node.attr in NNX_TRANSFORMS
            ):
                found.append(f"{path}:{node.lineno}: nnx.{node.attr}: use jax.{node.attr}")
            if not path.startswith("seqlab/"):
                continue
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "print":
                    found.append(f"{path}:{node.lineno}: print")
            if isinstance(node, ast.ExceptHandler):
                caught = {each.id for each in ast.walk(node.type or node) if is_name(each)}
                if node.type is None or caught & {"Exception", "BaseException"}:
                    found.append(f"{path}:{node.lineno}: catches every exception")
        if not path.startswith("seqlab/"):
            continue
        if not ast.get_docstring(tree):
            found.append(f"{path}: no docstring")
        for node in tree.body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                found.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    return found


def is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def test_imports_follow_the_table():
    assert import_violations(ROOT) == []


def test_habits_are_kept():
    assert habit_violations(ROOT) == []


def test_the_tree_that_is_checked_is_this_one():
    assert "seqlab/runlog.py" in dict(sources(ROOT))


def tree_with(root: Path, path: str, text: str) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("seqlab/cells/rnn.py", "from seqlab.recurrence import unroll", "may not import recurr"),
        ("seqlab/cells/rnn.py", "from ..recurrence import unroll", "may not import recurrence"),
        ("seqlab/cells/rnn.py", "from seqlab import recurrence", "may not import recurrence"),
        ("seqlab/cells/rnn.py", "import seqlab.models.functional", "may not import models"),
        ("seqlab/cells/rnn.py", "def f():\n    import seqlab.models", "2: imports seqlab.models"),
        ("seqlab/models/functional.py", "from seqlab.gradflow import taps", "import gradflow"),
        ("seqlab/models/functional.py", "from seqlab.fast import lstm", "may not import fast"),
        ("seqlab/gradflow/taps.py", "from seqlab.models.functional import x", "import models"),
        ("seqlab/train.py", "import seqlab.models", "may not import models"),
        ("seqlab/losses.py", "import seqlab.train", "may not import train"),
        ("seqlab/cli.py", "from seqlab.models import x", "may not import models"),
        ("seqlab/recurrence.py", "from seqlab import unroll", "the module that defines it"),
        ("seqlab/recurrence.py", "import seqlab", "the module that defines it"),
        ("seqlab/recurrence.py", "from seqlab import *", "the module that defines it"),
        ("seqlab/novelty.py", "import os", "seqlab.novelty is not in the table"),
        ("seqlab/plots/style.py", "import jax.numpy as jnp", "plots is free of jax"),
        ("seqlab/metrics.py", "from jax import numpy", "metrics is free of jax"),
        ("seqlab/data/text.py", "def f():\n    import jax", "data is free of jax"),
        ("seqlab/data/text.py", "from seqlab.types import Array", "data may not import types"),
        ("seqlab/cells/rnn.py", "from flax import nnx", "only flax.struct"),
        ("seqlab/recurrence.py", "import flax", "only flax.struct"),
        ("seqlab/gradflow/taps.py", "import flax.linen as nn", "only flax.struct"),
        ("seqlab/cells/convert.py", "from flax import nnx", "only flax.struct"),
        ("seqlab/models/recurrent.py", "from flax.nnx import scan", "jax's transforms"),
        ("seqlab/models/recurrent.py", "from jax._src import core", "a private name"),
        ("seqlab/models/recurrent.py", "import experiments.a", "nothing imports experiments"),
        ("seqlab/__init__.py", "from tests import x", "nothing imports tests"),
        ("experiments/a.py", "from experiments.b import Config", "nothing imports experiments"),
        ("experiments/a.py", "from . import b", "nothing imports experiments"),
        ("experiments/benchmarks/a.py", "from ..b import run", "nothing imports experiments"),
        ("notebooks/a.py", "import experiments.a", "nothing imports experiments"),
        ("experiments/a.py", "import notebooks.a", "nothing imports notebooks"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, path, text, complaint):
    (found,) = import_violations(tree_with(tmp_path, path, text))
    assert found.startswith(path)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("seqlab/cells/lstm.py", "from flax import struct\nfrom seqlab.cells.affine import affine"),
        ("seqlab/cells/lstm.py", "from .affine import affine\nfrom seqlab.types import Array"),
        ("seqlab/cells/convert.py", "def from_flax(cell):\n    from flax import nnx"),
        ("seqlab/models/recurrent.py", "from flax import nnx\nfrom seqlab.recurrence import x"),
        ("seqlab/recurrence.py", "import flax.struct\nfrom seqlab.fast import lstm"),
        ("seqlab/gradflow/taps.py", "from seqlab.errors import InputError"),
        ("seqlab/plots/style.py", "import matplotlib\nfrom seqlab.runlog import read_run"),
        ("seqlab/__init__.py", "from seqlab.models.functional import functional"),
        ("experiments/a.py", "import seqlab\nfrom seqlab.train import steps\nimport jax"),
        ("tests/test_a.py", "from experiments.a import run"),
    ],
)
def test_an_allowed_import_passes(tmp_path, path, text):
    assert import_violations(tree_with(tmp_path, path, text)) == []


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("seqlab/a.py", "x = 1", "no docstring"),
        ("seqlab/a.py", '"""A."""\ndef f():\n    pass', "f has no docstring"),
        ("seqlab/a.py", '"""A."""\nclass F:\n    x = 1', "F has no docstring"),
        ("seqlab/a.py", '"""A."""\ndef _f():\n    print(1)', "3: print"),
        ("seqlab/a.py", '"""A."""\ntry:\n    x = 1\nexcept Exception:\n    x = 2', "catches every"),
        ("seqlab/a.py", '"""A."""\ntry:\n    x = 1\nexcept:\n    x = 2', "catches every"),
        (
            "seqlab/a.py",
            '"""A."""\ntry:\n    x = 1\nexcept (OSError, BaseException):\n    x = 2',
            "catches every",
        ),
        ("experiments/a.py", "from flax import nnx\nf = nnx.jit(g)", "nnx.jit: use jax.jit"),
    ],
)
def test_a_broken_habit_is_found(tmp_path, path, text, complaint):
    (found,) = habit_violations(tree_with(tmp_path, path, text))
    assert complaint in found


def test_good_habits_pass(tmp_path):
    text = (
        '"""A."""\n\ndef f(console):\n    """F."""\n    console.print(1)\n\ndef _g():\n'
        "    try:\n        return 1\n    except (OSError, ValueError):\n        return 2\n"
    )
    tree_with(tmp_path, "experiments/b.py", "print(1)")
    assert habit_violations(tree_with(tmp_path, "seqlab/a.py", text)) == []
