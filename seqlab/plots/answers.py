"""Answers to questions: accuracy by task and distance, what they rest on, how often they repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqlab.plots.style import COLOURS, MARKERS, band, cycle, legend, new_figure, shared_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 6  # tasks that go side by side


def reach(middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far the ends of intervals are away, [2, N]; never below 0, as rounding might have it."""
    return np.maximum([middle - low, high - middle], 0.0)


def answer_accuracy(
    models: Mapping[str, Mapping[str, Mapping[str, float]]],
    published: Mapping[str, float],
    *,
    published_name: str,
    title: str,
) -> Figure:
    """Accuracy of each task or kind of question beside that of the most frequent answer.

    Args:
      models: name -> task -> accuracy, low, high and majority_accuracy, shares.
      published: task -> accuracy; empty for none.
      published_name: what it is of.
      title: of the figure.
    """
    tasks = list(next(iter(models.values())))
    width = max(6.0, 1.8 + 0.36 * len(tasks) * (1 + 0.35 * (len(models) - 1)))
    figure, (axes,) = new_figure(1, width=min(width, 12.0), height=3.8)
    at = np.arange(len(tasks))
    spread = 0.5 / max(len(models), 1)
    for k, (colour, (name, own)) in enumerate(zip(cycle(models), models.items(), strict=False)):
        middle, low, high = (
            100 * np.array([own[task][key] for task in tasks])
            for key in ("accuracy", "low", "high")
        )
        x = at + (k - (len(models) - 1) / 2) * spread
        axes.errorbar(x, middle, yerr=reach(middle, low, high), color=colour, linestyle="",
                      marker=MARKERS[k % len(MARKERS)], markersize=5, capsize=2,
                      label=name)  # fmt: skip
    floor = [100 * next(iter(models.values()))[task]["majority_accuracy"] for task in tasks]
    axes.hlines(floor, at - 0.4, at + 0.4, color="grey", linewidth=1.6,
                label="most frequent answer")  # fmt: skip
    if published:
        shown = [100 * published[task] for task in tasks]
        axes.plot(at, shown, color="black", linestyle="", marker="x", markersize=6,
                  label=published_name)  # fmt: skip
        axes.axhline(95, color="grey", linestyle=":", linewidth=1, label="solved: 95 %")
    axes.set_xticks(at, tasks)
    axes.set(xlabel="task" if published else "facts that the answer rests on",
             ylabel="answers right, %", ylim=(0, 103), xlim=(-0.6, len(tasks) - 0.4))  # fmt: skip
    axes.set_title(f"{title}; bars: 95 %, Wilson", fontsize=10)
    shared_legend(figure, [axes], below=True)
    return figure


