"""Where will the typhoon go, and how sure can one be?

    python -m experiments.typhoon_track                       # made-up storms, no download
    python -m experiments.typhoon_track --dataset jma         # western North Pacific
    python -m experiments.typhoon_track --dataset hurdat2     # Atlantic
    python -m experiments.typhoon_track --tracks ibtracs.WP.list.v04r01.csv
    python -m experiments.typhoon_track --from-run RUN --predict my_track.csv

A net reads a track point by point, every 6 hours: position, motion of the last 6 hours, wind,
pressure, date. At every point it says how far east and north the storm will be after 6, 12 ... 72
hours, in km on the sphere, and how sure it is; four nets make one forecast. Storms are split by
season, and neither nets nor scales nor baselines see a later one. Beside it: constant motion along
the great circle (persistence), and a CLIPER-style ridge regression on position, motions, their
products, wind, pressure and date. Skill is 1 - error / error of persistence; bands are over whole
storms.

All stages of a track count, extratropical ones too, and the points are those of the best track,
which is drawn after the storm: these errors are not an agency's verification. With
`--shuffle-labels` the displacements are dealt out at random, and the skill is gone.

`--predict` forecasts from the last point of every storm of a file in a format of
`seqlab.data.tracks`, or of standard input (-): a line for each lead, with the radius in km that
should hold the storm with 90 %. Killed or stopped, a run goes on to the same numbers with the same
command and `--out`. Minutes on two cores.

Figures: error and skill over lead; test tracks on a map with forecast cones; coverage and width of
intervals; which past hours matter (dL/dh_t, dL/dx_t, the latter by kind of input); training.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np

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
from seqlab.data.tracks import Storm, every_hours, read_storms
from seqlab.data.windows import Answered
from seqlab.errors import InputError
from seqlab.files import name_of
from seqlab.forecast_baselines import track_baselines
from seqlab.forecaster import Forecaster, Plan, load_forecaster, look_back, train_forecaster
from seqlab.forecasts import Prediction, coverage, mean_error, skill
from seqlab.geodesy import destination, displacement_km
from seqlab.heads import HEADS
from seqlab.models.functional import functional
from seqlab.models.recurrent import ManyToMany, ManyToOne
from seqlab.runlog import RunLog, read_run
from seqlab.types import Params

LEADS_HOURS = (6, 12, 24, 48, 72)  # of the table
JUDGED_HOURS = 24
FIRST_YEARS = {"simulated": 1990, "jma": 1951, "hurdat2": 1950}
CHI_90 = float(np.sqrt(-2 * np.log(0.1)))  # radius that holds 90 % of a round Gaussian, in its std
WINDOWS_A_TRACK = 16  # that an update reads in place of a track
NUM_SHOWN = 4  # storms on the map
NUM_PROBED = 256  # windows whose gradients are measured


@dataclass(frozen=True)
class Config:
    """Track forecasts with baselines, bands over storms and gradients over past hours."""

    may_change: ClassVar = ("save_every",)

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
    crop: int = 48
    """steps of a track that are trained on at once (many-to-many)"""
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
    log_every: int = 20
    """updates between lines of the log"""
    save_every: int = 500
    """updates between checkpoints"""
    seed: int = 0

    def __post_init__(self):
        """Raises `InputError` for what cannot be run."""
        for field in ("crop", "hidden_size", "num_nets", "num_samples", "num_epochs",
                      "batch_size", "log_every", "save_every"):  # fmt: skip
            check_at_least(getattr(self, field), 1, field)
        check_at_least(self.window, FIRST_CASE, "window")
        check_at_least(self.seed, 0, "seed")
        for field in ("learning_rate", "clip_norm"):
            check_positive(getattr(self, field), field)
        check_known(self.dataset, STORM_SETS, "dataset")
        make_cell(self.cell, self.hidden_size, num_steps=self.window)

    @classmethod
    def quick(cls):
        """Seconds, to see that everything runs."""
        return cls(first_year=2005, hidden_size=16, num_nets=2, num_epochs=4, num_samples=2)


class Scales(NamedTuple):
    """Scales of the training storms: of features [D], and of displacements [H * 2]."""

    inputs: Scaler
    targets: Scaler


class Nets(NamedTuple):
    """Trained nets, leaves [N, ...], and the scales they were trained with."""

    params: Params
    scales: Scales


def run(config: Config, log: RunLog) -> None:
    """Trains, tests beside the baselines, and measures gradients over past hours."""
    parts = load_parts(config)
    for name, part in parts.items():
        log.write(step=0, result="part", part=name, storms=len(set(part.ids)), pieces=len(part),
                  first_year=min(part.years), last_year=max(part.years),
                  cases=np.sum(part.is_case, axis=(0, 1)))  # fmt: skip
    nets, training = train(config, parts, log)
    test = parts["test"]
    prediction = forecast(config, nets, test)
    figures = judge(config, test, prediction, track_baselines(parts), log)
    past_hours(config, nets, test, log)
    show_storms(test, prediction, log)
    log.finish(**training, **figures)


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


def fit_scales(train: TrackCases) -> Scales:
    """Of features and of displacements, by the training storms alone."""
    is_real = train.is_real
    groups = [id for id, row in zip(train.ids, is_real, strict=True) for _ in range(row.sum())]
    inputs = fit_scaler(Part("train", train.features[is_real], groups))
    targets = train.targets[is_real].reshape(int(is_real.sum()), -1)
    return Scales(inputs, fit_scaler(Part("train", targets, groups)))


def num_leads(config: Config) -> int:
    """Leads that a net answers: all, or the first alone."""
    return 1 if config.strategy == "recursive" else max(LEADS_HOURS) // STEP_HOURS


def answered(config: Config, scales: Scales, cases: TrackCases) -> Answered:
    """Scaled features, and scaled displacements as a net is to give them, lead after lead.

    Answers are asked for from the second point on, where there is a motion.
    """
    values = cases.targets.reshape(*cases.is_real.shape, -1)
    is_known = ~np.isnan(values)
    targets = np.where(is_known, scales.targets(np.where(is_known, values, 0.0)), 0.0)
    is_known = is_known & (np.arange(cases.is_real.shape[1]) >= 1)[:, None]
    size = 2 * num_leads(config)
    return Answered(
        scales.inputs(cases.features).astype(np.float32),
        targets[..., :size].astype(np.float32),
        is_known[..., :size],
        cases.is_real,
    )


# Training.


def make_forecaster(config: Config) -> Forecaster:
    """Features in; what the head says of the displacements out."""
    is_aligned = config.shape == "many-to-many"
    head = HEADS[config.head]
    model = functional(
        ManyToMany if is_aligned else ManyToOne,
        make_cell(config.cell, config.hidden_size, num_steps=config.window),
        input_size=len(FEATURES),
        output_size=head.output_size(2 * num_leads(config)),
    )
    return Forecaster(model, head, None if is_aligned else config.window)


def make_plan(config: Config) -> Plan:
    """How the nets are trained."""
    rows = 1 if config.shape == "many-to-many" else WINDOWS_A_TRACK
    return Plan.of(config, batch_size=rows * config.batch_size)


def train(config: Config, parts: dict[str, TrackCases], log: RunLog) -> tuple[Nets, dict[str, Any]]:
    """Nets at their best, and figures of their training."""
    scales = fit_scales(parts["train"])
    for scaler in scales:
        check_no_leak({name: part.ids for name, part in parts.items()}, scaler)
    data = {name: answered(config, scales, parts[name]) for name in ("train", "valid")}
    if config.shuffle_labels:
        data["train"] = shuffled(data["train"], config.seed)
    files = {"scales": {name: each.to_json() for name, each in scales._asdict().items()}}
    params, figures = train_forecaster(log, make_forecaster(config), make_plan(config), data, files)
    return Nets(params, scales), figures


def load(path: Path) -> tuple[Config, Nets]:
    """Config and nets of a finished run."""
    config = config_of(Config, read_run(path).record, path)
    params, files = load_forecaster(path, make_forecaster(config), make_plan(config), ("scales",))
    scales = {name: Scaler.from_json(value) for name, value in files["scales"].items()}
    return config, Nets(params, Scales(**scales))


def shuffled(data: Answered, seed: int) -> Answered:
    """The same with its targets dealt out at random over all steps that have every lead."""
    whole = data.is_known.all(axis=-1)
    targets = data.targets.copy()
    targets[whole] = np.random.default_rng([seed, 1]).permutation(targets[whole])
    return replace(data, targets=targets, is_known=data.is_known & whole[..., None])


# Forecasts.


def forecast(config: Config, nets: Nets, cases: TrackCases) -> Prediction:
    """Displacements of all leads from every point of the pieces, km, [N, T, H, 2]."""
    if config.strategy == "recursive":
        return roll_out(config, nets, cases)
    data, targets = answered(config, nets.scales, cases), nets.scales.targets
    said = make_forecaster(config).predict(nets.params, data).rescaled(targets.std, targets.mean)
    return said.reshaped((*cases.is_real.shape, num_leads(config), 2))


def roll_out(config: Config, nets: Nets, cases: TrackCases) -> Prediction:
    """The same by 6 hours at a time: each answer is a point that the next is asked from.

    Wind and pressure are held. With a Gaussian head every net follows `num_samples` paths, on each
    of which the steps are drawn, and their moments are the forecast; with another head each net
    follows its best guess and the forecast is a point.
    """
    forecaster, scales = make_forecaster(config), nets.scales
    is_gaussian = config.head == "gaussian"
    paths = config.num_samples if is_gaussian else 1
    data = answered(config, scales, cases)
    rows = np.argwhere(cases.is_real)
    leads = max(LEADS_HOURS) // STEP_HOURS
    scale, shift = scales.targets.std[:2], scales.targets.mean[:2]
    at = rows[:, 0], rows[:, 1]
    rng = np.random.default_rng([config.seed, 2])
    answer = jax.jit(forecaster.last)
    ends = []
    for net in range(config.num_nets):
        params = jax.tree.map(lambda leaf, net=net: leaf[net], nets.params)
        for _ in range(paths):
            xs, mask = data.windows(rows, config.window)
            lat, lon, reached = cases.lat[at], cases.lon[at], []
            for lead in range(1, leads + 1):
                said = forecaster.head.predict(np.asarray(answer(params, xs, mask))[None])
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
                new = scales.inputs(point).astype(np.float32)
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


# Judging.


def judge(config, test, prediction, others, log) -> dict[str, Any]:
    """The table, its lines in the log, and the figures of the summary."""
    errors = {"model": test.errors_km(prediction.mean)}
    errors |= {name: test.errors_km(moves) for name, moves in others.items()}
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
            for key, forecast, baseline in (
                ("skill_24h", "model", "persistence"),
                ("skill_over_cliper_24h", "model", "cliper"),
                ("cliper_skill_24h", "cliper", "persistence"),
            ):
                over = skill(found[forecast], found[baseline], groups)
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


def past_hours(config, nets, test, log) -> None:
    """dL/dx_t and dL/dcarry_t, L the squared error at 24 h after the last step of a window."""
    lead = 0 if config.strategy == "recursive" else JUDGED_HOURS // STEP_HOURS - 1
    columns = slice(2 * lead, 2 * lead + 2)
    data = answered(config, nets.scales, test)
    rows = np.argwhere(data.is_known[..., columns].all(axis=-1))
    whole = rows[rows[:, 1] >= config.window - 1]
    if not len(whole):
        log.note(f"no track of the test part has {config.window} steps: no gradients over the past")
        return
    chosen = whole[np.linspace(0, len(whole) - 1, min(len(whole), NUM_PROBED)).astype(int)]
    look_back(
        log, make_forecaster(config), nets.params, data.windows(chosen, config.window)[0],
        data.targets[chosen[:, 0], chosen[:, 1]][:, columns], columns=columns,
        is_constant=nets.scales.inputs.is_constant, groups=GROUPS,
        hours=STEP_HOURS * np.arange(config.window)[::-1], lead_hours=STEP_HOURS * (lead + 1),
        sequences=len(chosen),
    )  # fmt: skip


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


def write_path(log, cases, prediction, radius, row, start) -> None:
    """Writes one forecast as places and radii, and where the storm was then."""
    here = cases.lat[row, start], cases.lon[row, start]
    lat, lon = destination(*here, prediction.mean[row, start])
    hours = STEP_HOURS * np.arange(1, len(lat) + 1)
    path: dict[str, Any] = {"hours": hours, "lat": lat, "lon": lon}
    true = ~np.isnan(cases.targets[row, start, :, 0])
    if true.any():
        path["true_hours"] = hours[true]
        path["true_lat"], path["true_lon"] = destination(*here, cases.targets[row, start][true])
    if radius is not None:
        path["radius_km"] = radius[row, start]
    log.write(step=0, result="path", storm=cases.ids[row], start=str(cases.times[row, start]),
              start_lat=here[0], start_lon=here[1], **path)  # fmt: skip


# Tracks of one's own.


def predict(path: Path, source: Path) -> None:
    """Prints where each storm of a file goes from its last point: a line a lead, tabs between.

    Raises:
      InputError: a storm without two points 6 hours apart; whatever `read_storms` refuses.
    """
    config, nets = load(path)
    pieces = [last_piece(storm, name_of(source)) for storm in read_storms(source)]
    cases = track_cases(pieces)
    prediction = forecast(config, nets, cases)
    rows, steps = np.arange(len(cases)), cases.is_real.sum(axis=1) - 1
    radius = radius_km(prediction)
    here = cases.lat[rows, steps, None], cases.lon[rows, steps, None]
    lat, lon = destination(*here, prediction.mean[rows, steps])
    sys.stdout.write("storm\tname\tfrom_utc\tlead_h\tlat\tlon\tradius_90_km\n")
    for row, lead in np.ndindex(lat.shape):
        width = "" if radius is None else f"{radius[row, steps[row], lead]:.0f}"
        sys.stdout.write(
            f"{cases.ids[row]}\t{cases.names[row]}\t{cases.times[row, steps[row]]}\t"
            f"{STEP_HOURS * (lead + 1)}\t{lat[row, lead]:.2f}\t{lon[row, lead]:.2f}\t{width}\n"
        )


def last_piece(storm: Storm, source: str) -> Storm:
    """The last unbroken 6-hourly piece of a storm that has a motion."""
    pieces = [piece for piece in every_hours(storm, STEP_HOURS) if len(piece) > 1]
    if not pieces:
        raise InputError(
            f"{source}, storm {storm.id or '(no id)'}: a forecast needs two points 6 hours apart, "
            "at 00, 06, 12 or 18 UTC"
        )
    return pieces[-1]


# Figures.


def plot(directory: Path) -> None:
    """Draws every figure from the files of a run."""
    finished = read_run(directory)
    figures, summary = directory / "figures", finished.summary
    select = lambda **fields: plots.pick(finished.metrics, **fields)  # noqa: E731
    config = finished.config
    tracks, paths = select(result="track"), select(result="path")
    if tracks:
        plots.save(plots.track_map(tracks, paths), figures / "map.png")
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
                carry[0], select(probe="input")[0], select(probe="group"), unit="hours",
                title=f"what the forecast of {carry[0]['lead_hours']} h reads: gradient of its "
                f"squared error, {carry[0]['sequences']} test windows, {config['num_nets']} nets",
            ),
            figures / "past_hours.png",
        )  # fmt: skip
    plots.save(
        plots.nets_training(select(split="updates"), select(split="valid"),
                            title=f"{label}: {config['num_nets']} nets"),
        figures / "training.png",
    )  # fmt: skip


if __name__ == "__main__":
    main(Config, run, plot, predict=predict)
