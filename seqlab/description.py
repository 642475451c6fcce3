"""What a cell or a model is made of: its equations and the arrays that it learns."""

import dataclasses
import html
import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

STAND_IN = 7919  # a width that nothing else has, put where D will stand


@dataclass(frozen=True)
class Description:
    """What `describe` found; prints and shows itself.

    Attributes:
      title: the cell or model with the fields that are not as by default.
      about: first paragraph of its docstring, and the equations that follow, if there are any.
      arrays: name -> shape, with "D" for the width of the input of a cell.
      carry: name -> shape of what a cell keeps from step to step; empty for a model.
      size: how many numbers are learned: of a cell as "a D + b".
    """

    title: str
    about: str
    arrays: dict[str, tuple[int | str, ...]]
    carry: dict[str, tuple[int | str, ...]]
    size: str

    def __str__(self) -> str:
        rows = [*self.arrays.items(), *((f"carry {name}", at) for name, at in self.carry.items())]
        width = max((len(name) for name, _ in rows), default=0)
        body = (f"  {name:<{width}}  {_shape(shape)}" for name, shape in rows)
        head = [self.title, self.about, ""] if self.about else [self.title]
        return "\n".join([*head, *body, f"  {self.size} parameters"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The same as a heading, its equations and a table, for a notebook."""
        rows = [(name, _shape(shape), "learned") for name, shape in self.arrays.items()]
        rows += [(name, _shape(shape), "carry") for name, shape in self.carry.items()]
        cells = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{html.escape(x)}</td>' for x in row)
            for row in rows
        )
        about = f"<pre>{html.escape(self.about)}</pre>" if self.about else ""
        return (
            f"<b>{html.escape(self.title)}</b>{about}"
            f"<table><tr><th>array</th><th>shape</th><th></th></tr>{cells}</table>"
            f"{html.escape(self.size)} parameters"
        )


def describe(subject: Any, input_size: int | None = None) -> Description:
    """The equations of a cell or model, the shapes of its arrays, how many numbers it learns.

    Nothing is computed: shapes come from tracing `init`.

        >>> from seqlab import GRU, describe
        >>> print(describe(GRU(4, reset="after")).size)
        12 D + 64

    Args:
      subject: any cell, one of your own too, or what `functional` returns.
      input_size: D, where a cell is to be described for one; None leaves it open, or takes H where
        the cell needs the two to be alike.

    Raises:
      TypeError: for what is neither a cell nor a model.
    """
    if not hasattr(subject, "init"):
        raise TypeError(f"describe: expected a cell or a model, got {type(subject).__name__}")
    key = jax.eval_shape(lambda: jax.random.key(0))
    if not hasattr(subject, "initial_carry"):
        arrays = _shapes(jax.eval_shape(subject.init, key))
        return Description(repr(subject), "", arrays, {}, f"{_count(arrays):,}")

    def learned(width):
        params = jax.eval_shape(lambda k: subject.init(k, width), key)
        carry = jax.eval_shape(lambda p: subject.initial_carry(p), params)
        return _shapes(params), _shapes(carry)

    title, about = _title(subject), _about(type(subject))
    if input_size is None:
        try:
            arrays, carry = learned(STAND_IN)
            wider, _ = learned(STAND_IN + 1)
        except ValueError:  # a cell whose input is as wide as its state
            input_size = subject.hidden_size
        else:
            slope = _count(wider) - _count(arrays)
            size = f"{slope:,} D + {_count(arrays) - slope * STAND_IN:,}"
            open_ = {
                name: tuple("D" if extent == STAND_IN else extent for extent in shape)
                for name, shape in arrays.items()
            }
            return Description(title, about, open_, carry, size)
    arrays, carry = learned(input_size)
    return Description(title, about, arrays, carry, f"{_count(arrays):,}")


def as_html(self: Any) -> str:
    """For a cell of one's own: `_repr_html_ = as_html` in its class shows it in a notebook."""
    return describe(self)._repr_html_()


def call_text(maker: Callable, args: tuple, kwargs: dict[str, Any]) -> str:
    """`maker(*args, **kwargs)` as it was written, cells with the fields that matter."""
    given = [_title(value) for value in args]
    given += [f"{name}={_title(value)}" for name, value in kwargs.items()]
    return f"{maker.__name__}({', '.join(given)})"


def _title(value: Any) -> str:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    fields = [
        f"{field.name}={_title(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if field.repr and getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(fields)})"


def _about(kind: type) -> str:
    """First paragraph of a docstring, and the indented ones that come right after it."""
    if kind.__doc__ is None or kind.__doc__.startswith(f"{kind.__name__}("):
        return ""  # no docstring, or the signature that `dataclass` puts in its place
    first, *rest = inspect.cleandoc(kind.__doc__).split("\n\n")
    equations = []
    for paragraph in rest:
        if not paragraph.startswith("    "):
            break
        equations.append(textwrap.dedent(paragraph))
    return "\n\n".join([first, *equations])


def _shapes(tree: Any) -> dict[str, tuple[int | str, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "h": leaf.shape
        for path, leaf in leaves
    }


def _count(arrays: dict[str, tuple[Any, ...]]) -> int:
    return sum(math.prod(shape) for shape in arrays.values())


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
