"""What truncation, clipping and long memory do to a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import band, cycle, darker, legend, new_figure, pick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]  # where a docstring says "band": (middle, low, high), each [...]
BAND = "median over nets and its 95 % bootstrap interval"


def truncation_bias(rows: Rows) -> Figure:
    """Angle, norm ratio and fall of the loss over k: a row of panels a data set, a line a cell.

    Args:
      rows: with dataset, cell, moment, reaches [K], angle_deg, norm_ratio and fall_share (bands
        over K), minibatch_angle_deg (a band).
    """
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    moments = list(dict.fromkeys(row["moment"] for row in rows))
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    figure, panels = new_figure(3, rows=len(datasets), width=11.0, height=3.1 * len(datasets) + 0.5)
    for place, dataset in enumerate(datasets):
        angle, ratio, fall = panels[3 * place : 3 * place + 3]
        for colour, cell in zip(cycle(cells), cells, strict=False):
            for moment, (marker, dash) in zip(moments, (("o", ":"), ("s", "-")), strict=False):
                (row,) = pick(rows, dataset=dataset, cell=cell, moment=moment)
                values = (row["angle_deg"], row["norm_ratio"], row["fall_share"])
                for axes, each in zip((angle, ratio, fall), values, strict=True):
                    band(axes, row["reaches"], *each, marker=marker, linestyle=dash, color=colour,
                         markersize=3.5, label=f"{cell}, {moment}")  # fmt: skip
                if moment == moments[-1]:
                    noise = row["minibatch_angle_deg"][0]
                    angle.axhline(noise, color=colour, linestyle=(0, (1, 3)), linewidth=1.0)
        for axes in (angle, ratio, fall):
            _powers_of_two(axes, rows[0]["reaches"])
            axes.set(xlabel="k, steps that the gradient reaches back")
        for axes in (ratio, fall):
            axes.axhline(1.0, color="grey", linewidth=0.7)
        angle.set(title=f"{dataset}: angle to the full one", ylabel="degrees", ylim=(-3, None))
        ratio.set(title=f"{dataset}: norm over the full one's", ylabel="ratio")
        fall.set(title=f"{dataset}: best fall of the loss", ylabel="share of the full one's")
        # Where the full gradient has nothing left to gain, a share of it is any number.
        fall.set_ylim(top=min(fall.get_ylim()[1], 2.0))
    legend(panels[0], ncols=1, fontsize=6.5)
    figure.suptitle(
        f"Gradient cut after k steps, recurrent layer: {BAND}\n"
        "thin dotted line: angle of the full gradient of a mini-batch, trained net"
    )
    return figure


def truncation_schemes(linear: Rows, schemes: Rows) -> Figure:
    """The linear net with its closed form; chunks beside a reach of its own for each loss.

    Args:
      linear: rows with decay, scheme, reaches, norm_ratio and expected [K].
      schemes: rows with dataset, cell, scheme, moment, reaches and angle_deg (a band over K); may
        be empty.
    """
    names = list(dict.fromkeys(row["scheme"] for row in linear))
    decays = list(dict.fromkeys(row["decay"] for row in linear))
    figure, panels = new_figure(
        len(names) + bool(schemes), width=3.4 * (len(names) + bool(schemes)) + 0.6, height=3.4
    )
    for axes, scheme in zip(panels, names, strict=False):
        for colour, decay in zip(cycle(decays), decays, strict=False):
            (row,) = pick(linear, scheme=scheme, decay=decay)
            axes.plot(row["reaches"], row["norm_ratio"], "o", color=colour, markersize=4.5,
                      label=rf"$\lambda={decay:g}$, measured")  # fmt: skip
            axes.plot(row["reaches"], row["expected"], "--", color=darker(colour), linewidth=1.2,
                      label="closed form")  # fmt: skip
        _powers_of_two(axes, linear[0]["reaches"])
        axes.set(title=f"linear net, {scheme}", xlabel="k, steps", ylim=(0, 1.05))
    panels[0].set(ylabel="norm ratio = cosine")
    legend(panels[0], loc="lower right")
    if schemes:
        axes = panels[-1]
        last = schemes[-1]["moment"]
        cells = list(dict.fromkeys(row["cell"] for row in schemes))
        kinds = {"chunks": ("o", "-", "chunks of k"), "sliding": ("^", ":", "k steps each")}
        for colour, cell in zip(cycle(cells), cells, strict=False):
            for kind, (marker, dash, words) in kinds.items():
                row = pick(schemes, cell=cell, scheme=kind, moment=last)[0]
                style = {"marker": marker, "linestyle": dash, "color": colour, "markersize": 3.5}
                band(axes, row["reaches"], *row["angle_deg"], label=f"{cell}, {words}", **style)
        _powers_of_two(axes, schemes[0]["reaches"])
        axes.set(title=f"{schemes[0]['dataset']}, {last}: angle", xlabel="k, steps",
                 ylabel="degrees", ylim=(-3, None))  # fmt: skip
        legend(axes, fontsize=6.5)
        figure.suptitle(f"Dashed in the linear panels: closed form. Last panel: {BAND}")
    return figure


def truncated_training(training: Rows, trained: Rows) -> Figure:
    """Held-out loss after training with each k, and the losses on the way: a row a data set.

    Args:
      training: rows with dataset, cell, step, reaches [K] and loss (a band over K).
      trained: the same after the last step, on held-out sequences; with baseline where there is
        one.
    """
    datasets = list(dict.fromkeys(row["dataset"] for row in trained))
    cells = list(dict.fromkeys(row["cell"] for row in trained))
    count = len(cells) + 1
    figure, panels = new_figure(
        count, rows=len(datasets), width=2.9 * count + 0.4, height=3.0 * len(datasets) + 0.5
    )
    for place, dataset in enumerate(datasets):
        after, *curves = panels[count * place : count * (place + 1)]
        for colour, cell in zip(cycle(cells), cells, strict=False):
            (row,) = pick(trained, dataset=dataset, cell=cell)
            band(
                after,
                row["reaches"],
                *row["loss"],
                marker="o",
                color=colour,
                label=cell,
                markersize=4,
            )
        is_task = "baseline" in row  # whose loss falls over decades
        if is_task:
            after.set_yscale("log")
            after.axhline(row["baseline"], color="black", linestyle="--", linewidth=1.0,
                          label="without memory")  # fmt: skip
        _powers_of_two(after, trained[0]["reaches"])
        after.set(title=f"{dataset}: held-out loss", xlabel="k trained with, steps",
                  ylabel="loss")  # fmt: skip
        for axes, cell in zip(curves, cells, strict=True):
            lines = pick(training, dataset=dataset, cell=cell)
            steps = [row["step"] for row in lines]
            losses = np.array([row["loss"] for row in lines])  # [steps, 3, K]
            reaches = lines[0]["reaches"]
            for i, (colour, reach) in enumerate(zip(cycle(reaches), reaches, strict=False)):
                band(axes, steps, *losses[..., i].T, color=colour, label=f"k = {reach}")
            axes.set(title=f"{dataset}, {cell}", xlabel="training step", ylabel="training loss")
            axes.set_yscale("log" if is_task else "linear")
        legend(curves[0])
        legend(after, fontsize=6.5)
    figure.suptitle(f"Trained with the gradient cut after k steps:\n{BAND}")
    return figure


def linear_sensitivity(rows: Rows) -> Figure:
    """Mean square sensitivity of linear units over memory: remedies, and correlated inputs.

    Args:
      rows: with remedy, correlation, decays, sensitivity and expected [decays].
    """
    remedies = list(dict.fromkeys(row["remedy"] for row in rows))
    correlations = list(dict.fromkeys(row["correlation"] for row in rows))
    cured = remedies[-2]
    figure, panels = new_figure(3, width=11.0, height=3.6)
    parts = (
        (
            f"inputs with correlation {correlations[0]:g}, by parametrisation",
            [(each, correlations[0]) for each in remedies],
        ),
        ("correlated inputs, no remedy", [(remedies[0], each) for each in correlations]),
        (f"correlated, {cured}", [(cured, each) for each in correlations]),
    )
    for axes, (title, lines) in zip(panels, parts, strict=True):
        for colour, (remedy, correlation) in zip(cycle(lines), lines, strict=False):
            (row,) = pick(rows, remedy=remedy, correlation=correlation)
            memory = 1.0 / (1.0 - np.asarray(row["decays"]))
            words = remedy if axes is panels[0] else rf"$\rho$ = {correlation:g}"
            axes.loglog(memory, row["sensitivity"], "o", color=colour, markersize=4.5, label=words)
            axes.loglog(memory, row["expected"], "--", color=darker(colour), linewidth=1.2)
        axes.plot([], [], "k--", linewidth=1.2, label="closed form")
        axes.set(title=title, xlabel=r"memory $1/(1-\lambda)$, steps")
        legend(axes, loc="upper left")
    panels[0].set(ylabel=r"mean square of $dh/d\theta$")
    return figure


def sensitivity_over_time(times: Rows, nets: Rows) -> Figure:
    """Linear nets on white noise over time, with theory; then all parameters of several cells.

    Args:
      times: rows with decay, state and sensitivity (bands over T), expected_state and expected [T],
        log_state_gradient [T].
      nets: rows with net and log_sensitivity (a band over T).
    """
    count = len(times) + 1
    figure, panels = new_figure(count, width=3.7 * count, height=3.6)
    for axes, row in zip(panels, times, strict=False):
        steps = np.arange(1, len(row["expected"]) + 1)
        parts = (
            ("sensitivity", row["sensitivity"], row["expected"], r"$|dh_t/dg|$"),
            ("state", row["state"], row["expected_state"], r"$|h_t|$"),
        )
        for colour, (_, values, expected, words) in zip(cycle(parts), parts, strict=False):
            band(
                axes, steps, *(_root(each) for each in values), color=colour, label=f"{words}, rms"
            )
            axes.plot(steps, _root(expected), "--", color=darker(colour), linewidth=1.1)
        fading = np.exp(np.asarray(row["log_state_gradient"])[::-1])
        axes.plot(steps, fading, color=cycle(range(3))[2], label=r"$\|dh_T/dh_{T-t}\|$, rms")
        axes.plot([], [], "k--", linewidth=1.1, label="closed form")
        top = np.sqrt(max(row["expected"]))
        axes.set_yscale("log")
        axes.set(title=rf"$W_h = {row['decay']:g}\,Q$, linear, white noise", ylim=(1e-3, 30 * top),
                 xlabel="t, steps")  # fmt: skip
        legend(axes, loc="upper left", fontsize=6.5, ncols=2)
    axes = panels[-1]
    for colour, row in zip(cycle(nets), nets, strict=False):
        steps = np.arange(1, len(row["log_sensitivity"][0]) + 1)
        band(axes, steps, *map(np.exp, row["log_sensitivity"]), color=colour, label=row["net"])
    axes.set_yscale("log")
    axes.set(title=r"$\|dh_t/d\theta\|_F$, all parameters", xlabel="t, steps")
    legend(axes, loc="lower right", fontsize=6.5)
    figure.suptitle("Bands: 95 % bootstrap interval over nets, of the mean (last panel: median)")
    return figure


def sensitivity_by_memory(nets: Rows, linear: Rows) -> Figure:
    """State gradient, state and relative sensitivity of nets whose memory one knob sets.

    Args:
      nets: rows with net, knobs [K], state, ratio and nats_per_step (bands over K).
      linear: rows of `linear_sensitivity`, with state; drawn dashed as a scale.
    """
    figure, (rate, size, relative) = new_figure(3, width=11.0, height=3.6)
    for colour, row in zip(cycle(nets), nets, strict=False):
        slope = row["nats_per_step"]
        style = {"marker": "o", "markersize": 4, "color": colour, "label": row["net"]}
        band(rate, row["knobs"], *slope, **style)
        fades = slope[0] < 0  # else there is no memory in steps to draw it at
        memory = 1.0 / -np.expm1(slope[0][fades])
        for axes, values in ((size, row["state"]), (relative, row["ratio"])):
            band(axes, memory, *(each[fades] for each in values), **style)
    rate.axhline(0.0, color="grey", linewidth=0.7)
    remedies = list(dict.fromkeys(row["remedy"] for row in linear))
    for dash, remedy in zip(("--", ":"), (remedies[0], remedies[-2]), strict=True):
        row = next(row for row in linear if row["remedy"] == remedy)
        decays = np.asarray(row["decays"])
        words = "linear" if remedy == remedies[0] else f"linear, {remedy}"
        for axes, values in (
            (size, np.asarray(row["state"])),
            (relative, np.asarray(row["expected"]) / np.asarray(row["state"])),
        ):
            axes.plot(1 / (1 - decays), values, dash, color="black", linewidth=1.2, label=words)
    for axes in (size, relative):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(xlabel="memory of the state gradient, steps")
    rate.set(title="state gradient", xlabel="bias, or gain", ylabel="nats per step")
    size.set(title=r"state, $E h^2$", ylabel="mean square")
    relative.set(title=r"sensitivity, $E(dh/d\theta)^2 / E h^2$", ylabel="ratio")
    legend(rate)
    relative.set_ylim(top=60 * relative.get_ylim()[1])
    legend(relative, loc="upper left", fontsize=6.5)
    figure.suptitle(f"How far h moves with what sets its memory: {BAND}")
    return figure


def _root(squares: Any) -> np.ndarray:
    """Square roots; a gap where there is nothing, which has no place on a log axis."""
    squares = np.asarray(squares, float)
    return np.sqrt(np.where(squares > 0, squares, np.nan))


def _powers_of_two(axes: Axes, reaches: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(reaches), [str(k) for k in reaches])
    axes.minorticks_off()
