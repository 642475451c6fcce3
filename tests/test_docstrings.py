"""What can be held of docstrings by reading the source: that they are there, errors, sources.

The checker itself is tested on small wrong modules, so that it is known to fail where it must.
"""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqlab
from seqlab.cells.lookup import CELLS

ROOT = Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
ERRORS = {"InputError"} | {name for name in dir(builtins) if name.endswith("Error")}
ABSTRACT = "NotImplementedError"  # a method that is there to be overridden
CALLED = {"__init__", "__post_init__", "__call__"}  # special methods that a user's call runs


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All that a function runs itself: its body without the functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, SCOPES):
            yield child
            yield from own_nodes(child)


def called(node: ast.AST | None) -> str:
    """The last name of what is called or named: `InputError` of `errors.InputError(...)`."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def names_in(node: ast.AST | None) -> set[str]:
    return {called(each) for each in ast.walk(node)} - {""} if node else set()


def raised(function: ast.AST) -> set[str]:
    """The errors by name that a body raises, and does not catch itself on the spot."""
    caught = set()
    for each in own_nodes(function):
        if isinstance(each, ast.Try):
            names = {name for handler in each.handlers for name in names_in(handler.type)}
            for inner in (node for part in each.body for node in (part, *own_nodes(part))):
                if isinstance(inner, ast.Raise) and called(inner.exc) in names:
                    caught.add(inner)
    found = {
        called(each.exc)
        for each in own_nodes(function)
        if isinstance(each, ast.Raise) and each not in caught
    }
    return (found & ERRORS) - {ABSTRACT}


def public(body: list[ast.stmt]) -> Iterator[tuple[str, ast.AST, ast.ClassDef | None]]:
    """The public functions, classes and methods of a module: (name, node, its class)."""
    for node in body:
        if isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
            yield node.name, node, None
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node, None
            for method in node.body:
                if isinstance(method, FUNCTIONS):
                    if method.name in CALLED or not method.name.startswith("_"):
                        yield f"{node.name}.{method.name}", method, node


def told(node: ast.AST, owner: ast.ClassDef | None) -> str:
    """What the docstrings say of errors: a section "Raises:", or a first line that does."""
    texts = [ast.get_docstring(node) or ""]
    if owner is not None and node.name in ("__init__", "__post_init__"):
        texts.append(ast.get_docstring(owner) or "")
    found = []
    for text in texts:
        section = text.partition("\nRaises:\n")[2].split("\n\n")[0]
        first = text.partition("\n")[0]
        found.append(section + (first if "aises `" in first else ""))
    return "\n".join(found)


def violations(path: str, tree: ast.Module, checks: set[str]) -> list[str]:
    """One line for each public name that lacks a docstring, or an error in its "Raises:".

    Args:
      path: how the module is called.
      tree: of the module.
      checks: functions called `check_...` that raise `InputError`: a call is as good as a raise.
    """
    found = []
    for name, node, owner in public(tree.body):
        where = f"{path}:{node.lineno}: {name}"
        # Methods are described once, by the protocol or the base class: ruff's D102 is off too.
        if owner is None and not ast.get_docstring(node):
            found.append(f"{where} has no docstring")
        if isinstance(node, ast.ClassDef):
            continue
        errors = raised(node)
        calls = {called(each) for each in own_nodes(node) if isinstance(each, ast.Call)}
        if calls & checks:
            errors = errors | {"InputError"}
        text = told(node, owner)
        missing = sorted(error for error in errors if error not in text)
        if missing:
            found.append(f"{where} raises {', '.join(missing)}, which its docstring does not name")
    return found


def modules() -> dict[str, ast.Module]:
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "seqlab").rglob("*.py"))
    }


def checkers(trees: dict[str, ast.Module]) -> set[str]:
    """The house's functions `check_...` that raise `InputError`."""
    return {
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, FUNCTIONS)
        and node.name.startswith("check_")
        and "InputError" in raised(node)
    }


