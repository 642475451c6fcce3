"""When gradients explode, and what clipping does: phase diagram, angles, training, the wall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import COLOURS, band, cycle, darker, edges, legend, new_figure, pick

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure, panels = new_figure(len(kinds) + 1, width=3.5 * (len(kinds) + 1), height=3.3)
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
            edges(gains),
            edges(rows.astype(float)),
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
    for colour, i in zip(cycle(shown), shown, strict=False):
        for marker, kind in zip("os^v", kinds, strict=False):
            seeds = np.asarray(pick(phase, init=kind)[i]["nats_per_step"])
            axes.plot(gains, np.median(seeds, axis=1), marker, color=colour, markersize=3.5,
                      label=f"{kind}, std {stds[i]:g}")  # fmt: skip
            axes.fill_between(
                gains, seeds.min(axis=1), seeds.max(axis=1), color=colour, alpha=0.15, lw=0
            )
        if theory.size:
            axes.plot(gains, theory[i], "--", color=darker(colour), linewidth=1.2,
                      label=f"mean field, std {stds[i]:g}")  # fmt: skip
    axes.axhline(0.0, color="grey", linewidth=0.7)
    axes.set(title="growth rate", xlabel="recurrent gain g", ylabel="nats per step")
    legend(axes, fontsize=6.5)
    return figure


def clip_angles(angles: Sequence[Mapping[str, Any]], theory: Mapping[str, Any]) -> Figure:
    """Angle between raw and clipped gradient over the threshold.

    Args:
      angles: rows with clipping (a name), ratios [R] and angle_deg, (middle, low, high) each [R].
      theory: ratios and angle_deg [R] of value clipping of a Gaussian gradient.
    """
    figure, (axes,) = new_figure(1, width=5.4, height=3.8)
    for colour, marker, row in zip(cycle(angles), "os^v", angles, strict=False):
        band(axes, row["ratios"], *row["angle_deg"], color=colour, marker=marker, markersize=4,
             label=row["clipping"])  # fmt: skip
    axes.plot(theory["ratios"], theory["angle_deg"], "k--", linewidth=1.2,
              label="value, Gaussian: closed form")  # fmt: skip
    signs = np.degrees(np.arccos(np.sqrt(2.0 / np.pi)))
    axes.axhline(signs, color="black", linestyle=":", linewidth=1.0,
                 label=f"its vector of signs, {signs:.2f} degrees")  # fmt: skip
    axes.set_xscale("log")
    axes.set(
        xlabel="threshold, over the entries' rms (value), the norm (norm),\n"
        "or the unit's weights (unit-wise)",
        ylabel="angle to the raw gradient, degrees",
        title="Direction error of clipping\nmedian over nets and its 95 % bootstrap interval",
    )
    axes.set_ylim(-3, 1.75 * axes.get_ylim()[1])
    legend(axes, loc="upper right", fontsize=6.5)
    return figure


def clipping(
    training: Sequence[Mapping[str, Any]], figures: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Loss and gradient norm while training by kind of clipping, and what came of every kind.

    Args:
      training: rows with step, updates (a name), loss and grad_norm, (middle, low, high) each.
      figures: name -> loss_nats, loss_low, loss_high, clip_rate and angle_deg.
    """
    names = list(figures)
    shown = [name for name in names if "average" not in name]
    figure, (loss, norm, last, rate) = new_figure(2, rows=2, width=10.4, height=6.4)
    for colour, name in zip(cycle(shown), shown, strict=False):
        rows = pick(training, updates=name)
        step = [row["step"] for row in rows]
        for axes, key in ((loss, "loss"), (norm, "grad_norm")):
            middle, low, high = np.array([row[key] for row in rows], float).T
            band(axes, step, middle, low, high, color=colour, label=name, linewidth=1.3)
    norm.set_yscale("log")
    loss.set(title="training loss", xlabel="training step", ylabel="nats per character")
    norm.set(title="largest gradient norm before clipping", xlabel="training step",
             ylabel="global norm")  # fmt: skip
    legend(loss)
    place = np.arange(len(names))[::-1]
    middle, low, high = (
        np.array([figures[name][key] for name in names], float)
        for key in ("loss_nats", "loss_low", "loss_high")
    )
    # Percentile intervals may, in principle, lie beside the estimate.
    error = np.maximum([middle - low, high - middle], 0.0)
    last.errorbar(middle, place, xerr=error, fmt="o", color=COLOURS[0], markersize=5, capsize=2)
    last.set_yticks(place, names)
    last.set(title="loss of the last tenth of training", xlabel="nats per character")
    for colour, marker, key, scale, words in (
        (COLOURS[1], "o", "clip_rate", 100.0, "updates clipped, %"),
        (COLOURS[2], "s", "angle_deg", 1.0, "mean angle to the raw gradient, degrees"),
    ):
        values = [scale * figures[name][key] for name in names]
        rate.plot(values, place, marker, color=colour, markersize=5, label=words)
    rate.set_yticks(place, names)
    rate.set(title="how much is clipped", xlim=(-4, 104))
    rate.set_ylim(-2.2, None)
    legend(rate, loc="lower center", ncols=2, fontsize=6.5)
    figure.suptitle("Median over nets and its 95 % bootstrap interval")
    return figure


