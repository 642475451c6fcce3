"""Figures from plain arrays; computes nothing and imports no jax.

Norms come in as natural logs and are drawn as powers of ten, against steps before the loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LN10 = float(np.log(10.0))
# Okabe and Ito's colours, which readers with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}


class Curve(NamedTuple):
    """A log norm over time.

    Attributes:
      name: what the legend says.
      log_norm: natural log, [T], in order of time; NaN leaves a gap.
      low, high: a band, [T], or None.
      theory: name -> log norm [T], dashed on top.
      bounds: name -> log norm [T], dotted on top.
    """

    name: str
    log_norm: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    theory: Mapping[str, np.ndarray] | None = None
    bounds: Mapping[str, np.ndarray] | None = None


def gradient_curves(
    curves: Sequence[Curve], axes: Axes, title: str = "", *, before: str = "the loss"
) -> None:
    """log10 of a norm against steps before `before`, with bands, and theory drawn on top."""
    seen = []
    for colour, curve in zip(_cycle(curves), curves, strict=False):
        lag = _lags(curve.log_norm)
        axes.plot(lag, _log10(curve.log_norm), color=colour, label=curve.name, linewidth=1.8)
        seen.append(_log10(curve.log_norm))
        if curve.low is not None and curve.high is not None:
            low, high = _log10(curve.low), _log10(curve.high)
            axes.fill_between(lag, low, high, color=colour, alpha=0.18, lw=0)
            seen += [low, high]
        for style, lines in (("--", curve.theory), (":", curve.bounds)):
            for name, values in (lines or {}).items():
                axes.plot(
                    _lags(values), _log10(values), style, color=_darker(colour), label=name, lw=1.2
                )
    # The measured curves set the range: a bound may leave the page.
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    if values.size:
        margin = 0.06 * np.ptp(values) + 0.2
        axes.set(ylim=(values.min() - margin, values.max() + margin))
    axes.set(title=title, xlabel=f"steps before {before}", ylabel=r"$\log_{10}$ gradient norm")
    _legend(axes, loc="lower left")


def training_heatmap(
    training_steps: Sequence[int],
    log_norms: Mapping[str, np.ndarray],
    floor: float = -12.0,
    *,
    before: str = "the loss",
) -> Figure:
    """Training step x time step, one panel a cell: log10 of the norm, by colour.

    Args:
      training_steps: where the norms were measured, [P].
      log_norms: cell -> natural logs, [P, T].
      floor: log10 below which everything looks the same.
      before: what the time steps are counted back from.
    """
    figure, rows = _subplots(1, len(log_norms), width=3.4 * len(log_norms) + 0.8, height=3.2)
    values = {name: _log10(array) for name, array in log_norms.items()}
    finite = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    top = float(finite.max()) if finite.size else 0.0
    low = max(float(finite.min()), top + floor) if finite.size else floor
    edges = _edges(np.asarray(training_steps, float))
    image = None
    for axes, (name, array) in zip(rows, values.items(), strict=True):
        lag_edges = np.arange(array.shape[1] + 1) - 0.5
        image = axes.pcolormesh(
            lag_edges, edges, array[:, ::-1], vmin=low, vmax=top, cmap="magma", rasterized=True
        )
        axes.set(title=name, xlabel=f"steps before {before}", ylabel="training step")
        axes.set_facecolor("black")  # where nothing is left of the gradient in its precision
        axes.grid(visible=False)
    if image is not None:
        bar = figure.colorbar(image, ax=list(rows))
        bar.set_label(r"$\log_{10}\,\|dL/dh_t\|$")
    return figure


def path_curves(
    parts: Mapping[str, np.ndarray], axes: Axes, title: str = "", *, before: str = "the loss"
) -> None:
    """Total against direct, gate by gate: name -> natural log norm [T]."""
    colours = iter(COLOURS)
    for name in sorted(parts, key=lambda name: (name != "total", name != "direct", name)):
        values = parts[name]
        is_main = name in ("total", "direct")
        axes.plot(
            _lags(values),
            _log10(values),
            color="black" if name == "total" else next(colours),
            linestyle="--" if name == "direct" else "-",
            linewidth=2.0 if is_main else 1.0,
            label=name if is_main else f"left through {name}",
        )
    axes.set(title=title, xlabel=f"steps before {before}", ylabel=r"$\log_{10}$ gradient norm")
    _legend(axes, loc="lower left")


def share_curves(
    shares: Mapping[str, np.ndarray], axes: Axes, title: str = "", *, before: str = "the loss"
) -> None:
    """Each step's share of a weight gradient, cell -> natural log of the ratio [T]."""
    for colour, (name, values) in zip(_cycle(shares), shares.items(), strict=False):
        axes.plot(_lags(values), _log10(values), color=colour, label=name, linewidth=1.6)
    axes.axhline(0.0, color="grey", linewidth=0.7)
    axes.set(
        title=title,
        xlabel=f"steps before {before}",
        ylabel=r"$\log_{10}\;\|dL/dW^{(t)}\| \,/\, \|dL/dW\|$",
    )
    _legend(axes, loc="lower left")


