"""The report: text, figure, arrays; and several of them side by side."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.report.curves import entries, quantiles, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 4  # leaves in one panel


@dataclass(frozen=True, eq=False, repr=False)
class GradientReport:
    """How a gradient travels back through time; prints and shows itself.

    Norms are natural logs. Curves over `lag` count real steps back from each sequence's last one
    (for the backward direction of a bidirectional layer, from its first), and are NaN where a
    sequence is shorter. N sequences, L the most real steps.

    Attributes:
      title: what was looked at.
      lines: (subject, what was found), in the order of the text.
      summary: figures under stable names with units; None where there is none.
      arrays: plain numpy arrays by name:

        | name | what |
        |---|---|
        | `lag` | 0 ... L-1 |
        | `log_norm/LEAF` | log ||dL/dcarry_t|| of every sequence, [N, L] |
        | `log_norm_median/LEAF`, `_p10`, `_p90` | over sequences, [L] |
        | `path_log_norm/PATH` | total, direct and each gate on the main leaf, median, [L] |
        | `path_share/PATH` | share of the total, [L]; they add up to 1; NaN near underflow |
        | `weight_log_norm/LAYER` | log norm of each step's share of dL/dW, [N, L] |
        | `weight_share/LAYER` | share of dL/dW that the last 1 ... L steps carry, [N, L] |
        | `gradient_norm` | of each sequence's own loss, over all parameters, [N] |
        | `parameter_norm/NAME` | of the gradient of the mean loss, a scalar |
        | `log_product_norm/LAYER` | log root mean square singular value over lags 1 ... L |
        | `lyapunov_max/LAYER` | largest exponent, nats per step, a sequence each |
        | `singular_lags`, `log_singular_values` | every singular value at some lags, one sequence |
        | `gate_mean/GATE`, `gate_saturated/GATE` | of each sigmoid in the step, a scalar |
        | `saturated/LEAF`, `dead/LEAF` | share of |h| > 0.95; units that never change, [H] bool |
      left_out: what is missing, and why.
    """

    title: str
    lines: list[tuple[str, str]]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
    left_out: list[str]
    main: str  # the leaf that the headline is about
    clip_norm: float
    theory: Mapping[
        str, Mapping[str, np.ndarray]
    ]  # "theory" and "bounds" -> name -> by lag 1 ... L

    @property
    def text(self) -> str:
        """The report in some ten lines."""
        rows = [*self.lines, *(("left out", reason) for reason in self.left_out)]
        width = max(len(subject) for subject, _ in rows)
        body = (f"  {subject:<{width}}  {found}" for subject, found in rows)
        return "\n".join([self.title, *body])

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def figure(self) -> "Figure":
        """A figure of up to four panels; the caller saves or shows it."""
        import matplotlib.pyplot as plt

        from seqlab.plots import report as panels
        from seqlab.plots.gradients import gradient_curves, path_curves

        arrays = self.arrays
        named = entries(arrays, "log_norm")
        if len(named) > MANY:  # of a stack, one leaf a layer
            leaf = self.main.rpartition(".")[2]
            named = {name: each for name, each in named.items() if name.endswith(f".{leaf}")}
        draw: list[Callable[[Any], None]] = [
            lambda axes: gradient_curves(
                [self.curve(name, name) for name in named],
                axes,
                r"$\|dL/dcarry_t\|$: median and 10-90 % of sequences",
            )
        ]
        paths = {name: values[::-1] for name, values in entries(arrays, "path_log_norm").items()}
        if paths:
            title = f"dL/d{self.main} by the way it takes back"
            draw.append(lambda axes: path_curves(paths, axes, title))
        products = entries(arrays, "log_product_norm")
        if products:
            *_, (top, values) = products.items()
            dynamics = panels.Dynamics(
                norms=quantiles(values)[1],
                lags=arrays.get("singular_lags"),
                spectrum=arrays.get("log_singular_values"),
                theory=self.theory.get("theory"),
                bounds=self.theory.get("bounds"),
            )
            where = f", {top}" if len(products) > 1 else ""
            draw.append(
                lambda axes: panels.jacobian_curves(
                    dynamics, axes, f"products of step Jacobians{where}"
                )
            )
        shares = self.horizons()
        if len(shares) == 1:
            shares = {"dL/dW": next(iter(shares.values()))}
        if shares:
            draw.append(
                lambda axes: panels.horizon_curves(
                    shares, axes, "how far back dL/dW looks: median, 10-90 %"
                )
            )
        norms = arrays.get("gradient_norm")
        if norms is not None and len(norms) > 1 and np.isfinite(norms).all() and norms.any():
            draw.append(
                lambda axes: panels.clip_histogram(
                    norms,
                    self.clip_norm,
                    axes,
                    "gradient norm over all parameters",
                    batch_norm=self.summary["gradient_norm"],
                )
            )
        bars = {f"gate {n}": float(v) for n, v in entries(arrays, "gate_saturated").items()}
        bars |= {name: float(v) for name, v in entries(arrays, "saturated").items()}
        if max(bars.values(), default=0.0) > 0.001:
            draw.append(lambda axes: panels.unit_bars(bars, axes, "saturation"))
        figure = panels.report_panels(self.title, draw[:4])
        plt.close(figure)  # else a notebook shows it twice
        return figure

    def curve(self, name: str, leaf: str | None = None) -> Any:
        """One leaf's curve, the main one's by default, for `plots.gradient_curves`."""
        from seqlab.plots.gradients import Curve

        leaf = self.main if leaf is None else leaf
        middle, low, high = (
            self.arrays[f"log_norm_{edge}/{leaf}"][::-1] for edge in ("median", "p10", "p90")
        )
        return Curve(name, middle, low, high)

    def horizons(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Layer -> median and 10-90 % of the share of dL/dW that the last steps carry, [L]."""
        found = {}
        for name, values in entries(self.arrays, "weight_share").items():
            low, middle, high = quantiles(np.where(np.isnan(values), 1.0, values))
            found[name] = (middle, low, high)
        return found

    def _repr_html_(self) -> str:
        """The text and the figure, for a notebook."""
        return _as_html(self.text, self.figure())