def error_wall(
    wall: Mapping[str, Any],
    borders: Mapping[str, Mapping[str, Any]],
    descents: Sequence[Mapping[str, Any]],
    everywhere: Sequence[Mapping[str, Any]],
    saddle_nodes: Mapping[str, Any],
) -> Figure:
    """The error surface of the one-unit net with its theory, and gradient descent on it.

    Args:
      wall: w [N], b [N], error and grad_norm [N over b, N over w].
      borders: name -> w and b of a curve.
      descents: rows with clipping (a name), w, b and error [updates + 1].
      everywhere: rows with clipping and final_error [starts].
      saddle_nodes: w, and the two b at which stable states appear there.
    """
    figure, (surface, norms, course, ends) = new_figure(2, rows=2, width=10.4, height=7.4)
    w, b = np.asarray(wall["w"]), np.asarray(wall["b"])
    norm = np.log10(np.maximum(np.asarray(wall["grad_norm"], float), 1e-12))
    titles = ("error", r"$\log_{10}$ gradient norm")
    panels = (surface, norms)
    for axes, values, title in zip(panels, (np.asarray(wall["error"]), norm), titles, strict=True):
        image = axes.pcolormesh(edges(w), edges(b), values, cmap="Greys", rasterized=True)
        figure.colorbar(image, ax=axes, label=title)
        for (name, line), style in zip(borders.items(), ("--", ":"), strict=False):
            axes.plot(line["w"], line["b"], style, color=COLOURS[5], linewidth=1.6, label=name)
        places = [saddle_nodes["w"]] * 2
        axes.plot(places, saddle_nodes["b"], "D", color=COLOURS[4], markeredgecolor="black",
                  markersize=5, label=f"saddle nodes at w = {saddle_nodes['w']:g}")  # fmt: skip
        axes.set(xlim=(w[0], w[-1]), ylim=(b[0], b[-1]), xlabel="w", ylabel="b")
        axes.grid(visible=False)
    surface.set(title="error, and descents with and without clipping")
    norms.set(title=r"gradient norm of $x_t = w\,\sigma(x_{t-1}) + b$, 50 steps")
    for colour, row in zip(cycle(descents), descents, strict=False):
        path = np.column_stack([row["w"], row["b"]])
        surface.plot(*path.T, "o-", color=colour, linewidth=1.2, markersize=2.5,
                     label=row["clipping"])  # fmt: skip
        lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
        course.plot(np.arange(1, len(path)), lengths, color=colour, linewidth=1.3,
                    label=f"{row['clipping']}: final error {row['error'][-1]:.2g}")  # fmt: skip
        is_out = (path < [w[0], b[0]]).any(axis=1) | (path > [w[-1], b[-1]]).any(axis=1)
        if is_out.any():
            first = path[np.argmax(is_out)]
            course.annotate(
                f"thrown to w = {first[0]:.0f}, b = {first[1]:.0f}",
                (np.argmax(is_out), lengths[np.argmax(is_out) - 1]),
                xytext=(30, -12), textcoords="offset points", fontsize=7.5, color=colour,
                arrowprops={"arrowstyle": "->", "color": colour},
            )  # fmt: skip
    surface.plot(descents[0]["w"][0], descents[0]["b"][0], "*", color="black", markersize=10)
    legend(surface, loc="upper right", frameon=True, fontsize=6.5)
    course.set_yscale("log")
    course.set(title="steps of these descents", xlabel="update", ylabel="length of the step")
    legend(course, loc="lower right")
    for colour, row in zip(cycle(everywhere), everywhere, strict=False):
        errors = np.sort(np.nan_to_num(np.asarray(row["final_error"], float), nan=1.0))
        share = np.arange(1, len(errors) + 1) / len(errors)
        ends.step(np.maximum(errors, 1e-10), share, where="post", color=colour,
                  label=row["clipping"])  # fmt: skip
    ends.set_xscale("log")
    ends.set(title=f"after descents from {len(errors)} starts on the surface",
             xlabel="final error", ylabel="share of starts below", ylim=(0, 1.03))  # fmt: skip
    legend(ends, loc="upper left")
    return figure