def test_public_names_are_described_and_their_errors_told():
    trees = modules()
    checks = checkers(trees)
    assert {"check_fields", "check_known", "check_at_least"} <= checks
    assert [line for path, tree in trees.items() for line in violations(path, tree, checks)] == []


def exported_cells() -> dict[str, type]:
    """The classes among the public names, and in `CELLS`, that are cells."""
    found = {name: getattr(seqlab, name) for name in seqlab.__all__}
    found |= {name: getattr(made, "func", made) for name, made in CELLS.items()}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and value.__module__.startswith("seqlab.cells.")
        if all(hasattr(value, method) for method in ("init", "initial_carry", "step", "output"))
    }


def test_every_cell_has_its_equations_errors_and_source():
    cells = exported_cells()
    assert {"LSTM", "GRU", "RNN", "LRU", "ORNN", "lstm"} <= set(cells)
    for name, cell in cells.items():
        text = cell.__doc__
        # The state after a step, by whatever letter.
        assert any(f"{each}' = " in text for each in "hsay"), f"{name}: no equation"
        for section in ("Attributes:", "hidden_size", "References:"):
            assert section in text, f"{name}: no {section}"
        references = text.partition("References:")[2]
        assert any(str(year) in references for year in range(1950, 2040)), f"{name}: no year"


def test_every_public_name_of_seqlab_has_a_docstring():
    for name in seqlab.__all__:
        text = getattr(seqlab, name).__doc__
        assert text, f"{name} has no docstring"
        assert not text.startswith(f"{name}("), f"{name} has the one that dataclass made"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def f():\n    return 1", "f has no docstring"),
        ("class F:\n    x = 1", "F has no docstring"),
        ('def f():\n    """F."""\n    raise ValueError("x")', "f raises ValueError"),
        ('def f():\n    """F raises an error."""\n    raise ValueError', "f raises ValueError"),
        ('def f():\n    """F."""\n    if x:\n        raise errors.InputError("x")', "InputError"),
        (
            'def f():\n    """F.\n\n    Raises:\n      ValueError: no.\n    """\n'
            "    if x:\n        raise ValueError\n    raise InputError",
            "f raises InputError",
        ),
        (
            'def f():\n    """F.\n\n    Raises:\n      KeyError: no.\n\n    A ValueError is kept.\n'
            '    """\n    raise ValueError',
            "f raises ValueError",
        ),
        ('def f():\n    """F."""\n    check_known(1, 2, 3)', "f raises InputError"),
        (
            'class F:\n    """F."""\n\n    def g(self):\n        """G."""\n        raise TypeError',
            "F.g raises TypeError",
        ),
        (
            'class F:\n    """F."""\n\n    def __post_init__(self):\n        raise InputError',
            "F.__post_init__ raises InputError",
        ),
        (
            'def f():\n    """F."""\n    try:\n        g()\n    except ValueError as error:\n'
            "        raise InputError from error",
            "f raises InputError",
        ),
    ],
)
def test_what_is_missing_is_found(text, complaint):
    (found,) = violations("a.py", ast.parse(text), {"check_known"})
    assert complaint in found


@pytest.mark.parametrize(
    "text",
    [
        "def _f():\n    raise ValueError",
        "class _F:\n    def g(self):\n        raise ValueError",
        'def f():\n    """F.\n\n    Raises:\n      ValueError: no.\n    """\n    raise ValueError',
        'def check_f():\n    """Raises `InputError` where it must."""\n    raise InputError',
        'def f():\n    """F."""\n\n    def g():\n        raise ValueError\n\n    return g',
        'def f():\n    """F."""\n    raise NotImplementedError',
        'class F:\n    """F."""\n\n    def g(self):\n        return 1',
        (
            'class F:\n    """F.\n\n    Raises:\n      InputError: no.\n    """\n\n'
            "    def __post_init__(self):\n        check_known(1, 2, 3)"
        ),
        (
            'def f():\n    """F."""\n    try:\n        raise ValueError\n'
            "    except (KeyError, ValueError):\n        return 1"
        ),
    ],
)
def test_what_is_described_passes(text):
    assert violations("a.py", ast.parse(text), {"check_known"}) == []
