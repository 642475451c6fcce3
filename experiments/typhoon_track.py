"""Where will the typhoon go, and how sure can one be?

    python -m experiments.typhoon_track                       # made-up storms, no download
    python -m experiments.typhoon_track --dataset jma         # western North Pacific
    python -m experiments.typhoon_track --dataset hurdat2     # Atlantic
    python -m experiments.typhoon_track --dataset jma --predict my_track.csv
    python -m experiments.typhoon_track --predict-from RUN_DIR --predict my_track.csv

A net reads a track point by point, every 6 hours: position, motion of the last 6 hours, wind,
pressure, date. At every point it says how far east and north the storm will be after 6, 12 ... 72
hours, in km on the sphere, and how sure it is; four nets make one forecast. Storms are split by
season, and neither nets nor scales nor baselines see a later one. Beside it: constant motion along
the great circle (persistence), and a CLIPER-style ridge regression on position, motions, their
products, wind, pressure and date. All stages of a track count, extratropical ones too: these errors
are not an agency's verification. Bands are over whole storms.

Measured on two cores (direct, GRU with 64 units, Gaussian head, the defaults), storms of 2015-2019
after training on those to 2010; mean great-circle error in km, and skill over persistence at 24 h
in % with its 95 % band:

| `--dataset jma`, 115 storms | 6 h | 12 h | 24 h | 48 h | 72 h | skill |
|---|---|---|---|---|---|---|
| GRU | 42.8 | 88.2 | 194.4 | 438.8 | 680.7 | 18.8 (16.1 to 21.2) |
| GRU, `--strategy recursive` | 43.8 | 90.2 | 199.8 | 450.5 | 702.7 | 16.5 (13.9 to 18.8) |
| CLIPER-style regression | 44.8 | 94.8 | 214.5 | 488.3 | 748.1 | 10.3 (7.6 to 12.8) |
| persistence, motion of 6 h | 46.1 | 101.0 | 239.2 | 591.5 | 979.5 | 0 |
| GRU, `--shuffle-labels` | 109.0 | 213.2 | 411.0 | 779.4 | 1121.5 | -71.8 (-80.3 to -63.8) |

| `--dataset hurdat2`, 82 storms | 6 h | 12 h | 24 h | 48 h | 72 h | skill |
|---|---|---|---|---|---|---|
| GRU | 32.3 | 77.6 | 192.0 | 463.2 | 747.8 | 13.2 (9.7 to 16.6) |
| CLIPER-style regression | 32.2 | 79.1 | 197.6 | 479.1 | 768.8 | 10.7 (7.5 to 13.7) |
| persistence, motion of 6 h | 34.2 | 86.3 | 221.2 | 567.2 | 977.0 | 0 |

At 24 h the GRU's error is 9.4 % (7.2 to 11.4) below that of the regression on jma and 2.8 % (0.9
to 4.8) on hurdat2, where at 6 h it is no better. Its 90 % intervals hold 89.6 and 92.6 % of the
truths. On made-up storms: 107.6 km at 24 h, regression 110.9, persistence 139.8. A run takes a
minute or two of an idle machine.

Figures: error and skill over lead; test tracks on a map with forecast cones; coverage and width of
intervals; which past hours matter (dL/dh_t, dL/dx_t, the latter by kind of input); training.
"""

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqlab import plots
from seqlab.cells.lookup import make_cell
from seqlab.cli import config_of, main
from seqlab.data.checks import check_at_least, check_known, check_positive
from seqlab.data.forecasting import STORM_SETS, load_storms
from seqlab.data.groups import Part, Scaler, check_no_leak, fit_scaler, split_years
from seqlab.data.track_cases import (
    FEATURES,
    FIRST_CASE,
    GROUPS,
    STEP_HOURS,
    TrackCases,
    arriving_motion,
    point_features,
    track_cases,
)
from seqlab.data.tracks import Storm, read_storms
from seqlab.data.windows import Answered, Batches
from seqlab.ensemble import map_nets, stacked, train_epochs
from seqlab.errors import InputError
from seqlab.forecast_baselines import best_ridge, cliper_predictors, persistence
from seqlab.forecasts import Prediction, coverage, mean_error, skill
from seqlab.geodesy import destination, displacement_km, great_circle_km
from seqlab.gradflow.taps import log_norm_over_time, zero_taps
from seqlab.heads import HEADS
from seqlab.losses import masked_mean
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.runlog import RunLog, read_record, read_run
from seqlab.saved_nets import load_nets, save_nets
from seqlab.train import fresh_state, learning_rate_schedule, make_train_step