@dataclass(frozen=True, eq=False, repr=False)
class ReportComparison:
    """Several reports side by side; prints and shows itself."""

    reports: dict[str, GradientReport]

    @property
    def text(self) -> str:
        """A table, one report a row."""
        columns = list(
            dict.fromkeys(name for each in self.reports.values() for name in each.summary)
        )
        shown = {
            name: {"report": name, **{key: short(each.summary.get(key)) for key in columns}}
            for name, each in self.reports.items()
        }
        rows = [
            f"{key:<34}" + "".join(f"{row[key]:>24}" for row in shown.values())
            for key in ("report", *columns)
        ]
        return "\n".join(rows)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def figure(self) -> "Figure":
        """Gradient curves and horizons over each other; the caller saves or shows it."""
        import matplotlib.pyplot as plt

        from seqlab.plots.report import report_comparison

        tops = {name: list(each.horizons().values())[-1:] for name, each in self.reports.items()}
        shares = {name: top[0] for name, top in tops.items() if top}
        curves = [each.curve(f"{name}, {each.main}") for name, each in self.reports.items()]
        figure = report_comparison(curves, shares)
        plt.close(figure)
        return figure

    def _repr_html_(self) -> str:
        """The table and the figure, for a notebook."""
        return _as_html(self.text, self.figure())


def compare_reports(reports: Mapping[str, GradientReport]) -> ReportComparison:
    """Reports over each other, by the names that they are given.

    Raises:
      ValueError: for no reports.
    """
    if not reports:
        raise ValueError("compare_reports: no reports")
    return ReportComparison(dict(reports))


def _as_html(text: str, figure: "Figure") -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=72)
    data = base64.b64encode(picture.getvalue()).decode()
    return f'<pre>{html.escape(text)}</pre><img src="data:image/png;base64,{data}" alt="gradients">'