def singular_spectra(
    lags: Sequence[int],
    spectra: Mapping[str, np.ndarray],
    theory: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Every singular value of d carry_T / d carry_{T-lag} over lag, one panel a cell.

    Args:
      lags: [L].
      spectra: cell -> natural logs, [L, S], largest first.
      theory: cell -> a line over lag, [L], or nothing.
    """
    figure, rows = _subplots(1, len(spectra), width=3.4 * len(spectra), height=3.2)
    for colour, axes, (name, values) in zip(_cycle(spectra), rows, spectra.items(), strict=False):
        axes.plot(lags, _log10(values), color=colour, linewidth=0.5, alpha=0.55)
        if theory and name in theory:
            axes.plot(
                lags, _log10(theory[name]), "--", color="black", linewidth=1.2, label="mean field"
            )
            _legend(axes, loc="lower left")
        axes.axhline(0.0, color="grey", linewidth=0.7)
        axes.set(title=name, xlabel="lag (steps)", ylabel=r"$\log_{10}$ singular values")
    return figure


def phase_diagram(
    phase: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]]
) -> Figure:
    """Growth rate over gain, per initialisation: by input strength as a map, and as curves.

    Args:
      phase: rows with init, input_std, gains [G] and nats_per_step [G, seeds].
      fields: rows with input_std, gains and nats_per_step [G] of the theory; may be empty.
    """
    kinds = list(dict.fromkeys(row["init"] for row in phase))
    stds = [row["input_std"] for row in phase if row["init"] == kinds[0]]
    gains = np.asarray(phase[0]["gains"])
    figure, panels = _subplots(1, len(kinds) + 1, width=3.5 * (len(kinds) + 1), height=3.3)
    rates = {
        kind: np.array([np.median(row["nats_per_step"], axis=1) for row in pick(phase, init=kind)])
        for kind in kinds
    }
    theory = np.array([row["nats_per_step"] for row in fields])
    finite = np.concatenate([np.ravel(values[np.isfinite(values)]) for values in rates.values()])
    limit = float(np.max(np.abs(finite), initial=1e-3))
    rows = np.arange(len(stds))
    for axes, (kind, values) in zip(panels, rates.items(), strict=False):
        image = axes.pcolormesh(
            _edges(gains),
            _edges(rows.astype(float)),
            values,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
        )
        if len(stds) > 1 and len(gains) > 1:
            axes.contour(gains, rows, values, levels=[0.0], colors="black", linewidths=1.4)
            if theory.size:
                axes.contour(
                    gains,
                    rows,
                    theory,
                    levels=[0.0],
                    colors="black",
                    linewidths=1.4,
                    linestyles="--",
                )
        axes.set_yticks(rows, [f"{std:g}" for std in stds])
        axes.set(title=f"{kind} W_h", xlabel="recurrent gain g", ylabel="input std")
        axes.grid(visible=False)
    figure.colorbar(image, ax=list(panels[: len(kinds)]), label="growth rate, nats per step")

    axes = panels[-1]
    shown = sorted({0, len(stds) // 2, len(stds) - 1})
    for colour, i in zip(_cycle(shown), shown, strict=False):
        for marker, kind in zip("os^v", kinds, strict=False):
            seeds = np.asarray(pick(phase, init=kind)[i]["nats_per_step"])
            axes.plot(gains, np.median(seeds, axis=1), marker, color=colour, markersize=3.5,
                      label=f"{kind}, std {stds[i]:g}")  # fmt: skip
            axes.fill_between(
                gains, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.15, lw=0
            )
        if theory.size:
            axes.plot(gains, theory[i], "--", color=_darker(colour), linewidth=1.2,
                      label=f"mean field, std {stds[i]:g}")  # fmt: skip
    axes.axhline(0.0, color="grey", linewidth=0.7)
    axes.set(title="growth rate", xlabel="recurrent gain g", ylabel="nats per step")
    _legend(axes, fontsize=6.5)
    return figure


def clipping(training: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, gradient norm before clipping, and clip rate while training, by kind of update.

    Args:
      training: rows with step, updates (a name), and loss, grad_norm and clipped by seed.
    """
    names = list(dict.fromkeys(row["updates"] for row in training))
    figure, (loss, norm, rate) = _subplots(1, 3, width=10.2, height=3.1)
    for colour, name in zip(_cycle(names), names, strict=False):
        rows = pick(training, updates=name)
        step = np.array([row["step"] for row in rows])
        for axes, key in ((loss, "loss"), (norm, "grad_norm")):
            values = np.array([row[key] for row in rows])
            axes.plot(step, np.nanmedian(values, axis=1), color=colour, label=name, linewidth=1.3)
            axes.fill_between(
                step,
                np.nanmin(values, axis=1),
                np.nanmax(values, axis=1),
                color=colour,
                alpha=0.15,
                lw=0,
            )
        clipped = np.array([np.mean(row["clipped"]) for row in rows])
        rate.plot(step, np.cumsum(clipped) / step, color=colour, label=name, linewidth=1.3)
    norms = np.concatenate([np.ravel(row["grad_norm"]) for row in training]).astype(float)
    if np.any(np.isfinite(norms) & (norms > 0)):
        norm.set_yscale("log")
    loss.set(title="loss: median and range over seeds", xlabel="training step", ylabel="nats")
    norm.set(title="gradient norm before clipping", xlabel="training step", ylabel="global norm")
    rate.set(title="share of updates clipped so far", xlabel="training step", ylim=(-0.03, 1.03))
    _legend(loss)
    return figure


def error_wall(wall: Mapping[str, Any], borders: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Error and gradient norm of the one-unit net over w and b, with the theory on top.

    Args:
      wall: w [N], b [N], error and grad_norm [N over b, N over w].
      borders: name -> w and b of a curve.
    """
    figure, panels = _subplots(1, 2, width=9.4, height=3.6)
    w, b = np.asarray(wall["w"]), np.asarray(wall["b"])
    norm = np.log10(np.maximum(np.asarray(wall["grad_norm"], float), 1e-12))
    titles = ("error", r"$\log_{10}$ gradient norm")
    for axes, values, title in zip(panels, (np.asarray(wall["error"]), norm), titles, strict=True):
        image = axes.pcolormesh(_edges(w), _edges(b), values, cmap="viridis", rasterized=True)
        figure.colorbar(image, ax=axes, label=title)
        for (name, line), style in zip(borders.items(), ("--", ":"), strict=False):
            axes.plot(line["w"], line["b"], style, color="white", linewidth=1.3, label=name)
        axes.set(
            xlim=(w[0], w[-1]), ylim=(b[0], b[-1]), xlabel="w", ylabel="b",
            title=r"$x_t = w\,\sigma(x_{t-1}) + b$, 50 steps: " + title,
        )  # fmt: skip
        axes.grid(visible=False)
        _legend(axes, labelcolor="white", loc="upper right")
    return figure


def training_curves(
    losses: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    steps: Sequence[int],
    norms: Sequence[Mapping[str, Mapping[str, float]]],
) -> Figure:
    """Losses over training, and norms of gradient, parameters and updates by group.

    Args:
      losses: name -> (steps, losses in nats).
      steps: of the norms.
      norms: at each, {"grad": {group: norm}, "param": ..., "update": ...}.
    """
    titles = {"grad": "gradient", "param": "parameters", "update": "update"}
    figure, (loss, *panels) = _subplots(1, 4, width=12.5, height=3.2)
    for colour, (name, (places, values)) in zip(_cycle(losses), losses.items(), strict=False):
        marker = "o" if len(places) < 30 else None
        loss.plot(places, values, color=colour, label=name, marker=marker, markersize=3)
    loss.set(title="loss", xlabel="step", ylabel="nats per token")
    _legend(loss)
    for axis, (what, title) in zip(panels, titles.items(), strict=True):
        groups = norms[0][what] if norms else {}
        for colour, group in zip(_cycle(groups), groups, strict=False):
            values = [row[what][group] for row in norms]
            axis.semilogy(steps, values, color=colour, label=group, linewidth=1.0)
        axis.set(title=f"norm of the {title}", xlabel="step")
        _legend(axis)
    return figure


def time_ratios(
    sizes: Sequence[str],
    ratios: Mapping[str, Mapping[str, Sequence[float]]],
    reference: str,
    *,
    filled: Collection[str] = (),
    dashes: Collection[str] = (),
) -> Figure:
    """How many times as long as a reference each variant takes, one panel a cell.

    Args:
      sizes: what was timed, along x.
      ratios: cell -> variant -> one ratio a size; NaN leaves a gap.
      reference: the name of what the line at 1 stands for.
      filled, dashes: variants with filled markers, and with dashes in place of markers.
    """
    from matplotlib.ticker import LogLocator

    width = (0.5 * len(sizes) + 0.9) * len(ratios) + 1.4
    figure, panels = _subplots(1, len(ratios), width=max(width, 6.4), height=3.6)
    names = list(dict.fromkeys(name for variants in ratios.values() for name in variants))
    marked = [name for name in names if name not in dashes]
    # Side by side within a size, so that equal ratios do not hide each other.
    offsets = dict(zip(marked, np.linspace(-0.3, 0.3, max(len(marked), 2)), strict=False))
    colours = dict(zip(marked, _cycle(marked), strict=True))
    places = np.arange(len(sizes))
    for axes, (cell, variants) in zip(panels, ratios.items(), strict=True):
        axes.axhline(1.0, color="black", linewidth=0.9, label=reference)
        for style, name in zip((":", "--", "-."), dashes, strict=False):
            if name in variants:
                values = np.asarray(variants[name], float)
                axes.hlines(values, places - 0.4, places + 0.4, color="grey", linestyle=style,
                            linewidth=1.2, label=name)  # fmt: skip
        for marker, name in zip(itertools.cycle("os^DvP<X>*"), marked, strict=False):
            if name in variants:
                axes.plot(
                    places + offsets[name],
                    variants[name],
                    marker,
                    color=colours[name],
                    markerfacecolor=colours[name] if name in filled else "none",
                    markersize=4.5,
                    label=name,
                )
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(places, sizes, rotation=35, ha="right", fontsize=7.5)
        axes.set(title=cell, ylabel=f"time / time of {reference}", xlim=(-0.6, len(sizes) - 0.4))
        axes.grid(visible=False, axis="x")
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", fontsize=7.5, frameon=False
    )
    return figure


def new_figure(
    columns: int, *, width: float, height: float, rows: int = 1
) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels in the house style, row after row."""
    return _subplots(rows, columns, width=width, height=height)


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


def _subplots(rows, columns, *, width, height):
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    return figure, list(axes.flat)


def _legend(axes, **style):
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(**{"fontsize": 7.5, "frameon": False, **style})


def _log10(log_norm):
    return np.asarray(log_norm, float) / LN10


def _lags(log_norm):
    return np.arange(len(log_norm))[::-1]


def _cycle(items):
    return [COLOURS[i % len(COLOURS)] for i in range(len(items))]


def _darker(colour):
    from matplotlib.colors import to_rgb

    return tuple(0.6 * part for part in to_rgb(colour))


def _edges(centres):
    """Borders of cells around increasing centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(
        [[centres[0] - (middle[0] - centres[0])], middle, [2 * centres[-1] - middle[-1]]]
    )