LEADS_HOURS = (6, 12, 24, 48, 72)  # of the table
JUDGED_HOURS = 24
NETS = "nets.npz"
LAST_YEARS = {"train": 2010, "valid": 2014, "test": 2019}
FIRST_YEARS = {"simulated": 1990, "jma": 1951, "hurdat2": 1950}
CHI_90 = float(np.sqrt(-2 * np.log(0.1)))  # radius that holds 90 % of a round Gaussian, in its std
CROP = 48  # steps of a track that are trained on at once
NUM_SHOWN = 4  # storms on the map


@dataclass(frozen=True)
class Config:
    """Track forecasts with baselines, bands over storms and gradients over past hours."""

    dataset: Literal["simulated", "jma", "hurdat2"] = "simulated"
    """which storms"""
    tracks: Path | None = None
    """a best-track file to train and test on instead (JMA, HURDAT2, IBTrACS, or a table)"""
    first_year: int | None = None
    """of the seasons to train on; None: 1990, 1951 for jma, 1950 for hurdat2"""
    train_until: int = 2010
    """last season to train on"""
    valid_until: int = 2014
    """last season to choose the epoch by"""
    test_until: int = 2019
    """last season to test on"""
    cell: str = "gru"
    """name of a cell, or package.module:Class"""
    shape: Literal["many-to-many", "many-to-one"] = "many-to-many"
    """whether each step of a whole track is answered, or the last of a window"""
    window: int = 16
    """steps of 6 hours in a window (many-to-one, recursive, gradients)"""
    strategy: Literal["direct", "recursive"] = "direct"
    """whether all leads are answered at once, or 6 hours are and their answer is fed back"""
    head: Literal["point", "gaussian", "quantile"] = "gaussian"
    """what is said of each displacement"""
    hidden_size: int = 64
    """H, units"""
    num_nets: int = 4
    """nets that make a forecast together"""
    num_samples: int = 4
    """paths of each net that a recursive Gaussian forecast follows"""
    num_epochs: int = 40
    """times that every track is read"""
    batch_size: int = 32
    """tracks, or windows / 16, an update"""
    learning_rate: float = 5e-3
    """of Adam, falling along a cosine to a hundredth"""
    clip_norm: float = 1.0
    """largest global gradient norm let through"""
    shuffle_labels: bool = False
    """a control: what is to be told is dealt out at random, and the skill must be gone"""
    predict: Path | None = None
    """forecast from the last point of each track of a file, after the training"""
    predict_from: Path | None = None
    """take the nets of an earlier run for that instead of training"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("window", "hidden_size", "num_nets", "num_samples", "num_epochs",
                      "batch_size"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.window, FIRST_CASE, "window")
        check_at_least(self.seed, 0, "seed")
        for field in ("learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)
        check_known(self.dataset, STORM_SETS, "dataset")
        make_cell(self.cell, self.hidden_size, num_steps=self.window)
        if self.predict_from is not None and self.predict is None:
            raise InputError("predict_from is read with --predict FILE")

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(first_year=2005, hidden_size=16, num_nets=2, num_epochs=4, num_samples=2)


class Trained(NamedTuple):
    """Nets and the scales they were trained with.

    Attributes:
      params: of N nets, leaves [N, ...].
      inputs: scale of the features.
      targets: scale of the displacements, [H * 2].
    """

    params: Any
    inputs: Scaler
    targets: Scaler


def run(config: Config, log: RunLog) -> None:
    """Trains, tests beside the baselines, measures gradients, and forecasts a file."""
    asked = to_predict(config.predict)  # before the training, not after it
    if config.predict_from is not None:
        earlier = config_of(Config, read_record(config.predict_from), config.predict_from)
        trained = load(earlier, config.predict_from / NETS)
        predict(earlier, trained, config.predict, asked, log)
        log.finish(predicted=str(config.predict), nets=str(config.predict_from))
        return
    parts = load_parts(config)
    for name, part in parts.items():
        log.write(step=0, result="part", split=name, storms=len(set(part.ids)), pieces=len(part),
                  first_year=min(part.years), last_year=max(part.years),
                  cases=np.sum(part.is_case, axis=(0, 1)))  # fmt: skip
    trained = train(config, parts, log)
    save_nets(log.path / NETS, trained.params, scales(trained))
    test = parts["test"]
    prediction = forecast(config, trained, test)
    others = baselines(parts)
    figures = judge(config, test, prediction, others, log)
    past_hours(config, trained, test, log)
    show_storms(test, prediction, log)
    if asked is not None:
        predict(config, trained, config.predict, asked, log)
    log.finish(**figures)


# Data.


def load_parts(config: Config) -> dict[str, TrackCases]:
    """Pieces of tracks to train on, to choose by and to test on; a storm is in one of them."""
    storms = load_storms(config.dataset, tracks=config.tracks, seed=config.seed)
    first = config.first_year
    if first is None and config.tracks is None:
        first = FIRST_YEARS[config.dataset]
    years = {storm.id: storm.year for storm in storms if first is None or storm.year >= first}
    last = {
        "train": config.train_until, "valid": config.valid_until, "test": config.test_until,
    }  # fmt: skip
    groups = split_years(years, last)
    cases = track_cases([storm for storm in storms if storm.id in years])
    parts = {name: cases.of(members) for name, members in groups.items()}
    check_no_leak({name: part.ids for name, part in parts.items()})
    return parts


def fit_scales(train: TrackCases) -> tuple[Scaler, Scaler]:
    """Of features and of displacements, by the training storms alone."""
    is_real = train.is_real
    groups = [id for id, row in zip(train.ids, is_real, strict=True) for _ in range(row.sum())]
    inputs = fit_scaler(Part("train", train.features[is_real], groups))
    targets = train.targets[is_real].reshape(int(is_real.sum()), -1)
    return inputs, fit_scaler(Part("train", targets, groups))


def scales(trained: Trained) -> dict[str, np.ndarray]:
    """The scalers' numbers, to be saved."""
    return {
        f"{name}_{field}": getattr(getattr(trained, name), field)
        for name in ("inputs", "targets")
        for field in ("mean", "std", "is_constant")
    }


