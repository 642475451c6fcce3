"""The house style, and what every figure is made and saved with."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LN10 = float(np.log(10.0))
# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>P*X"
HIDDEN = {"\n": "\\n", "\t": "\\t", " ": "\N{OPEN BOX}"}  # what cannot be seen, shown
# Fonts with Hangul, and mostly with Chinese characters and kana too, as systems call them.
WIDE_FONTS = ("Noto Sans CJK KR", "Noto Sans KR", "Noto Sans CJK JP", "NanumGothic",
              "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic", "UnDotum", "Baekmuk Dotum",
              "Droid Sans Fallback", "Arial Unicode MS")  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}


def new_figure(
    columns: int, *, width: float, height: float, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure with panels in the house style, row after row."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    return figure, list(axes.flat)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all, and closes it."""
    import matplotlib.pyplot as plt

    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format=path.suffix.lstrip("."), dpi=200)
    partial.replace(path)
    plt.close(figure)


def pick(metrics: Sequence[Mapping[str, Any]], **fields: Any) -> list[Mapping[str, Any]]:
    """The metric lines that have all of these values."""
    return [row for row in metrics if all(row.get(name) == value for name, value in fields.items())]


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    middle: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    **style: Any,
) -> None:
    """A line [X] and the band between `low` and `high` around it, in the line's colour."""
    (line,) = axes.plot(x, middle, **{"linewidth": 1.5, **style})
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.18, lw=0)


def legend(axes: Axes, **style: Any) -> None:
    """The legend of a panel, where it has anything to tell."""
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(**{"fontsize": 7.5, "frameon": False, **style})


def shared_legend(figure: Figure, axes: Sequence[Axes], *, below: bool = False) -> None:
    """One legend for all panels, beside them or below, in as few lines as the width allows."""
    handles: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place: dict[str, Any] = {"loc": "outside right center", "fontsize": 7.5}
    if below:
        widest = 0.6 + 0.062 * max(map(len, handles), default=0)  # inches of an entry, in this size
        columns = max(1, int(figure.get_figwidth() / widest))
        lines = -(-len(handles) // columns)
        place = {"loc": "outside lower center", "fontsize": 8, "ncols": -(-len(handles) // lines)}
    figure.legend(handles.values(), handles.keys(), frameon=False, **place)


@cache
def fonts() -> tuple[str, ...]:
    """Names of the fonts that texts of data are drawn in, by the first that has the character."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return ("DejaVu Sans", *[name for name in WIDE_FONTS if name in known][:1])


@cache
def _drawable() -> frozenset[int]:
    """Code points that `fonts` have."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    found = [get_font(findfont(FontProperties(family=name))) for name in fonts()]
    return frozenset(code for font in found for code in font.get_charmap())


def readable(text: str) -> str:
    """A text of data as it can be drawn: blanks and line ends seen, characters of no font spelt.

    A Hangul syllable that no font of this machine has is spelt in Latin letters, as Unicode names
    it; another character by its code point.
    """
    return "".join(
        HIDDEN.get(char) or (char if ord(char) in _drawable() else _spelt(char)) for char in text
    )


def _spelt(char: str) -> str:
    name = unicodedata.name(char, "")
    if name.startswith("HANGUL SYLLABLE "):
        return name.removeprefix("HANGUL SYLLABLE ").lower()
    return f"U+{ord(char):04X}"


def log10(log_norm: Any) -> np.ndarray:
    """From natural logs to powers of ten, [...]."""
    return np.asarray(log_norm, float) / LN10


def lags(log_norm: Sequence[float] | np.ndarray) -> np.ndarray:
    """Steps before the last, T-1 ... 0, of a curve [T]."""
    return np.arange(len(log_norm))[::-1]


def cycle(items: Any) -> list[str]:
    """A colour for each of `items`."""
    return [COLOURS[i % len(COLOURS)] for i in range(len(items))]


def darker(colour: str) -> tuple[float, ...]:
    """The same colour, of which less light comes."""
    from matplotlib.colors import to_rgb

    return tuple(0.6 * part for part in to_rgb(colour))


def lighter(colour: str) -> tuple[float, ...]:
    """The same colour, most of the way to white."""
    from matplotlib.colors import to_rgb

    return tuple(1 - 0.22 * (1 - part) for part in to_rgb(colour))


def edges(centres: np.ndarray) -> np.ndarray:
    """Borders [N + 1] of cells around increasing centres [N]."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(
        [[centres[0] - (middle[0] - centres[0])], middle, [2 * centres[-1] - middle[-1]]]
    )