def answers_by_distance(models: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """Accuracy against the distance of the oldest fact, a panel for each kind of question.

    Args:
      models: name -> rows with kind, distance, accuracy, low and high.
      title: of the figure.
    """
    kinds = list(dict.fromkeys(row["kind"] for rows in models.values() for row in rows))
    figure, all_axes = new_figure(len(kinds), width=4.4 * len(kinds), height=3.5)
    for axes, kind in zip(all_axes, kinds, strict=True):
        for k, (colour, (name, rows)) in enumerate(
            zip(cycle(models), models.items(), strict=False)
        ):
            own = sorted(
                (row for row in rows if row["kind"] == kind), key=lambda row: row["distance"]
            )
            middle, low, high = (
                100 * np.array([row[key] for row in own], float)
                for key in ("accuracy", "low", "high")
            )
            band(axes, [row["distance"] for row in own], middle, low, high, color=colour,
                 label=name, marker=MARKERS[k % len(MARKERS)], markersize=4)  # fmt: skip
        axes.set(xlabel="sentences between the oldest fact and the question", ylim=(0, 103),
                 ylabel="answers right, %")  # fmt: skip
        axes.set_title(f"{kind} fact{'s' * (kind != 'one')}", fontsize=9)
        legend(axes, loc="lower left")
    figure.suptitle(f"{title}; band: 95 %, Wilson", fontsize=10)
    return figure


def supporting_facts(models: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Figure:
    """Shares of gradient and attention on the supporting facts, right answers beside wrong ones.

    Args:
      models: name -> rows with kind, is_right, gradient, even, and attention where there is, each
        with _low and _high.
      title: of the figure.
    """
    kinds = list(dict.fromkeys(row["kind"] for rows in models.values() for row in rows))
    panels = [
        (name, key)
        for name, rows in models.items()
        for key in ("gradient", "attention")
        if any(key in row for row in rows)
    ]
    panel_width = max(3.4, 1.4 + 0.34 * len(kinds))
    is_wide = len(kinds) > FEW
    columns = 1 if is_wide else len(panels)
    figure, all_axes = new_figure(
        columns, width=panel_width * columns, height=3.4 if not is_wide else 2.9 * len(panels),
        rows=len(panels) if is_wide else 1,
    )  # fmt: skip
    for axes, (name, key) in zip(all_axes, panels, strict=True):
        for is_right, colour, marker, shift in ((True, COLOURS[0], "o", -0.15),
                                                (False, COLOURS[1], "s", 0.15)):  # fmt: skip
            own = {r["kind"]: r for r in models[name] if r["is_right"] == is_right and key in r}
            at = np.array([i for i, kind in enumerate(kinds) if kind in own])
            rows = [own[kind] for kind in kinds if kind in own]
            if not rows:
                continue
            middle, low, high = (
                100 * np.array([row[key + end] for row in rows], float)
                for end in ("", "_low", "_high")
            )
            word = "right" if is_right else "wrong"
            axes.errorbar(at + shift, middle, yerr=reach(middle, low, high), color=colour,
                          marker=marker, linestyle="", capsize=2, markersize=4.5,
                          label=f"answered {word}")  # fmt: skip
            even = 100 * np.array([row["even"] for row in rows], float)
            axes.hlines(even, at + shift - 0.13, at + shift + 0.13, color="grey", linewidth=1.6,
                        label="spread evenly over the sentences")  # fmt: skip
        axes.set_xticks(range(len(kinds)), kinds)
        axes.set(ylabel=f"{key}, %", ylim=(0, 103), xlim=(-0.6, len(kinds) - 0.4),
                 xlabel="facts" if not is_wide and "one" in kinds else "task")  # fmt: skip
        axes.set_title(f"{name}: {key}", fontsize=9)
    shared_legend(figure, all_axes, below=True)
    figure.suptitle(f"{title}; bars: 95 % bootstrap", fontsize=10)
    return figure


def answer_training(
    valid: Mapping[str, Sequence[Mapping[str, Any]]],
    updates: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    title: str,
) -> Figure:
    """Loss, and answers right, over epochs; a line for each task.

    Args:
      valid: task -> rows with step, epoch, loss and accuracy; "" where there is one model.
      updates: task -> rows with step and loss, of batches.
      title: of the figure.
    """
    figure, (left, right) = new_figure(2, width=9.4, height=3.6)
    is_one = len(valid) == 1
    for k, (task, rows) in enumerate(valid.items()):
        if not rows:
            continue
        colour = COLOURS[k % len(COLOURS)]
        style: dict[str, Any] = {"color": colour, "linewidth": 1.2,
                                 "linestyle": ("-", "--", ":")[k // len(COLOURS) % 3]}  # fmt: skip
        epochs = [row["epoch"] for row in rows]
        if is_one:
            per_epoch = rows[0]["step"] / rows[0]["epoch"]
            own = updates[task]
            left.plot([row["step"] / per_epoch for row in own], [row["loss"] for row in own],
                      color="grey", linewidth=0.7, label="batches, as trained")  # fmt: skip
        name = "validation" if is_one else f"task {task}" if task else "validation"
        left.plot(epochs, [row["loss"] for row in rows], label=name, **style)
        right.plot(epochs, [100 * row["accuracy"] for row in rows], label=name, **style)
    left.set(xlabel="epochs", ylabel="loss (nats a token)", ylim=(0, None))
    right.set(xlabel="epochs", ylabel="validation answers right, %", ylim=(0, 103))
    if is_one:
        legend(left)
    else:
        shared_legend(figure, [right])
    figure.suptitle(title, fontsize=10)
    return figure


def story_sentences(row: Mapping[str, Any], *, title: str) -> Figure:
    """A story down the page, and what of gradient and attention each of its sentences has.

    Args:
      row: sentences with the question last, facts, answer, said, is_right, and the shares gradient
        and, where there is, attention, of each sentence.
      title: of the figure.
    """
    sentences, facts = row["sentences"], set(row["facts"])
    keys = [key for key in ("gradient", "attention") if key in row]
    figure, (axes,) = new_figure(1, width=8.4, height=1.5 + 0.27 * len(sentences))
    at = np.arange(len(sentences))
    for k, (key, colour) in enumerate(zip(keys, COLOURS, strict=False)):
        height = 0.8 / len(keys)
        axes.barh(at - 0.4 + (k + 0.5) * height, 100 * np.array(row[key], float), height=height,
                  color=colour, label=key)  # fmt: skip
    names = [f"{text}  *" if i in facts else text for i, text in enumerate(sentences)]
    axes.set_yticks(at, names, fontsize=8)
    for i, tick in enumerate(axes.get_yticklabels()):
        tick.set_fontweight("bold" if i in facts else "normal")
    axes.invert_yaxis()
    axes.set(xlabel="share, %", xlim=(0, None))
    word = "right" if row["is_right"] else f"wrong: it is {row['answer']!r}"
    axes.set_title(f"{title}: said {row['said']!r}, {word}; * what the answer rests on",
                   fontsize=9.5)  # fmt: skip
    legend(axes, loc="best")
    return figure


def answer_repetition(models: Mapping[str, Sequence[int]], *, title: str) -> Figure:
    """Share of all questions that the most frequent answers answer, against how many these are.

    Args:
      models: name -> how often each answer came, the most frequent first.
      title: of the figure.
    """
    figure, (axes,) = new_figure(1, width=6.0, height=3.6)
    for k, (colour, (name, counts)) in enumerate(zip(cycle(models), models.items(), strict=False)):
        shares = 100 * np.cumsum(counts) / np.sum(counts)
        axes.plot(np.arange(1, len(shares) + 1), shares, color=colour, linewidth=1.5,
                  linestyle=("-", "--")[k % 2],
                  label=f"{name}: {len(counts)} different")  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="answers, the most frequent first", ylim=(0, 103),
             ylabel="questions answered by one of them, %")  # fmt: skip
    axes.set_title(title, fontsize=10)
    legend(axes)
    return figure
