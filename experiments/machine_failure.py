"""When will the machine fail, and how sure can one be?

    python -m experiments.machine_failure                     # made-up machines, no download
    python -m experiments.machine_failure --dataset fd001     # C-MAPSS turbofan engines
    python -m experiments.machine_failure --dataset fd002 --folder CMAPSSData
    python -m experiments.machine_failure --from-run RUN --predict my_engines.txt

A net reads settings and sensors cycle by cycle and says at each how many cycles are left, at most
`cap`, and how sure it is; four nets make one forecast. Engines are split whole, and scales (by
operating regime where there are several) are those of the training engines. Judged after the last
cycle of each test engine, against the true life capped, as is usual, *and* raw; beside a linear
regression on the last values or on a window of 30 cycles, and gradient boosting on the window. An
alarm is given after 3 cycles in a row with a predicted life below 30; beside it, for single cycles,
logistic regression on the window. With `--shuffle-labels` lives are dealt out at random, and the
skill is gone.

`--predict` tells the remaining life of every engine of a file in the format of C-MAPSS (26 columns,
nan where missing), or of standard input (-): a line an engine. Killed or stopped, a run goes on to
the same numbers with the same command and `--out`. Minutes on two cores.

Figures: predicted and true life, sorted and against each other; test engines over their cycles;
alarms; which past cycles and sensors matter (dL/dh_t, dL/dx_t); training.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from seqlab import plots
from seqlab.alarms import alarm_cycles, judge_alarms
from seqlab.cells.lookup import make_cell
from seqlab.cli import config_of, main
from seqlab.data.checks import check_at_least, check_positive
from seqlab.data.engine_cases import (
    EngineCases,
    EngineScaler,
    engine_cases,
    fit_engine_scaler,
)
from seqlab.data.engines import NUM_SENSORS, NUM_SETTINGS, read_engines
from seqlab.data.forecasting import load_engines
from seqlab.data.groups import check_no_leak, split_groups
from seqlab.data.windows import Answered
from seqlab.errors import InputError
from seqlab.forecast_baselines import best_ridge, gradient_boosting, logistic, window_features
from seqlab.forecaster import Forecaster, Plan, load_forecaster, look_back, train_forecaster
from seqlab.forecasts import Prediction, coverage, phm08_score, rmse
from seqlab.heads import HEADS, GaussianHead
from seqlab.metrics import bootstrap
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.runlog import RunLog, read_run
from seqlab.types import Params

KINDS = {
    "settings": range(NUM_SETTINGS),
    **{f"sensor {i + 1}": (NUM_SETTINGS + i,) for i in range(NUM_SENSORS)},
}
WINDOWS_AN_ENGINE = 50  # that an update reads in place of an engine
NUM_PROBED = 256  # windows whose gradients are measured
FALSE_ALARM_RATE = 0.01  # of cycles that are not near failure, at which recall is told
NUM_SHOWN = 8  # engines drawn over their lives
PUBLISHED = {  # test RMSE and PHM08 score, capped targets; second hand
    "fd001": (
        ("MLP (Babu et al., 2016)", 37.56, 1.80e4),
        ("CNN (Babu et al., 2016)", 18.45, 1287.0),
        ("LSTM (Zheng et al., 2017)", 16.14, 338.0),
        ("DCNN (Li et al., 2018)", 12.61, 274.0),
    ),
    "fd002": (
        ("CNN (Babu et al., 2016)", 30.29, None),
        ("LSTM (Zheng et al., 2017)", 24.49, 4450.0),
        ("DCNN (Li et al., 2018)", 22.36, 10412.0),
    ),
    "fd003": (
        ("CNN (Babu et al., 2016)", 19.82, None),
        ("LSTM (Zheng et al., 2017)", 16.18, None),
        ("DCNN (Li et al., 2018)", 12.64, None),
    ),
    "fd004": (
        ("CNN (Babu et al., 2016)", 29.16, None),
        ("LSTM (Zheng et al., 2017)", 28.17, 5550.0),
        ("DCNN (Li et al., 2018)", 23.31, 12466.0),
    ),
}


@dataclass(frozen=True)
class Config:
    """Remaining useful life with baselines, alarms, bands over engines, gradients over the past."""

    may_change: ClassVar = ("save_every",)

    dataset: Literal["simulated", "simulated-regimes", "fd001", "fd002", "fd003", "fd004"] = (
        "simulated"
    )
    """which machines"""
    folder: Path | None = None
    """that holds the files of the subset, which are fetched without it"""
    cell: str = "lstm"
    """name of a cell, or package.module:Class"""
    shape: Literal["many-to-many", "many-to-one"] = "many-to-many"
    """whether each cycle of an engine is answered, or the last of a window"""
    window: int = 30
    """cycles in a window (many-to-one, baselines, gradients)"""
    crop: int = 160
    """cycles of an engine that are trained on at once (many-to-many)"""
    head: Literal["point", "gaussian", "quantile"] = "gaussian"
    """what is said of the remaining life"""
    beta: float = 0.5
    """of the Gaussian head: 0 is the likelihood, 1 learns the mean as by squared error"""
    cap: float = 125.0
    """largest remaining life that is asked for, cycles"""
    hidden_size: int = 48
    """H, units"""
    dropout: float = 0.2
    """probability with which a unit of what the head reads is dropped in training"""
    num_nets: int = 4
    """nets that make a forecast together"""
    num_epochs: int = 150
    """times that every engine is read"""
    batch_size: int = 10
    """engines, or windows / 50, an update"""
    learning_rate: float = 5e-3
    """of Adam, falling along a cosine to a hundredth"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    num_trees: int = 150
    """the most of gradient boosting, a baseline"""
    valid_share: float = 0.15
    """of the training engines, to choose the epoch by"""
    near_cycles: int = 30
    """remaining life that counts as near failure, and below which an alarm is given"""
    alarm_cycles: int = 3
    """cycles in a row that it takes"""
    shuffle_labels: bool = False
    """a control: what is to be told is dealt out at random, and the skill must be gone"""
    log_every: int = 20
    """updates between lines of the log"""
    save_every: int = 500
    """updates between checkpoints"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("window", "crop", "hidden_size", "num_nets", "num_epochs", "batch_size",
                      "near_cycles", "alarm_cycles", "num_trees", "log_every",
                      "save_every"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.seed, 0, "seed")
        for field in ("learning_rate", "clip_norm", "cap", "valid_share"):
            check_positive(getattr(self, field), field)
        if not 0 <= self.beta <= 1:
            raise InputError(f"beta must be in 0 .. 1, got {self.beta}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be a probability below 1, got {self.dropout}")
        if self.valid_share >= 1:
            raise InputError(f"valid_share must be below 1, got {self.valid_share}")
        if self.near_cycles >= self.cap:
            raise InputError(f"near_cycles is {self.near_cycles}, not below the cap of {self.cap}")
        make_cell(self.cell, self.hidden_size, num_steps=self.window)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(hidden_size=12, num_nets=2, num_epochs=2, crop=60, num_trees=10)


class Nets(NamedTuple):
    """Trained nets, leaves [N, ...], and the scales they were trained with."""

    params: Params
    scaler: EngineScaler


def run(config: Config, log: RunLog) -> None:
    """Trains, tests beside the baselines, measures alarms and gradients over the past."""
    parts = load_parts(config)
    for name, part in parts.items():
        log.write(step=0, result="part", part=name, engines=len(part),
                  cycles=np.sum(part.is_real))  # fmt: skip
    nets, training = train(config, parts, log)
    test = parts["test"]
    data = {name: answered(config, nets.scaler, part) for name, part in parts.items()}
    prediction = forecast(config, nets, test)
    said = {f"{config.cell}, {config.head}": prediction.mean, **baselines(config, data)}
    figures = judge(config, test, prediction, said, log)
    figures |= judge_failures(config, test, said, failure_odds(config, parts, data), log)
    show_engines(config, test, prediction, log)
    past_cycles(config, nets, test, data["test"], log)
    log.finish(**training, **figures, num_regimes=len(nets.scaler.regimes))


# Data.


def load_parts(config: Config) -> dict[str, EngineCases]:
    """Engines to train on, to choose by and to test on; an engine is in one of them."""
    train, test = load_engines(config.dataset, folder=config.folder, seed=config.seed)
    groups = split_groups([e.id for e in train], {"valid": config.valid_share}, seed=config.seed)
    parts = {
        name: engine_cases([e for e in train if e.id in groups[name]], prefix="train ")
        for name in ("train", "valid")
    }
    parts["test"] = engine_cases(test, prefix="test ")
    check_no_leak({name: part.ids for name, part in parts.items()})
    return parts


def answered(config: Config, scaler: EngineScaler, cases: EngineCases) -> Answered:
    """Scaled settings and sensors, and min(life, cap) / cap at every cycle where it is known."""
    is_known = ~np.isnan(cases.life)
    targets = np.minimum(np.where(is_known, cases.life, 0.0), config.cap) / config.cap
    return Answered(
        scaler(cases), targets[..., None].astype(np.float32), is_known[..., None], cases.is_real
    )


# Training.


def make_forecaster(config: Config) -> Forecaster:
    """Settings and sensors in; what the head says of the remaining life out."""
    is_aligned = config.shape == "many-to-many"
    head = GaussianHead(config.beta) if config.head == "gaussian" else HEADS[config.head]
    model = functional(
        ManyToMany if is_aligned else ManyToOne,
        make_cell(config.cell, config.hidden_size, num_steps=config.window),
        input_size=NUM_SETTINGS + NUM_SENSORS,
        output_size=head.output_size(1),
        drop_features=config.dropout,
    )
    return Forecaster(model, head, None if is_aligned else config.window)


def make_plan(config: Config) -> Plan:
    """How the nets are trained."""
    rows = 1 if config.shape == "many-to-many" else WINDOWS_AN_ENGINE
    return Plan.of(config, batch_size=rows * config.batch_size)


def train(
    config: Config, parts: dict[str, EngineCases], log: RunLog
) -> tuple[Nets, dict[str, Any]]:
    """Nets at their best, and figures of their training."""
    scaler = fit_engine_scaler("train", parts["train"])
    for each in (scaler.settings, scaler.sensors):
        check_no_leak({name: part.ids for name, part in parts.items()}, each)
    data = {name: answered(config, scaler, parts[name]) for name in ("train", "valid")}
    if config.shuffle_labels:
        known = data["train"].is_known
        rng = np.random.default_rng([config.seed, 1])
        data["train"].targets[known] = rng.permutation(data["train"].targets[known])
    params, figures = train_forecaster(
        log, make_forecaster(config), make_plan(config), data, {"scales": scaler.to_json()}
    )
    return Nets(params, scaler), figures


def load(path: Path) -> tuple[Config, Nets]:
    """Config and nets of a finished run."""
    config = config_of(Config, read_run(path).record, path)
    params, files = load_forecaster(path, make_forecaster(config), make_plan(config), ("scales",))
    return config, Nets(params, EngineScaler.from_json(files["scales"]))


# Forecasts.


def forecast(config: Config, nets: Nets, cases: EngineCases) -> Prediction:
    """Remaining life after every cycle, in cycles, [N, T]."""
    data = answered(config, nets.scaler, cases)
    said = make_forecaster(config).predict(nets.params, data).rescaled(config.cap)
    said = said.reshaped(cases.is_real.shape)
    return replace(said, mean=np.maximum(said.mean, 0.0))


def baselines(config: Config, data: dict[str, Answered]) -> dict[str, np.ndarray]:
    """Remaining life after every cycle of the test part by each baseline, cycles, [N, T]."""
    last = {name: each.xs[each.is_real].astype(float) for name, each in data.items()}
    features = {name: of_windows(config, each) for name, each in data.items()}
    targets = {name: config.cap * each.targets[each.is_real][:, 0] for name, each in data.items()}
    is_known = {name: each.is_known[each.is_real][:, 0] for name, each in data.items()}

    def pairs(predictors):
        return [
            (predictors[name][is_known[name]], targets[name][is_known[name]])
            for name in ("train", "valid")
        ]

    def columns(predictors):
        return [(xs, ys[:, None]) for xs, ys in pairs(predictors)]

    trees = gradient_boosting(*pairs(features), most_trees=config.num_trees, seed=config.seed)
    mean_life = np.mean(targets["train"][is_known["train"]])
    found = {
        "mean life": np.full(len(last["test"]), mean_life),
        "linear, last value": best_ridge(*columns(last))(last["test"])[:, 0],
        "linear, window": best_ridge(*columns(features))(features["test"])[:, 0],
        "gradient boosting, window": trees(features["test"]),
    }
    return {
        name: placed(data["test"], np.clip(values, 0.0, config.cap))
        for name, values in found.items()
    }


def failure_odds(config: Config, parts, data: dict[str, Answered]) -> np.ndarray | None:
    """Log odds of a failure within `near_cycles` after every cycle of the test part, [N, T].

    By logistic regression on the window; None where the training cycles are all near or all far.
    """
    pairs = []
    for name in ("train", "valid"):
        life = parts[name].life[data[name].is_real]
        is_known = ~np.isnan(life)
        labels = life[is_known] <= config.near_cycles
        pairs.append((of_windows(config, data[name])[is_known], labels))
    if len(np.unique(pairs[0][1])) < 2:
        return None
    return placed(data["test"], logistic(*pairs)(of_windows(config, data["test"])))


def of_windows(config: Config, data: Answered) -> np.ndarray:
    """Features of the window up to every cycle, [cycles, P]."""
    return window_features(*data.windows(np.argwhere(data.is_real), config.window))


def placed(data: Answered, values: np.ndarray) -> np.ndarray:
    """A number for every cycle there is as [N, T], NaN where there is none."""
    found = np.full(data.is_real.shape, np.nan)
    found[data.is_real] = values
    return found


# Judging.


def judge(config, test, prediction, said, log) -> dict[str, Any]:
    """The table of the last cycle of each test engine, and the figures of the summary."""
    at = test.last
    true = test.life[at]
    is_known = ~np.isnan(true)
    true, capped = true[is_known], np.minimum(true[is_known], config.cap)
    label = next(iter(said))  # of the nets
    rows, figures = [], {}
    for name, values in said.items():
        found = values[at][is_known]
        band = bootstrap(np.square(found - capped), _root_mean)
        rows.append({
            "forecast": name,
            "RMSE, capped": f"{band.middle:.2f} ({band.low:.2f} to {band.high:.2f})",
            "RMSE, raw": f"{rmse(found, true):.2f}",
            "score, capped": f"{phm08_score(found, capped):.0f}",
            "score, raw": f"{phm08_score(found, true):.0f}",
        })  # fmt: skip
        prefix = "" if name == label else f"{name.replace(', ', '_').replace(' ', '_')}_"
        figures |= {
            f"{prefix}rul_rmse_capped": float(band.middle),
            f"{prefix}rul_rmse_capped_low": float(band.low),
            f"{prefix}rul_rmse_capped_high": float(band.high),
            f"{prefix}rul_rmse_raw": rmse(found, true),
            f"{prefix}rul_score": phm08_score(found, capped),
            f"{prefix}rul_score_raw": phm08_score(found, true),
        }
    trees = said["gradient boosting, window"][at][is_known]
    over = bootstrap(np.stack([np.square(prediction.mean[at][is_known] - capped),
                               np.square(trees - capped)], axis=1), _skill)  # fmt: skip
    for edge, value in zip(("", "_low", "_high"), over, strict=True):
        figures[f"skill_over_boosting{edge}"] = float(value)
    spread: dict[str, Any] = {}
    if prediction.is_probabilistic:
        low, high = prediction.interval(0.9)
        spread = {"low": np.maximum(low, 0.0), "high": high}
        truth = np.minimum(test.life, config.cap)
        every = ~np.isnan(truth)
        figures |= {
            "coverage_90": coverage(low[at][is_known], high[at][is_known], capped),
            "coverage_90_all_cycles": coverage(low[every], high[every], truth[every]),
            "crps_cycles": float(np.mean(prediction.crps(truth)[at][is_known])),
        }
    else:
        figures |= {"coverage_90": None, "crps_cycles": None}
    for row in np.flatnonzero(is_known).tolist():
        step = at[1][row]
        log.write(step=0, result="engine", engine=test.ids[row], true=test.life[row, step],
                  predicted=prediction.mean[row, step],
                  **{name: values[row, step] for name, values in spread.items()})  # fmt: skip
    title = f"{config.dataset}: last cycle of {len(true)} test engines, cap {config.cap:g} cycles"
    log.table(f"{title}; 95 % band over engines", rows)
    if config.dataset in PUBLISHED:
        names = ("model", "RMSE", "score")
        rows = [dict(zip(names, row, strict=True)) for row in PUBLISHED[config.dataset]]
        name = config.dataset.upper()
        log.table(f"published for {name}, with caps of 125 or 130 (second hand)", rows)
    return {**figures, "num_test_engines": len(true), "cell": config.cell}


def _root_mean(values, axis):
    return np.sqrt(np.mean(values, axis=axis))


def _skill(values, axis):
    own, other = np.moveaxis(np.sqrt(np.mean(values, axis=axis)), -1, 0)
    return 1.0 - own / other


def judge_failures(config, test, said, odds, log) -> dict[str, Any]:
    """How well nearing failure is told: cycle by cycle, and by the first alarm of an engine.

    A cycle is near failure with `near_cycles` or fewer to go.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

    is_known = ~np.isnan(test.life)
    near = test.life[is_known] <= config.near_cycles
    if near.all() or not near.any():
        log.note("all cycles of the test part are near failure, or none: no figures of alarms")
        return {}
    label = next(iter(said))
    danger = {name: -lives for name, lives in said.items() if name != "mean life"}
    if odds is not None:
        danger["logistic, window"] = odds
    figures: dict[str, Any] = {}
    rows = []
    for name, values in danger.items():
        precision, recall, _ = precision_recall_curve(near, values[is_known])
        false_rate, true_rate, _ = roc_curve(near, values[is_known])
        caught = float(true_rate[false_rate <= FALSE_ALARM_RATE].max())
        area = float(average_precision_score(near, values[is_known]))
        row = {"forecast": name, "area under precision-recall": area,
               f"recall at {FALSE_ALARM_RATE:.0%} false alarms": caught}  # fmt: skip
        thin = np.unique(np.linspace(0, len(recall) - 1, 200).astype(int))
        curve: dict[str, Any] = {"recall": recall[thin], "precision": precision[thin]}
        if name in said:
            thresholds = np.arange(5, int(min(2 * config.near_cycles, config.cap)) + 1, 5)
            found = [first_alarms(config, test, said[name], each) for each in thresholds.tolist()]
            curve |= {"thresholds": thresholds,
                      **{field: [getattr(each, field) for each in found]
                         for field in found[0]._fields}}  # fmt: skip
            own = first_alarms(config, test, said[name], config.near_cycles)
            row |= {"engines near failure with alarm": own.detected,
                    "engines alarmed too early": own.false_alarms,
                    "median lead, cycles": own.lead_cycles}  # fmt: skip
            if name == label:
                figures = {
                    "failure_average_precision": area, "failure_recall_at_1_percent": caught,
                    "alarm_detected_share": own.detected,
                    "alarm_too_early_share": own.false_alarms,
                    "alarm_lead_cycles": own.lead_cycles,
                }  # fmt: skip
        log.write(step=0, result="alarms", forecast=name, average_precision=area, **curve)
        rows.append(row)
    log.table(f"failure within {config.near_cycles} cycles", rows)
    return figures