def load(config: Config, path: Path) -> Trained:
    """What an earlier run has saved."""
    model = make_model(config)
    like = jax.eval_shape(jax.vmap(model.init), jax.random.split(jax.random.key(0), 1))
    params, arrays = load_nets(path, like)

    def scaler(name):
        mean, std, is_constant = (arrays[f"{name}_{f}"] for f in ("mean", "std", "is_constant"))
        return Scaler(mean, std, frozenset(), is_constant)

    return Trained(params, scaler("inputs"), scaler("targets"))


def num_leads(config: Config) -> int:
    """Leads that a net answers: all, or the first alone."""
    return 1 if config.strategy == "recursive" else max(LEADS_HOURS) // STEP_HOURS


def answered(config: Config, trained: Trained, cases: TrackCases) -> Answered:
    """Scaled features, and scaled displacements as a net is to give them, lead after lead.

    Answers are asked for from the second point on, where there is a motion.
    """
    values = cases.targets.reshape(*cases.is_real.shape, -1)
    is_known = ~np.isnan(values)
    targets = np.where(is_known, trained.targets(np.where(is_known, values, 0.0)), 0.0)
    is_known = is_known & (np.arange(cases.is_real.shape[1]) >= 1)[:, None]
    size = 2 * num_leads(config)
    return Answered(
        trained.inputs(cases.features).astype(np.float32),
        targets[..., :size].astype(np.float32),
        is_known[..., :size],
        cases.is_real,
    )


# Training.


def make_model(config):
    """The model as pure functions."""
    return functional(
        ManyToMany if config.shape == "many-to-many" else ManyToOne,
        make_cell(config.cell, config.hidden_size, num_steps=config.window),
        input_size=len(FEATURES),
        output_size=HEADS[config.head].output_size(2 * num_leads(config)),
    )


