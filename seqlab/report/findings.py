"""What the instruments found, put into words, figures and arrays."""

from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from seqlab.cells.rnn import RNN
from seqlab.gradflow import theory
from seqlab.report.curves import (
    LEVEL,
    Trend,
    by_lag,
    entries,
    exponents,
    fall_lag,
    horizon,
    percent,
    quantiles,
    steps_text,
    told_lags,
)
from seqlab.report.result import GradientReport
from seqlab.report.subject import (
    DEFAULT_LOSS,
    Layer,
    Probe,
    Read,
    layers_of,
    leaves,
    part_at,
    weight_name,
)

SATURATED = 0.95  # |h| above it, or a gate nearer than 0.05 to 0 or 1


class Findings:
    """Takes in what each instrument found; `report` gives the whole."""

    def __init__(self, probe: Probe, params, read: Read, clip_norm: float):
        self.probe, self.params, self.read, self.clip_norm = probe, params, read, clip_norm
        carries = jax.eval_shape(lambda p: probe.apply(p, *read.inputs), params).carries
        self.layers = layers_of(carries)
        self.shapes = {layer: leaves(part_at(carries, layer.keys)) for layer in self.layers}
        *self.batch_shape, self.num_steps = jax.tree.leaves(carries)[0].shape[:-1]
        self.top = self.layers[-1]
        names = list(self.shapes[self.top])
        self.leaf = next((name for name in ("c", "h") if name in names), names[0])
        self.main = self.label(self.top, self.leaf)
        self.dtype = self.shapes[self.top][self.leaf].dtype
        self.lines: list[tuple[str, str]] = []
        self.summary: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.left_out: list[str] = []
        self.theory: dict[str, dict[str, np.ndarray]] = {}

    def report(self) -> GradientReport:
        """All of it."""
        count = int(np.prod(self.batch_shape, dtype=int))
        length = f"{self.num_steps} steps"
        if self.read.mask is not None:
            length = f"up to {int(self.real(self.top).sum(-1).max(initial=0))} real steps"
        loss = getattr(self.probe.loss.function, "__name__", "as given")
        if self.probe.loss is DEFAULT_LOSS:
            loss = "one fixed direction of the last output"
        title = (
            f"{self.probe.name}, {count} {'sequence' if count == 1 else 'sequences'} of {length}, "
            f"{self.dtype}; loss: {'as given' if loss == '<lambda>' else loss}"
        )
        return GradientReport(
            title,
            [("in short", self.headline()), *self.lines],
            self.summary,
            self.arrays,
            self.left_out,
            self.main,
            self.clip_norm,
            self.theory,
        )

    def headline(self) -> str:
        """The one line to take home."""
        if not self.summary["is_finite"]:
            return "there are numbers that are not finite"
        parts = [f"gradient {self.trend.text.partition(' (')[0]}"]
        lag = min(10, len(self.arrays["lag"]) - 1)
        share = self.summary.get(f"direct_path_share_at_lag_{lag}")
        if share is not None:
            parts.append(f"direct path carries {percent(share)} after {steps_text(lag)}")
        if self.summary.get("horizon_90_steps") is not None:
            parts.append(f"dL/dW looks {steps_text(self.summary['horizon_90_steps'])} back")
        if self.summary.get("clip_rate") is not None:
            parts.append(f"clip rate {percent(self.summary['clip_rate'])}")
        return "; ".join(parts)

    # What is where.

    def label(self, layer: Layer, name: str) -> str:
        """What to call a leaf, or a gate, of a layer."""
        return name if len(self.layers) == 1 else f"{layer.label}.{name}"

    def of_layer(self, layer: Layer) -> str:
        """Which layer a line is about, where there are several."""
        return "" if len(self.layers) == 1 else f" of {layer.label}"

    def real(self, layer: Layer) -> np.ndarray:
        """Which steps count, [N, T]."""
        shape = next(iter(self.shapes[layer].values())).shape[:-1]
        mask = self.read.mask
        if mask is None or mask.shape != shape:
            return np.ones((int(np.prod(shape[:-1], dtype=int)), shape[-1]), bool)
        return np.asarray(mask).reshape(-1, shape[-1])

    def by_lag(self, values, layer: Layer) -> np.ndarray:
        """[..., T] of a layer by steps back in the order of its walk, [N, L]."""
        values = np.asarray(values, np.float64)
        values = values.reshape(-1, values.shape[-1])
        return by_lag(values, self.real(layer), layer.is_backward)

    def carry_size(self, layer: Layer) -> int:
        """S, entries of the carry."""
        return sum(leaf.shape[-1] for leaf in self.shapes[layer].values())

    # The gradient at the carries.

    def add_curves(self, log_norms) -> None:
        """Norms of dL/dcarry_t, leaf by leaf."""
        self.summary["is_finite"] = True
        for layer in self.layers:
            for leaf, values in leaves(part_at(log_norms, layer.keys)).items():
                self.add_curve(self.label(layer, leaf), self.by_lag(values, layer))

    def add_curve(self, label: str, curves: np.ndarray) -> None:
        """One leaf's norms, [N, L]."""
        low, middle, high = quantiles(curves)
        self.arrays[f"log_norm/{label}"] = curves
        self.arrays[f"log_norm_median/{label}"] = middle
        self.arrays[f"log_norm_p10/{label}"] = low
        self.arrays[f"log_norm_p90/{label}"] = high
        self.arrays.setdefault("lag", np.arange(len(middle)))
        trend = Trend.of(middle, self.dtype)
        fall = fall_lag(middle)
        text = f"dL/d{label}_t {trend.text}"
        if fall is not None and trend.slope is not None:
            text += f"; down by 1e3 after {steps_text(fall)}"
        if trend.zero_from is not None:
            text += f"; exactly 0 from lag {trend.zero_from} on"
        self.lines.append(("gradient", text))
        if label == self.main:
            self.trend = trend
            self.summary |= {
                "slope_nats_per_step": trend.slope,
                "half_life_steps": trend.turning_time(-1),
                "doubling_steps": trend.turning_time(1),
                "has_one_rate": trend.has_one_rate,
                "lag_of_fall_by_1e3": fall,
            }

    # The ways it takes.

    def wants_paths(self) -> bool:
        """Whether paths can be told apart; why not, if not."""
        cell = self.probe.cell
        if cell is None:
            return False
        if not getattr(cell, "routes", ()):
            self.left_out.append(f"paths: {type(cell).__name__} has no routes to tell apart")
            return False
        if len(self.top.keys) > 1:
            self.left_out.append("paths: they are told apart for one layer in one direction")
            return False
        return True

    def add_paths(self, paths: Future) -> None:
        """Total against direct, gate by gate."""
        try:
            found = paths.result()
        except ValueError as error:
            self.left_out.append(f"paths: {error}")
            return
        total = self.by_lag(found["total"][0], self.top)
        alive = np.isfinite(total)
        peak = np.max(total, axis=0, where=alive, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            energy = np.where(alive, np.exp(2 * (total - peak)), 0.0)
        weight = np.sum(energy, axis=0)
        # A share is told by the total's own digits. What flows back is cut off at `tiny`, not at a
        # fraction of the last step's gradient: a gradient may fade by any factor and stay exact
        # while it is above tiny / eps. Below, its sums lack terms larger than their rounding.
        limits = np.finfo(self.dtype)
        is_resolved = peak > np.log(float(limits.tiny)) - np.log(float(limits.eps))
        shares = {}
        for path, (log_norm, share) in found.items():
            self.arrays[f"path_log_norm/{path}"] = quantiles(self.by_lag(log_norm, self.top))[1]
            if path == "total":
                continue
            each = np.where(alive, self.by_lag(share, self.top), 0.0)
            shares[path] = np.sum(energy * each, axis=0) / np.where(is_resolved, weight, np.nan)
            self.arrays[f"path_share/{path}"] = shares[path]
        for lag in told_lags(len(peak)):
            share = float(shares["direct"][lag])
            self.summary[f"direct_path_share_at_lag_{lag}"] = share if is_resolved[lag] else None
        lags = [lag for lag in told_lags(len(peak)) if is_resolved[lag]]
        if not lags:
            return
        told = [f"{percent(shares['direct'][lag])} after {steps_text(lag)}" for lag in lags]
        text = f"of dL/d{self.main}_t the direct path, gates held fixed, carries {', '.join(told)}"
        gates = {name: values[lags[-1]] for name, values in shares.items() if name != "direct"}
        first = max(gates, key=lambda name: abs(gates[name]), default=None)
        if first is not None and abs(gates[first]) > 0.01:
            text += f"; most of the rest leaves through {first} ({percent(gates[first])})"
        if lags[-1] < told_lags(len(peak))[-1]:
            text += f"; - after {steps_text(len(peak) - 1)}, too near to underflow"
        self.lines.append(("paths", text))

    # Weights.

    def add_weights(self, found, *, by_sequence: bool) -> None:
        """Gradient norms of sequences, and what each step adds to dL/dW."""
        if not by_sequence and int(np.prod(self.batch_shape, dtype=int)) > 1:
            self.left_out.append(
                "gradients of single sequences: this loss cannot be had row by row, as one of "
                "(output, batch) on [B, T, ...] can; the steps' shares of dL/dW are the batch's"
            )
        if found is None:
            return
        _, norms, parts = found
        has_rows = by_sequence or len(self.real(self.top)) == 1
        alive = self.real(self.top).any(-1) if has_rows else np.ones(1, bool)
        self.arrays["gradient_norm"] = np.asarray(norms, float)[alive]
        for layer in self.layers:
            real = np.ones((1, self.num_steps), bool)
            if has_rows:
                real = self.real(layer)[alive]
            log_norms, shares = (
                by_lag(np.asarray(each, float)[alive], real, layer.is_backward)
                for each in parts[layer.label]
            )
            name = weight_name(part_at(self.params[layer.keys[0]]["weights"], layer.keys[1:]))
            name = "W" if name is None else name
            where = self.of_layer(layer)
            if not np.isfinite(log_norms).any():
                self.lines.append(("weights", f"dL/d{name}{where} is zero at every step"))
                continue
            carried = np.cumsum(shares, axis=-1)
            self.arrays[f"weight_log_norm/{layer.label}"] = log_norms
            self.arrays[f"weight_share/{layer.label}"] = carried
            middle = float(np.median([horizon(row[np.isfinite(row)]) for row in carried]))
            length = float(np.median(np.isfinite(carried).sum(-1)))
            end = "first" if layer.is_backward else "last"
            self.lines.append(
                (
                    "weights",
                    f"{percent(LEVEL)} of dL/d{name}{where} comes from the {end} {middle:g} of "
                    f"{length:g} steps",
                )
            )
            if layer == self.top:
                self.summary["horizon_90_steps"] = middle

    # Dynamics.

    def add_dynamics(self, layer: Layer, weights, real: np.ndarray, found) -> None:
        """Jacobian products, Lyapunov exponent and gates of a layer; `real` as it is walked."""
        norms, growth, gates, _, drive, bound = found
        products = by_lag(np.asarray(norms, float), real, False)
        self.arrays[f"log_product_norm/{layer.label}"] = products
        trend = Trend.of(np.concatenate([[0.0], quantiles(products)[1]]), self.dtype)
        rates = exponents(np.asarray(growth, float), real)
        self.arrays[f"lyapunov_max/{layer.label}"] = rates
        rate = float(np.nanmedian(rates))
        self.lines.append(
            (
                "dynamics",
                f"d carry_T / d carry_t{self.of_layer(layer)} (root mean square singular value) "
                f"{trend.text}; largest Lyapunov exponent {rate:.3g} nats/step",
            )
        )
        for name, gate in gates.items():
            if name in self.shapes[layer]:
                continue  # what a cell of sigmoid units gives
            values = np.asarray(gate)[real]
            is_closed = (values < 1 - SATURATED) | (values > SATURATED)
            label = self.label(layer, name)
            self.arrays[f"gate_mean/{label}"] = np.asarray(np.mean(values, dtype=float))
            self.arrays[f"gate_saturated/{label}"] = np.asarray(np.mean(is_closed))
        if layer == self.top:
            self.summary["jacobian_slope_nats_per_step"] = trend.slope
            self.summary["lyapunov_max_nats_per_step"] = rate
            if isinstance(self.probe.cell, RNN):
                bounds = quantiles(by_lag(np.asarray(bound, float), real, False))[1]
                self.add_theory(self.probe.cell, weights, float(drive), bounds)

    def add_theory(self, cell: RNN, weights, drive: float, bounds: np.ndarray) -> None:
        """Closed forms for a vanilla net, read off its weights."""
        lag = np.arange(1, len(bounds) + 1)
        values = np.linalg.svd(np.asarray(weights["W_h"], float), compute_uv=False)
        gain = float(np.sqrt(np.mean(values**2)))
        lines = {}
        if cell.activation == "identity" and np.ptp(values) <= 1e-5 * gain:
            lines["exact, lag x log g"] = theory.log_scaled_orthogonal(gain, lag)
            rate = float(np.log(gain))
            text = f"exact: every singular value moves by log {gain:.4g} = {rate:.4g} nats/step"
            self.lines.append(("theory", text))
            self.summary["exact_slope_nats_per_step"] = rate
        elif cell.activation == "tanh":
            rate = theory.mean_field_tanh(gain, drive).log_slope
            lines["mean field"] = lag * rate
            text = f"mean field of a random W_h of gain {gain:.3g} under this input: {rate:.3g} "
            self.lines.append(("theory", text + "nats/step"))
            self.summary["mean_field_slope_nats_per_step"] = rate
        self.theory = {"theory": lines, "bounds": {"bound on the largest": bounds}}

    # Units and sizes.

    def add_units(self, carries) -> None:
        """Saturated and dead units, and gates."""
        told = []
        dead = 0
        for layer in self.layers:
            real = self.real(layer)
            for leaf, values in leaves(part_at(carries, layer.keys)).items():
                label = self.label(layer, leaf)
                values = np.asarray(values).reshape(-1, *values.shape[-2:])[real]
                never = np.ptp(values, axis=0) == 0
                self.arrays[f"dead/{label}"] = never
                if leaf != "h":
                    continue
                share = float(np.mean(np.abs(values) > SATURATED))
                self.arrays[f"saturated/{label}"] = np.asarray(share)
                dead += int(never.sum())
                told.append(
                    f"|{label}| is above {SATURATED} for {percent(share)}, {int(never.sum())} of "
                    f"{len(never)} units never change"
                )
        self.summary["dead_units"] = dead
        for name, mean in entries(self.arrays, "gate_mean").items():
            closed = percent(float(self.arrays[f"gate_saturated/{name}"]))
            told.append(f"gate {name} is {float(mean):.2f} on average, saturated for {closed}")
        if told:
            self.lines.append(("units", "; ".join(told)))

    def add_sizes(self, parameter_norms, count) -> None:
        """Gradient norms over all parameters, and what clipping would do."""
        norms = {name: float(norm) / float(count) for name, norm in parameter_norms.items()}
        for name, norm in norms.items():
            self.arrays[f"parameter_norm/{name}"] = np.asarray(norm)
        whole = float(np.linalg.norm(list(norms.values())))
        self.summary |= {"gradient_norm": whole, "clip_rate": None}
        text = f"gradient norm {whole:.3g} for the mean loss of the batch"
        single = self.arrays.get("gradient_norm", np.zeros(0))
        if len(single) == int(self.real(self.top).any(-1).sum()):
            self.summary["clip_rate"] = float(np.mean(single > self.clip_norm))
            if len(single) > 1:
                low, middle, high = np.quantile(single, (0.1, 0.5, 0.9))
                text += f", {middle:.3g} ({low:.3g} to {high:.3g}) for single sequences"
            text += f"; clip rate {percent(self.summary['clip_rate'])}"
        else:
            text += f"; {'clipped' if whole > self.clip_norm else 'not clipped'}"
        self.lines.append(("size", f"{text} at norm {self.clip_norm:g}"))
        if idle := [name for name, norm in norms.items() if norm == 0]:
            shown = ", ".join(idle[:6]) + (f" and {len(idle) - 6} more" if len(idle) > 6 else "")
            self.lines.append(("idle", f"no gradient at all in {shown}"))

    # What is not a number.

    def add_not_finite(self, log_norms, carries, origin: str | None) -> None:
        """Where it first is not finite; the curves as far as they go."""
        self.lines.append(("not finite", self.first_bad_step(log_norms, carries)))
        if origin is not None:
            self.lines.append(("not finite", origin))
        self.add_curves(log_norms)
        self.lines = [line for line in self.lines if line[0] == "not finite"]  # no rates of a NaN
        self.summary = {"is_finite": False}
        self.left_out.append("all that needs finite numbers")

    def first_bad_step(self, log_norms, carries) -> str:
        """The first step at which a state is not finite, or the last at which a gradient is not."""
        for tree, what in ((carries, "state"), (log_norms, "gradient")):
            hits = []
            for layer in self.layers:
                goes_on = (what == "state") != layer.is_backward
                for leaf, values in leaves(part_at(tree, layer.keys)).items():
                    values = np.asarray(values, float)
                    is_bad = np.isnan(values) | (values == np.inf)  # -inf is the log of a zero
                    if what == "state":
                        is_bad = (is_bad | (values == -np.inf)).any(-1)
                    is_bad = is_bad.reshape(-1, is_bad.shape[-1])
                    for t in np.flatnonzero(is_bad.any(0)).tolist():
                        row = int(np.flatnonzero(is_bad[:, t])[0])
                        hits.append((t if goes_on else -t, t, self.label(layer, leaf), row))
            if hits:
                _, t, label, row = min(hits)
                name, order = (
                    (label, "") if what == "state" else (f"dL/d{label}", " on the way back")
                )
                return f"the {what} {name}, first{order} at step {t}, in sequence {row}"
        return "the loss"