def first_alarms(config, cases, lives, threshold):
    """How good the first alarms below a threshold are."""
    cycles = alarm_cycles(lives, cases.is_real, threshold, config.alarm_cycles)
    return judge_alarms(cycles, cases.life, cases.last[1], config.near_cycles)


def show_engines(config, test, prediction, log) -> None:
    """Writes the course of some test engines, from those that came nearest to failure on."""
    low, high = prediction.interval(0.9) if prediction.is_probabilistic else (None, None)
    alarms = alarm_cycles(prediction.mean, test.is_real, config.near_cycles, config.alarm_cycles)
    ends = np.argsort(test.life[test.last], kind="stable")
    shown = ends[np.linspace(0, len(ends) - 1, min(NUM_SHOWN, len(ends))).astype(int)]
    for row in shown.tolist():
        real = test.is_real[row]
        spread = {} if low is None else {"low": np.maximum(low[row, real], 0.0),
                                         "high": high[row, real]}  # fmt: skip
        log.write(step=0, result="course", engine=test.ids[row], true=test.life[row, real],
                  predicted=prediction.mean[row, real], alarm=alarms[row], **spread)  # fmt: skip


def past_cycles(config, nets, test, data, log) -> None:
    """dL/dx_t and dL/dcarry_t over a window, L the squared error of the life after its last."""
    rows = np.argwhere(data.is_known[..., 0])
    is_whole = rows[:, 1] >= config.window - 1
    # Where life is below the cap: above it nothing has to be read.
    whole = rows[is_whole & (test.life[rows[:, 0], rows[:, 1]] < config.cap)]
    if not len(whole):
        log.note(f"no test engine has {config.window} cycles below the cap: no gradients")
        return
    chosen = whole[np.linspace(0, len(whole) - 1, min(len(whole), NUM_PROBED)).astype(int)]
    scaler = nets.scaler
    look_back(
        log, make_forecaster(config), nets.params, data.windows(chosen, config.window)[0],
        data.targets[chosen[:, 0], chosen[:, 1]], columns=slice(0, 1),
        is_constant=np.concatenate([scaler.settings.is_constant, scaler.sensors.is_constant]),
        groups=KINDS, cycles=np.arange(config.window)[::-1], sequences=len(chosen),
    )  # fmt: skip