def batches(config: Config, data: Answered, seed: int) -> Batches:
    """One net's batches: of whole tracks, or of as many windows as these have steps."""
    if config.shape == "many-to-many":
        return Batches(data, config.batch_size, crop=CROP, seed=seed)
    return Batches(data, 16 * config.batch_size, window=config.window, seed=seed)


def train(config: Config, parts: dict[str, TrackCases], log: RunLog) -> Trained:
    """Nets side by side, each as it was after its best epoch in validation."""
    inputs, targets = fit_scales(parts["train"])
    check_no_leak({name: part.ids for name, part in parts.items()}, inputs)
    trained = Trained(None, inputs, targets)
    model, head = make_model(config), HEADS[config.head]

    def loss_fn(params, batch, key):
        del key  # nothing here is random
        logits = model.apply(params, batch["xs"], batch["mask"]).logits
        return masked_mean(head.losses(logits, batch["targets"]), batch["is_known"]), {}

    data = {name: answered(config, trained, part) for name, part in parts.items()}
    learned = shuffled(data["train"], config.seed) if config.shuffle_labels else data["train"]
    readers = [
        batches(config, learned, config.num_nets * config.seed + net)
        for net in range(config.num_nets)
    ]
    per_epoch = readers[0].per_epoch
    num_updates = config.num_epochs * per_epoch
    rate = learning_rate_schedule("cosine", config.learning_rate, num_steps=num_updates, final=0.01)
    step = make_train_step(loss_fn, optax.adam(rate), clip_norm=config.clip_norm)
    keys = jax.random.split(jax.random.key(config.seed), config.num_nets)
    state = jax.vmap(lambda key: fresh_state(model.init, step.optimizer, key))(keys)
    valid = batches(config, data["valid"], 0)
    seen = [stacked([batch] * config.num_nets) for batch in islice(valid, valid.per_epoch)]
    valid_loss = map_nets(lambda params, batch: loss_fn(params, batch, None)[0], config.num_nets)
    epoch = None
    for epoch in log.progress(
        train_epochs(
            step,
            state,
            map(stacked, zip(*readers, strict=True)),
            lambda params: np.mean([valid_loss(params, batch) for batch in seen], axis=0),
            per_epoch=per_epoch,
            num_epochs=config.num_epochs,
        ),
        total=config.num_epochs,
        description="epochs",
    ):
        log.write(step=epoch.step, epoch=epoch.epoch, train_loss=epoch.train_loss,
                  valid_loss=epoch.valid_loss)  # fmt: skip
    assert epoch is not None
    return trained._replace(params=epoch.best)


def shuffled(data: Answered, seed: int) -> Answered:
    """The same with its targets dealt out at random over all steps that have every lead."""
    whole = data.is_known.all(axis=-1)
    targets = data.targets.copy()
    targets[whole] = np.random.default_rng([seed, 1]).permutation(targets[whole])
    return replace(data, targets=targets, is_known=data.is_known & whole[..., None])


# Forecasts.


