"""Forecasts: tracks on a map with their cones, errors over lead time, which past steps matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.geodesy import KM_PER_DEGREE
from seqlab.plots.coastline import around, coastlines, unbroken
from seqlab.plots.style import (
    COLOURS,
    band,
    cycle,
    legend,
    lighter,
    log10,
    new_figure,
    shared_legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
LAND, CONE, TRUE = "#8a8a8a", "#9ecae1", "black"
STYLES = ("-", "--", ":", "-.")


def track_map(tracks: Sequence[Row], paths: Sequence[Row]) -> Figure:
    """Best tracks over coastlines, each in a panel with forecasts from points of it.

    Args:
      tracks: rows with storm, name, year, lat [T] and lon [T] in degrees.
      paths: rows with storm, start (time), start_lat, start_lon, hours, lat, lon [H] and, of a
        forecast that says how sure it is, radius_km [H] of the disks that make its cone.
    """
    columns = min(len(tracks), 2)
    rows = -(-len(tracks) // columns)
    figure, panels = new_figure(columns, rows=rows, width=5.2 * columns, height=4.3 * rows + 0.6)
    for axes, track in zip(panels, tracks, strict=False):
        own = [path for path in paths if path["storm"] == track["storm"]]
        _one_map(axes, track, own)
    for axes in panels[len(tracks) :]:
        axes.set_axis_off()
    shared_legend(figure, panels, below=True)
    return figure


def _one_map(axes: Axes, track: Row, paths: Sequence[Row]) -> None:
    from matplotlib.patches import Polygon

    lat, lon = np.array(track["lat"], float), np.array(track["lon"], float)
    centre = float(around(lon, lon[0]).mean())
    lon = around(lon, centre)
    seen_lat, seen_lon = [lat], [lon]
    for place, (colour, path) in enumerate(zip(cycle(paths), paths, strict=True)):
        path_lat = np.array([path["start_lat"], *path["lat"]], float)
        path_lon = around(np.array([path["start_lon"], *path["lon"]], float), centre)
        seen_lat.append(path_lat)
        seen_lon.append(path_lon)
        if "radius_km" in path:
            outlines = _cone(path_lon, path_lat, np.array([0.0, *path["radius_km"]], float))
            # The edges of all first, then all insides over them: what is seen is the cone's edge.
            for style in (
                {"facecolor": "none", "edgecolor": colour, "linewidth": 1.8},
                {"facecolor": lighter(colour), "edgecolor": "none"},
            ):
                for outline in outlines:
                    axes.add_patch(Polygon(outline, closed=True, zorder=1 + 0.1 * place, **style))
            seen_lat += [outline[:, 1] for outline in outlines]
            seen_lon += [outline[:, 0] for outline in outlines]
        axes.plot(path_lon, path_lat, "--", color=colour, linewidth=1.4, zorder=4)
        hours = np.array([0, *path["hours"]])
        daily = hours % 24 == 0
        axes.plot(path_lon[daily], path_lat[daily], "o", color=colour, markersize=3.5, zorder=5,
                  label=None if place else "forecast, a dot every 24 h")  # fmt: skip
        if "true_hours" in path:
            daily = np.array(path["true_hours"]) % 24 == 0
            true_lon = around(np.array(path["true_lon"], float), centre)
            axes.plot(true_lon[daily], np.array(path["true_lat"])[daily], "x", color=colour,
                      markersize=5.5, markeredgewidth=1.6, zorder=5,
                      label=None if place else "where the storm was then")  # fmt: skip
    axes.plot(lon, lat, color=TRUE, linewidth=1.3, zorder=3, label="best track")
    axes.plot(lon[:1], lat[:1], "s", color=TRUE, markersize=4, zorder=3, label="its first point")
    if any("radius_km" in path for path in paths):
        axes.fill([], [], facecolor=lighter(COLOURS[0]), edgecolor=COLOURS[0],
                  label="cone that should hold 90 %")  # fmt: skip
    for line in coastlines():
        shifted = around(line[:, 0], centre)
        axes.plot(*unbroken(shifted, line[:, 1]), color=LAND, linewidth=0.7, zorder=2)
    all_lat, all_lon = np.concatenate(seen_lat), np.concatenate(seen_lon)
    half = max(np.ptp(all_lat) / 2, np.ptp(all_lon) / 2 * 0.7, 6.0) + 3.0
    middle_lat, middle_lon = (
        (all_lat.max() + all_lat.min()) / 2,
        (all_lon.max() + all_lon.min()) / 2,
    )
    stretch = 1 / max(np.cos(np.radians(middle_lat)), 0.2)
    axes.set(
        xlim=(middle_lon - 1.25 * half * stretch, middle_lon + 1.25 * half * stretch),
        ylim=(max(middle_lat - half, -90), min(middle_lat + half, 90)),
        aspect=stretch,
        xlabel="longitude, degrees east",
        ylabel="latitude, degrees north",
        title=f"{track['name'] or 'storm'} {track['storm']}".strip(),
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{(value + 180) % 360 - 180:g}")


def _cone(lon: np.ndarray, lat: np.ndarray, radius_km: np.ndarray) -> list[np.ndarray]:
    """Hulls of each two neighbouring disks, [P, 2] each: together, a cone."""
    from scipy.spatial import ConvexHull

    angles = np.linspace(0, 2 * np.pi, 49)
    disks = [
        np.stack(
            [
                x + r * np.sin(angles) / (KM_PER_DEGREE * max(np.cos(np.radians(y)), 0.1)),
                y + r * np.cos(angles) / KM_PER_DEGREE,
            ],
            axis=1,
        )
        for x, y, r in zip(lon, lat, radius_km, strict=True)
    ]
    outlines = []
    for one, other in pairwise(disks):
        points = np.concatenate([one, other])
        outlines.append(points[ConvexHull(points).vertices])
    return outlines


def lead_errors(curves: Mapping[str, Sequence[Row]], *, title: str) -> Figure:
    """Mean track error in km and skill over lead time, a curve a forecast.

    Args:
      curves: label -> rows with hours, error_km and skill as (middle, low, high); the first is the
        model, drawn solid; baselines are dashed or dotted.
      title: of the figure.
    """
    figure, (errors, skills) = new_figure(2, width=9.6, height=3.9)
    for place, (colour, (label, rows)) in enumerate(
        zip(cycle(curves), curves.items(), strict=True)
    ):
        hours = [row["hours"] for row in rows]
        style = {"color": colour, "linestyle": STYLES[min(place, 3)], "label": label}
        band(errors, hours, *np.array([row["error_km"] for row in rows]).T, **style)
        band(skills, hours, *(100 * np.array([row["skill"] for row in rows]).T), **style)
    errors.set(xlabel="lead, hours", ylabel="mean great-circle error, km", ylim=(0, None))
    skills.set(xlabel="lead, hours", ylabel="skill over persistence (6 h), %")
    skills.set_title("1 - error / error of persistence; higher is better", fontsize=8.5)
    for axes in (errors, skills):
        axes.set_xticks(range(0, 73, 12))
    legend(errors, loc="upper left")
    figure.suptitle(title)
    return figure


def lead_spread(rows: Sequence[Row], *, title: str) -> Figure:
    """How often 90 % intervals hold, how wide they are, and CRPS, over lead time.

    Args:
      rows: with hours, coverage_90 (a share), width_km and crps_km.
      title: of the figure.
    """
    figure, (holds, widths) = new_figure(2, width=9.6, height=3.5)
    hours = [row["hours"] for row in rows]
    holds.plot(hours, [100 * row["coverage_90"] for row in rows], "o-", color=COLOURS[0],
               markersize=4, label="measured on test storms")  # fmt: skip
    holds.axhline(90, color="grey", linestyle="--", label="what they say: 90 %")
    holds.set(xlabel="lead, hours", ylabel="truth inside the 90 % interval, %", ylim=(50, 100))
    widths.plot(hours, [row["width_km"] for row in rows], "s-", color=COLOURS[1], markersize=4,
                label="mean width of the 90 % interval")  # fmt: skip
    widths.plot(hours, [row["crps_km"] for row in rows], "^-", color=COLOURS[2], markersize=4,
                label="CRPS, each of east and north")  # fmt: skip
    widths.set(xlabel="lead, hours", ylabel="km", ylim=(0, None))
    for axes in (holds, widths):
        axes.set_xticks(range(0, 73, 12))
        legend(axes)
    figure.suptitle(title)
    return figure


def past_gradients(
    carry: Row, inputs: Row, groups: Sequence[Row], *, unit: str, title: str
) -> Figure:
    """Gradients of a forecast's error over the past: of the state, of the inputs, by their kinds.

    Args:
      carry, inputs: rows with log_norm_median, _p10 and _p90 (natural logs), [T], and `unit`, [T],
        how long each step lies back.
      groups: rows with group and norm [T], a kind of input each; what has no gradient at all is
        left out.
      unit: "hours" or "cycles".
      title: of the figure.
    """
    figure, (left, right) = new_figure(2, width=9.6, height=3.9)
    past = np.array(carry[unit])
    for row, colour, label in (
        (carry, COLOURS[0], r"$\|dL/dh_t\|$, state (all of the carry)"),
        (inputs, COLOURS[1], r"$\|dL/dx_t\|$, inputs in their standard deviations"),
    ):
        edges = (row[f"log_norm_{edge}"] for edge in ("median", "p10", "p90"))
        band(left, past, *map(log10, edges), color=colour, label=label)
    left.set(xlabel=f"{unit} before the forecast", ylabel=r"$\log_{10}$ of the gradient's norm",
             title="median and 10-90 % over nets and sequences")  # fmt: skip
    left.invert_xaxis()
    low, high = left.get_ylim()
    left.set_ylim(low, high + 0.22 * (high - low))
    legend(left, loc="upper left")
    groups = [row for row in groups if max(row["norm"]) > 0]
    table = np.array([row["norm"] for row in groups], float)
    share = np.log10(np.maximum(table / table.max(), 1e-4))
    image = right.imshow(share, aspect="auto", cmap="cividis",
                         vmin=max(np.floor(2 * share.min()) / 2, -4.0), vmax=0,
                         extent=(-0.5, len(past) - 0.5, len(groups) - 0.5, -0.5))  # fmt: skip
    ticks = np.unique(np.linspace(0, len(past) - 1, 6).round().astype(int))
    right.set_xticks(ticks, [f"{past[tick]:g}" for tick in ticks])
    right.set_yticks(range(len(groups)), [row["group"] for row in groups])
    right.grid(visible=False)
    right.set(xlabel=f"{unit} before the forecast", title=r"median $\|dL/dx_t\|$ by kind of input")
    figure.colorbar(image, ax=right, label=r"$\log_{10}$, largest = 0")
    figure.suptitle(title)
    return figure


def nets_training(updates: Sequence[Row], valid: Sequence[Row], *, title: str) -> Figure:
    """Loss of batches and CRPS of the validation part over epochs.

    Args:
      updates: rows with epoch and loss, of each net, [N].
      valid: rows with epoch and crps, of each net, [N].
      title: of the figure.
    """
    figure, (left, right) = new_figure(2, width=9.6, height=3.5)
    for axes, rows, name, colour, label in (
        (left, updates, "loss", COLOURS[0], "batches: median and range of nets"),
        (right, valid, "crps", COLOURS[1], "validation: median and range of nets"),
    ):
        if rows:
            values = np.array([row[name] for row in rows], float)
            middle, low, high = (f(values, axis=1) for f in (np.median, np.min, np.max))
            band(axes, [row["epoch"] for row in rows], middle, low, high, color=colour, label=label)
        axes.set(xlabel="epoch")
        legend(axes)
    left.set(ylabel="loss of the head, scaled answers")
    right.set(ylabel="CRPS, scaled answers")
    figure.suptitle(title)
    return figure


def lives_sorted(rows: Sequence[Row], *, cap: float, title: str) -> Figure:
    """Predicted remaining life of engines at their last cycle, sorted by the true one.

    Args:
      rows: one an engine, with true, predicted and, if known, low and high (90 %), in cycles.
      cap: of the training target; the true life is drawn raw and capped.
      title: of the figure.
    """
    figure, (axes, scatter) = new_figure(2, width=10.4, height=4.0)
    ordered = sorted(rows, key=lambda row: row["true"])
    places = np.arange(len(ordered))
    true = np.array([row["true"] for row in ordered], float)
    predicted = np.array([row["predicted"] for row in ordered], float)
    if "low" in ordered[0]:
        low, high = (np.array([row[edge] for row in ordered], float) for edge in ("low", "high"))
        axes.vlines(places, low, high, color=CONE, linewidth=2.5, label="90 % interval")
    axes.plot(places, true, color="grey", linestyle="--", label="true life, raw")
    axes.plot(places, np.minimum(true, cap), color=TRUE, label=f"true life, capped at {cap:g}")
    axes.plot(places, predicted, "o", color=COLOURS[1], markersize=3.5, label="predicted")
    axes.set(xlabel="test engine, sorted by true life", ylabel="remaining life, cycles",
             ylim=(0, None))  # fmt: skip
    legend(axes, loc="upper left")
    top = float(max(true.max(), predicted.max())) * 1.05
    scatter.plot([0, top], [0, top], color="grey", linestyle="--", label="predicted = true")
    scatter.axvline(cap, color="grey", linestyle=":", label=f"cap, {cap:g} cycles")
    late = predicted > true
    scatter.plot(true[late], predicted[late], "^", color=COLOURS[1], markersize=4,
                 label=f"late: {late.sum()} engines")  # fmt: skip
    scatter.plot(true[~late], predicted[~late], "o", color=COLOURS[0], markersize=4,
                 label=f"early: {(~late).sum()} engines")  # fmt: skip
    scatter.set(xlabel="true remaining life, cycles", ylabel="predicted, cycles", xlim=(0, top),
                ylim=(0, top))  # fmt: skip
    legend(scatter, loc="upper left")
    figure.suptitle(title)
    return figure


def lives_of_engines(rows: Sequence[Row], *, cap: float, threshold: float, title: str) -> Figure:
    """Predicted remaining life over the cycles of some engines, with the true one.

    Args:
      rows: one an engine, with engine, true, predicted and, if known, low and high, [T] each, and
        alarm, the cycle of the alarm or 0.
      cap: of the training target.
      threshold: below which an alarm is given.
      title: of the figure.
    """
    columns = min(len(rows), 4)
    lines = -(-len(rows) // columns)
    figure, panels = new_figure(columns, rows=lines, width=2.7 * columns, height=2.4 * lines + 0.7)
    for place, (axes, row) in enumerate(zip(panels, rows, strict=False)):
        cycles = np.arange(1, len(row["true"]) + 1)
        if "low" in row:
            axes.fill_between(cycles, row["low"], row["high"], color=CONE, lw=0,
                              label="90 % interval")  # fmt: skip
        axes.plot(cycles, np.minimum(row["true"], cap), color=TRUE, linewidth=1.2,
                  label=f"true, capped at {cap:g}")  # fmt: skip
        axes.plot(cycles, row["predicted"], color=COLOURS[1], linewidth=1.2, label="predicted")
        axes.axhline(threshold, color="grey", linestyle=":", label=f"alarm below {threshold:g}")
        if row["alarm"]:
            axes.plot([row["alarm"]], [row["predicted"][int(row["alarm"]) - 1]], "v",
                      color=COLOURS[3], markersize=6, label="alarm")  # fmt: skip
        axes.set_title(f"engine {row['engine']}", fontsize=8.5)
        axes.set(ylim=(0, None))
        if place % columns == 0:
            axes.set_ylabel("remaining life, cycles")
        if place >= len(rows) - columns:
            axes.set_xlabel("cycle")
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    shared_legend(figure, panels, below=True)
    figure.suptitle(title)
    return figure


def alarms(curves: Mapping[str, Row], *, horizon: float, title: str) -> Figure:
    """How well nearing failure is told: precision over recall, and lead time over threshold.

    Args:
      curves: label -> row with recall, precision [P], average_precision, and thresholds,
        detected, false_alarms (shares) and lead_cycles [Q].
      horizon: cycles before failure that count as near.
      title: of the figure.
    """
    figure, (left, right) = new_figure(2, width=9.6, height=3.8)
    for place, (colour, (label, row)) in enumerate(zip(cycle(curves), curves.items(), strict=True)):
        style = STYLES[min(place, 3)]
        left.plot(row["recall"], row["precision"], style, color=colour,
                  label=f"{label}: area {row['average_precision']:.3f}")  # fmt: skip
        if place == 0:
            right.plot(row["thresholds"], 100 * np.array(row["detected"]), "-", color=COLOURS[0],
                       label="engines near failure with an alarm, %")  # fmt: skip
            right.plot(row["thresholds"], 100 * np.array(row["false_alarms"]), "--",
                       color=COLOURS[1], label="engines alarmed too early, %")  # fmt: skip
            right.plot(row["thresholds"], row["lead_cycles"], ":", color=COLOURS[2], linewidth=2,
                       label="median lead of first alarms, cycles")  # fmt: skip
    left.set(xlabel="recall of cycles near failure", ylabel="precision", xlim=(0, 1.02),
             ylim=(0, 1.05), title=f"near failure: {horizon:g} cycles or fewer")  # fmt: skip
    right.set(xlabel="alarm below a predicted life of, cycles", ylim=(0, 130))
    right.set_ylabel("% of engines; cycles of lead")
    legend(left, loc="lower left")
    legend(right)
    figure.suptitle(title)
    return figure