# Engines of one's own.


def predict(path: Path, source: Path) -> None:
    """Prints the remaining life of each engine of a file after its last cycle, tabs between.

    Raises:
      InputError: whatever `read_engines` refuses.
    """
    config, nets = load(path)
    cases = engine_cases(list(read_engines(source)))
    prediction = forecast(config, nets, cases)
    columns = [prediction.mean]
    if prediction.is_probabilistic:
        columns += [np.maximum(edge, 0.0) for edge in prediction.interval(0.9)]
    sys.stdout.write("engine\tcycles_seen\tcycles_left\tlow_90\thigh_90\n")
    for id, row, last in zip(cases.ids, *cases.last, strict=True):
        found = [f"{values[row, last]:.1f}" for values in columns]
        found += [""] * (3 - len(found))
        sys.stdout.write("\t".join([id, str(last + 1), *found]) + "\n")


# Figures.


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures, summary, config = directory / "figures", finished.summary, finished.config
    select = lambda **fields: plots.pick(finished.metrics, **fields)  # noqa: E731
    label = f"{config['cell']}, {config['shape']}, {config['head']} head"
    engines = select(result="engine")
    plots.save(
        plots.lives_sorted(
            engines, cap=config["cap"],
            title=f"{config['dataset']}: {len(engines)} test engines after their last cycle; "
            f"RMSE {summary['rul_rmse_capped']:.2f} cycles capped, "
            f"{summary['rul_rmse_raw']:.2f} raw",
        ),
        figures / "sorted.png",
    )  # fmt: skip
    courses = select(result="course")
    if courses:
        plots.save(
            plots.lives_of_engines(
                courses, cap=config["cap"], threshold=config["near_cycles"],
                title=f"{config['dataset']}: test engines over their cycles, {label}",
            ),
            figures / "engines.png",
        )  # fmt: skip
        curves = {row["forecast"]: row for row in select(result="alarms")}
        plots.save(
            plots.alarms(curves, horizon=config["near_cycles"],
                         title=f"{config['dataset']}: failure told ahead, test engines"),
            figures / "alarms.png",
        )  # fmt: skip
    carry = select(probe="carry")
    if carry:
        plots.save(
            plots.past_gradients(
                carry[0], select(probe="input")[0], select(probe="group"), unit="cycles",
                title="what a forecast of remaining life reads: gradient of its squared error, "
                f"{carry[0]['sequences']} test windows, {config['num_nets']} nets",
            ),
            figures / "past_cycles.png",
        )  # fmt: skip
    plots.save(
        plots.nets_training(select(split="updates"), select(split="valid"),
                            title=f"{label}: {config['num_nets']} nets"),
        figures / "training.png",
    )  # fmt: skip


if __name__ == "__main__":
    main(Config, run, plot, predict=predict)