def forecast(config: Config, trained: Trained, cases: TrackCases) -> Prediction:
    """Displacements of all leads from every point of the pieces, km, [N, T, H, 2]."""
    if config.strategy == "recursive":
        return roll_out(config, trained, cases)
    model, head = make_model(config), HEADS[config.head]
    data = answered(config, trained, cases)
    apply = jax.jit(jax.vmap(lambda p, xs, mask: model.apply(p, xs, mask).logits, (0, None, None)))
    if config.shape == "many-to-many":
        logits = np.asarray(apply(trained.params, data.xs, data.is_real))
    else:
        rows = np.argwhere(cases.is_real)
        found = [
            np.asarray(apply(trained.params, *data.windows(some, config.window)))
            for some in np.array_split(rows, -(-len(rows) // 4096))
        ]
        found = np.concatenate(found, axis=1)
        logits = np.zeros((len(found), *cases.is_real.shape, found.shape[-1]), np.float32)
        logits[:, rows[:, 0], rows[:, 1]] = found
    size = num_leads(config), 2
    prediction = head.predict(logits).rescaled(trained.targets.std, trained.targets.mean)
    lead = lambda values: values.reshape(*cases.is_real.shape, *size)  # noqa: E731
    quantiles = prediction.quantiles
    return Prediction(
        lead(prediction.mean),
        None if prediction.std is None else lead(prediction.std),
        prediction.levels,
        None if quantiles is None else quantiles.reshape(*cases.is_real.shape, *size, -1),
    )


def roll_out(config: Config, trained: Trained, cases: TrackCases) -> Prediction:
    """The same by 6 hours at a time: each answer is a point that the next is asked from.

    Wind and pressure are held. With a Gaussian head every net follows `num_samples` paths, on each
    of which the steps are drawn, and their moments are the forecast; with another head each net
    follows its best guess and the forecast is a point.
    """
    model, head = make_model(config), HEADS[config.head]
    is_gaussian = config.head == "gaussian"
    paths = config.num_samples if is_gaussian else 1
    data = answered(config, trained, cases)
    rows = np.argwhere(cases.is_real)
    leads = max(LEADS_HOURS) // STEP_HOURS
    scale, shift = trained.targets.std[:2], trained.targets.mean[:2]
    at = rows[:, 0], rows[:, 1]
    rng = np.random.default_rng([config.seed, 2])

    @jax.jit
    def answer(params, xs, mask):
        logits = model.apply(params, xs, mask).logits
        return logits[..., -1, :] if config.shape == "many-to-many" else logits

    ends = []
    for net in range(config.num_nets):
        params = jax.tree.map(lambda leaf, net=net: leaf[net], trained.params)
        for _ in range(paths):
            xs, mask = data.windows(rows, config.window)
            lat, lon, reached = cases.lat[at], cases.lon[at], []
            for lead in range(1, leads + 1):
                said = head.predict(np.asarray(answer(params, xs, mask))[None])
                move = said.rescaled(scale, shift)
                step = move.mean
                if move.std is not None:
                    step = step + move.std * rng.normal(size=step.shape)
                new_lat, new_lon = destination(lat, lon, step)
                motion = arriving_motion(lat, lon, new_lat, new_lon)
                lat, lon = new_lat, new_lon
                reached.append(displacement_km(cases.lat[at], cases.lon[at], lat, lon))
                times = cases.times[at] + lead * np.timedelta64(60 * STEP_HOURS, "m")
                point = point_features(
                    lat, lon, motion, cases.wind_kt[at], cases.pressure_hpa[at], times
                )
                new = trained.inputs(point).astype(np.float32)
                xs = np.concatenate([xs[:, 1:], new[:, None]], axis=1)
                mask = np.concatenate([mask[:, 1:], np.ones((len(mask), 1), bool)], axis=1)
            ends.append(np.stack(reached, axis=1))
    mean = np.zeros((*cases.is_real.shape, leads, 2))
    mean[at] = np.mean(ends, axis=0)
    if not is_gaussian or len(ends) == 1:
        return Prediction(mean)
    std = np.ones_like(mean)
    std[at] = np.maximum(np.std(ends, axis=0, ddof=1), 1e-3)
    return Prediction(mean, std)


def baselines(parts: dict[str, TrackCases]) -> dict[str, np.ndarray]:
    """Displacements by each baseline from every point of the test part, km, [N, T, H, 2]."""
    test = parts["test"]
    leads = test.targets.shape[2]
    motion = test.features[..., 3:5]
    half_day = np.full_like(motion, np.nan)
    half_day[:, 2:] = arriving_motion(test.lat[:, :-2], test.lon[:, :-2], test.lat[:, 2:],
                                      test.lon[:, 2:]) / 2  # fmt: skip
    centre = parts["train"]
    centre_lon = np.degrees(
        np.arctan2(np.nanmean(centre.features[..., 1]), np.nanmean(centre.features[..., 2]))
    )

    def predictors(part):
        return cliper_predictors(
            part.lat, part.lon, part.wind_kt, part.pressure_hpa, part.features[..., 10:12],
            centre_lon,
        )  # fmt: skip

    xs = {name: predictors(part) for name, part in parts.items()}
    cliper = np.full(test.targets.shape, np.nan)
    for lead in range(leads):
        rows = {name: part.is_case[:, FIRST_CASE:, lead] for name, part in parts.items()}
        pairs = [
            (xs[name][rows[name]], parts[name].targets[:, FIRST_CASE:, lead][rows[name]])
            for name in ("train", "valid")
        ]
        ridge = best_ridge(*pairs)
        is_case = rows["test"]
        cliper[:, FIRST_CASE:, lead][is_case] = ridge(xs["test"][is_case])
    return {
        "persistence": persistence(motion, leads),
        "persistence 12 h": persistence(half_day, leads),
        "cliper": cliper,
    }


def track_errors(cases: TrackCases, displacements: np.ndarray) -> np.ndarray:
    """Great-circle distance from forecast to best track in km, [N, T, H]; NaN where no case."""
    lat, lon = destination(cases.lat[..., None], cases.lon[..., None], displacements)
    true_lat, true_lon = destination(cases.lat[..., None], cases.lon[..., None], cases.targets)
    errors = great_circle_km(lat, lon, true_lat, true_lon)
    return np.where(cases.is_case, errors, np.nan)


# Judging.


def judge(config, test, prediction, others, log) -> dict[str, Any]:
    """The table, its lines in the log, and the figures of the summary."""
    errors = {"model": track_errors(test, prediction.mean)}
    errors |= {name: track_errors(test, moves) for name, moves in others.items()}
    ids = np.broadcast_to(np.array(test.ids)[:, None], test.is_real.shape)
    leads = STEP_HOURS * np.arange(1, test.targets.shape[2] + 1)
    names = {"model": f"{config.cell}, {config.strategy}", **{name: name for name in others}}
    rows = {name: {"forecast": label} for name, label in names.items()}
    figures, skills = {}, {}
    for place, hours in enumerate(leads.tolist()):
        is_case = test.is_case[..., place]
        if not is_case.any():
            continue
        groups = ids[is_case]
        found = {name: each[..., place][is_case] for name, each in errors.items()}
        for name, values in found.items():
            interval = mean_error(values, groups)
            over = skill(values, found["persistence"], groups)
            log.write(step=0, result="lead", forecast=name, hours=hours, cases=len(values),
                      error_km=tuple(interval), skill=tuple(over))  # fmt: skip
            if hours in LEADS_HOURS:
                rows[name][f"{hours} h, km"] = f"{interval.middle:.1f}"
                prefix = "" if name == "model" else f"{name.replace(' ', '_')}_"
                figures[f"{prefix}track_error_{hours}h_km"] = float(interval.middle)
            if hours == JUDGED_HOURS:
                percent = tuple(f"{100 * edge:.1f}" for edge in over)
                skills[name] = "{} ({} to {})".format(*percent)
        if hours == JUDGED_HOURS:
            for key, baseline in (
                ("skill_24h", "persistence"),
                ("skill_over_cliper_24h", "cliper"),
            ):
                over = skill(found["model"], found[baseline], groups)
                figures |= {key: float(over.middle), f"{key}_low": float(over.low),
                            f"{key}_high": float(over.high)}  # fmt: skip
    figures |= judge_spread(test, prediction, leads, log)
    log.table(
        f"{config.tracks or config.dataset}: mean track error, {len(set(test.ids))} storms of "
        f"{min(test.years)}-{max(test.years)}; skill with its 95 % band over storms",
        [{**row, "skill 24 h, %": skills.get(name)} for name, row in rows.items()],
    )
    return {**figures, "num_test_storms": len(set(test.ids)), "cell": config.cell}


def judge_spread(test, prediction, leads, log) -> dict[str, Any]:
    """CRPS and coverage of what the forecast says of its own error, over leads and components."""
    if not prediction.is_probabilistic:
        return {"coverage_90": None, "crps_24h_km": None}
    low, high = prediction.interval(0.9)
    crps = prediction.crps(test.targets)
    inside, figures = [], {}
    for place, hours in enumerate(leads.tolist()):
        is_case = test.is_case[..., place]
        if not is_case.any():
            continue
        at = (..., place, slice(None))
        share = coverage(low[at][is_case], high[at][is_case], test.targets[at][is_case])
        score = float(np.mean(crps[at][is_case]))
        inside.append((share, is_case.sum()))
        log.write(step=0, result="spread", hours=hours, coverage_90=share, crps_km=score,
                  width_km=np.mean((high - low)[at][is_case]))  # fmt: skip
        if hours in LEADS_HOURS:
            figures[f"crps_{hours}h_km"] = score
            figures[f"coverage_90_{hours}h"] = share
    shares, counts = np.array(inside).T
    return {"coverage_90": float(np.average(shares, weights=counts)), **figures}


def radius_km(prediction: Prediction) -> np.ndarray | None:
    """Radius of the disk that should hold the truth with 90 %, km, [..., H]; None of a point."""
    if not prediction.is_probabilistic:
        return None
    low, high = prediction.interval(0.9)
    std = (high - low) / (2 * 1.6448536269514722)
    return CHI_90 * np.sqrt(np.mean(np.square(std), axis=-1))


def past_hours(config, trained, test, log) -> None:
    """dL/dx_t and dL/dcarry_t, L the squared error at 24 h of the last step of a window."""
    model, head = make_model(config), HEADS[config.head]
    lead = 0 if config.strategy == "recursive" else JUDGED_HOURS // STEP_HOURS - 1
    data = answered(config, trained, test)
    columns = slice(2 * lead, 2 * lead + 2)
    rows = np.argwhere(data.is_known[..., columns].all(axis=-1))
    window, mask = data.windows(rows, config.window)
    whole = np.flatnonzero(mask.all(axis=1))
    if not whole.size:
        log.note(f"no track of the test part has {config.window} steps: no gradients over the past")
        return
    chosen = whole[np.linspace(0, len(whole) - 1, min(len(whole), 256)).astype(int)]
    batch = jnp.asarray(window[chosen], jnp.float32)
    answers = jnp.asarray(data.targets[rows[chosen, 0], rows[chosen, 1]][:, columns])

    @jax.jit
    @jax.vmap
    def gradients(params):
        def loss(taps, xs):
            logits = model.apply(params, xs, taps=taps).logits
            logits = logits[..., -1, :] if config.shape == "many-to-many" else logits
            return jnp.sum(jnp.square(head.best(logits)[..., columns] - answers))

        taps, inputs = jax.grad(loss, argnums=(0, 1))(zero_taps(model.apply, params, batch), batch)
        return log_norm_over_time(taps["rnn"]), inputs

    carries, inputs = (np.asarray(each) for each in gradients(trained.params))
    # What never changed in training is told to no net, though it has weights.
    inputs = inputs * ~trained.inputs.is_constant
    hours = STEP_HOURS * np.arange(config.window)[::-1]
    fields = {"hours": hours, "lead_hours": STEP_HOURS * (lead + 1), "sequences": len(chosen)}
    write_band(log, carries, probe="carry", **fields)
    with np.errstate(divide="ignore"):
        write_band(log, np.log(np.linalg.norm(inputs, axis=-1)), probe="input", **fields)
    for name, members in GROUPS.items():
        size = np.median(np.linalg.norm(inputs[..., list(members)], axis=-1), axis=(0, 1))
        log.write(step=0, probe="group", group=name, norm=size, **fields)


def write_band(log, values, **fields):
    """Median and 10-90 % band of [nets, sequences, T] over nets and sequences."""
    low, median, high = np.quantile(values, (0.1, 0.5, 0.9), axis=(0, 1), method="inverted_cdf")
    log.write(step=0, **fields, log_norm_median=median, log_norm_p10=low, log_norm_p90=high)


def show_storms(test, prediction, log) -> None:
    """Writes some long tracks of the test part with a few forecasts each, for the map."""
    length = test.is_real.sum(axis=1)
    radius = radius_km(prediction)
    longest = np.argsort(-length, kind="stable")[: 4 * NUM_SHOWN : 4]
    for row in longest.tolist():  # neighbours in length may be one storm's pieces
        steps = np.linspace(FIRST_CASE + 2, max(length[row] - 12, FIRST_CASE + 3), 3)
        real = slice(0, length[row])
        log.write(
            step=0, result="track", storm=test.ids[row], name=test.names[row],
            year=test.years[row], lat=test.lat[row, real], lon=test.lon[row, real],
        )  # fmt: skip
        for start in sorted(set(steps.astype(int).tolist())):
            if start < length[row]:
                write_path(log, test, prediction, radius, row, start)


def write_path(log, cases, prediction, radius, row, start) -> dict[str, Any]:
    """Writes one forecast as places and radii; what was written."""
    lat, lon = destination(
        cases.lat[row, start], cases.lon[row, start], prediction.mean[row, start]
    )
    path = {
        "storm": cases.ids[row],
        "start": str(cases.times[row, start]),
        "start_lat": cases.lat[row, start],
        "start_lon": cases.lon[row, start],
        "hours": STEP_HOURS * np.arange(1, len(lat) + 1),
        "lat": lat,
        "lon": lon,
    }
    true = ~np.isnan(cases.targets[row, start, :, 0])
    if true.any():
        path["true_hours"] = path["hours"][true]
        places = cases.targets[row, start][true]
        path["true_lat"], path["true_lon"] = destination(
            cases.lat[row, start], cases.lon[row, start], places
        )
    if radius is not None:
        path["radius_km"] = radius[row, start]
    log.write(step=0, result="path", **path)
    return path


def to_predict(path: Path | None) -> list[tuple[Storm, TrackCases]] | None:
    """The storms of a file to forecast, with their cases; None of no file."""
    if path is None:
        return None
    found = []
    for storm in read_storms(path):
        try:
            found.append((storm, track_cases([storm])))
        except InputError as error:
            raise InputError(f"{path}, storm {storm.id or '(no id)'}: {error}") from error
    return found


def predict(config: Config, trained: Trained, path: Path | None, asked, log: RunLog) -> None:
    """Forecasts from the last point of each storm; a table, and lines in the log."""
    for storm, cases in asked:
        prediction = forecast(config, trained, cases)
        row = len(cases) - 1  # the last unbroken piece
        last = int(cases.is_real[row].sum()) - 1
        log.write(step=0, result="track", storm=storm.id, name=storm.name, year=storm.year,
                  lat=storm.lat, lon=storm.lon)  # fmt: skip
        found = write_path(log, cases, prediction, radius_km(prediction), row, last)
        columns = {"lead, h": found["hours"], "latitude": found["lat"], "longitude": found["lon"]}
        if "radius_km" in found:
            columns["90 % radius, km"] = found["radius_km"]
        rows = [dict(zip(columns, map(float, each), strict=True))
                for each in zip(*columns.values(), strict=True)]  # fmt: skip
        log.table(f"{path} {storm.id} {storm.name}: from {found['start']} UTC", rows)


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures, summary = directory / "figures", finished.summary
    select = lambda **fields: plots.pick(finished.metrics, **fields)  # noqa: E731
    config = finished.config
    tracks, paths = select(result="track"), select(result="path")
    if tracks:
        plots.save(plots.track_map(tracks, paths), figures / "map.png")
    if "cell" not in summary:
        return  # a forecast with the nets of another run
    label = f"{config['cell']}, {config['strategy']}, {config['head']} head"
    names = {"model": label, "cliper": "CLIPER-style regression",
             "persistence": "persistence, motion of 6 h",
             "persistence 12 h": "persistence, motion of 12 h"}  # fmt: skip
    curves = {text: select(result="lead", forecast=name) for name, text in names.items()}
    title = (
        f"{config['tracks'] or config['dataset']}: {summary['num_test_storms']} storms of the test "
        "years; band: 95 % bootstrap over storms"
    )
    plots.save(plots.lead_errors(curves, title=title), figures / "errors.png")
    spread = select(result="spread")
    if spread:
        plots.save(plots.lead_spread(spread, title=title.split(";")[0]), figures / "spread.png")
    carry = select(probe="carry")
    if carry:
        plots.save(
            plots.past_gradients(
                carry[0], select(probe="input")[0],
                [row for row in select(probe="group") if max(row["norm"]) > 0], unit="hours",
                title=f"what the forecast of {carry[0]['lead_hours']} h reads: gradient of its "
                f"squared error, {carry[0]['sequences']} test windows, {config['num_nets']} nets",
            ),
            figures / "past_hours.png",
        )  # fmt: skip
    rows = [row for row in finished.metrics if "valid_loss" in row]
    plots.save(plots.nets_training(rows, title=f"{label}: loss over epochs"),
               figures / "training.png")  # fmt: skip


if __name__ == "__main__":
    main(Config, run, plot)
