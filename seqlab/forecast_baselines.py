"""What every forecast is put beside: constant motion, CLIPER, window features and trees.

Plain numpy and scikit-learn, in float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from seqlab.data.track_cases import FIRST_CASE, TrackCases, arriving_motion
from seqlab.forecasts import rmse
from seqlab.geodesy import displacement_km

STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)


def track_baselines(parts: Mapping[str, TrackCases]) -> dict[str, np.ndarray]:
    """Displacements from every point of the test part by each baseline, km, [N, T, H, 2].

    "persistence" repeats the motion of the last 6 hours, "persistence 12 h" the mean motion of the
    last 12, "cliper" is a ridge regression for each lead, fitted on train, its strength chosen on
    valid. NaN where one has nothing to go by.

    Args:
      parts: "train", "valid" and "test".
    """
    train, test = parts["train"], parts["test"]
    leads = test.targets.shape[2]
    half_day = np.full((*test.is_real.shape, 2), np.nan)
    half_day[:, 2:] = arriving_motion(test.lat[:, :-2], test.lon[:, :-2], test.lat[:, 2:],
                                      test.lon[:, 2:]) / 2  # fmt: skip
    east, north = (np.nanmean(train.features[..., column]) for column in (1, 2))
    centre_lon = float(np.degrees(np.arctan2(east, north)))
    xs = {
        name: cliper_predictors(
            part.lat, part.lon, part.wind_kt, part.pressure_hpa, part.features[..., 10:12],
            centre_lon,
        )
        for name, part in parts.items()
    }  # fmt: skip
    cliper = np.full(test.targets.shape, np.nan)
    for lead in range(leads):
        rows = {name: part.is_case[:, FIRST_CASE:, lead] for name, part in parts.items()}
        train_cases, valid_cases = (
            (xs[name][rows[name]], parts[name].targets[:, FIRST_CASE:, lead][rows[name]])
            for name in ("train", "valid")
        )
        ridge = best_ridge(train_cases, valid_cases)
        cliper[:, FIRST_CASE:, lead][rows["test"]] = ridge(xs["test"][rows["test"]])
    return {
        "persistence": persistence(test.features[..., 3:5], leads),
        "persistence 12 h": persistence(half_day, leads),
        "cliper": cliper,
    }


def persistence(motion: np.ndarray, num_leads: int) -> np.ndarray:
    """Constant motion along the great circle: lead k is k times the last step, [..., H, 2] in km.

    Args:
      motion: the last step at the point it led to, km, [..., 2].
      num_leads: H.
    """
    return motion[..., None, :] * np.arange(1, num_leads + 1)[:, None]


def cliper_predictors(
    lat: np.ndarray, lon: np.ndarray, wind_kt: np.ndarray, pressure_hpa: np.ndarray,
    season: np.ndarray, centre_lon: float,
) -> np.ndarray:  # fmt: skip
    """Predictors of a CLIPER-style regression at steps 2 .. T-1, [N, T-2, P].

    Linear: latitude, longitude from the basin's centre, the motions of the last 6 hours and of the
    6 before, wind and pressure with flags of what is known, sine and cosine of the date. Products:
    all pairs of position and motions, squares included, and of these with the date.

    Args:
      lat, lon: degrees, [N, T].
      wind_kt, pressure_hpa: [N, T]; NaN where not known.
      season: sine and cosine of the date, [N, T, 2].
      centre_lon: of the basin, degrees.

    References: Neumann, 1972; Aberson, 1998 (climatology and persistence, products of predictors).
    """
    now = slice(2, None)
    last = -displacement_km(lat[:, now], lon[:, now], lat[:, 1:-1], lon[:, 1:-1]) / 100
    before = -displacement_km(lat[:, 1:-1], lon[:, 1:-1], lat[:, :-2], lon[:, :-2]) / 100
    east = (np.mod(lon[:, now] - centre_lon + 180.0, 360.0) - 180.0) / 10
    core = np.stack([lat[:, now] / 10, east, *last.transpose(2, 0, 1), *before.transpose(2, 0, 1)])
    state = []
    for values, middle, scale in ((wind_kt, 50.0, 30.0), (pressure_hpa, 980.0, 25.0)):
        is_known = ~np.isnan(values[:, now])
        state += [np.where(is_known, (values[:, now] - middle) / scale, 0.0), is_known]
    dates = season[:, now].transpose(2, 0, 1)
    pairs = [core[i] * core[j] for i in range(len(core)) for j in range(i, len(core))]
    seasonal = [core[i] * date for i in range(len(core)) for date in dates]
    return np.stack([*core, *state, *dates, *pairs, *seasonal], axis=-1)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Least squares with a penalty on the weights of standardised predictors.

    Attributes:
      mean, std: of the predictors in training, [P].
      weights: [P, K].
      intercept: [K].
      strength: alpha.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    strength: float

    def __call__(self, predictors: np.ndarray) -> np.ndarray:
        """Predictions [..., K] from predictors [..., P]."""
        return (predictors - self.mean) / self.std @ self.weights + self.intercept


def fit_ridge(predictors: np.ndarray, targets: np.ndarray, strength: float) -> Ridge:
    """Minimises ||y - X w - b||^2 + alpha ||w||^2 over standardised X.

    Args:
      predictors: X, [N, P]; one that does not change has weight 0.
      targets: y, [N, K].
      strength: alpha, above 0.

    Raises:
      ValueError: no row, or a number that is not finite.
    """
    predictors, targets = np.asarray(predictors, float), np.asarray(targets, float)
    if not len(predictors) or not (np.isfinite(predictors).all() and np.isfinite(targets).all()):
        raise ValueError("fit_ridge: rows of finite numbers are needed")
    mean, std = predictors.mean(axis=0), predictors.std(axis=0)
    std = np.where(std > 1e-12, std, 1.0)
    xs, intercept = (predictors - mean) / std, targets.mean(axis=0)
    gram = xs.T @ xs + strength * np.eye(xs.shape[1])
    weights = np.linalg.solve(gram, xs.T @ (targets - intercept))
    return Ridge(mean, std, weights, intercept, strength)


def best_ridge(
    train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray],
    strengths: tuple[float, ...] = STRENGTHS,
) -> Ridge:  # fmt: skip
    """The ridge of the strength with the lowest RMSE on valid.

    Args:
      train, valid: (predictors, targets), as `fit_ridge` takes them.
      strengths: to choose from.
    """
    fitted = [fit_ridge(*train, strength) for strength in strengths]
    return min(fitted, key=lambda ridge: rmse(ridge(valid[0]), valid[1]))


def window_features(windows: np.ndarray, is_real: np.ndarray) -> np.ndarray:
    """Last value, mean, standard deviation and slope of each column over a window, [N, 4 D].

    Args:
      windows: [N, T, D], finite.
      is_real: [N, T] bool; the last step of each is real.
    """
    real = is_real[..., None]
    count = np.maximum(real.sum(axis=1), 1)
    mean = np.where(real, windows, 0.0).sum(axis=1) / count
    spread = np.where(real, windows - mean[:, None], 0.0)
    steps = np.where(is_real, np.arange(windows.shape[1], dtype=float), 0.0)
    middle = steps.sum(axis=1, keepdims=True) / np.maximum(is_real.sum(axis=1, keepdims=True), 1)
    lag = np.where(is_real, steps - middle, 0.0)
    slope = np.einsum("nt,ntd->nd", lag, spread)
    slope = slope / np.maximum(np.square(lag).sum(axis=1), 1e-12)[:, None]
    std = np.sqrt(np.square(spread).sum(axis=1) / count)
    return np.concatenate([windows[:, -1], mean, std, slope], axis=1)


def logistic(
    train: tuple[np.ndarray, np.ndarray], valid: tuple[np.ndarray, np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Logistic regression on standardised predictors: [N, P] -> log odds [N].

    Its penalty is the one of a few with the lowest log loss on valid.

    Args:
      train: predictors [N, P] and labels, bool [N].
      valid: likewise.
    """
    import threadpoolctl
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with threadpoolctl.threadpool_limits(limits=1):  # threads wait for each other in a busy loop
        fitted = [
            make_pipeline(StandardScaler(), LogisticRegression(C=1 / strength, max_iter=1000)).fit(
                *train
            )
            for strength in STRENGTHS
        ]
    best = min(
        fitted,
        key=lambda model: log_loss(valid[1], model.predict_proba(valid[0]), labels=[False, True]),
    )
    return best.decision_function


def gradient_boosting(
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    *,
    most_trees: int = 150,
    seed: int = 0,
) -> Callable[[np.ndarray], np.ndarray]:
    """Boosted regression trees of scikit-learn, as many as do best on valid: [N, P] -> [N].

    Squared error, trees of at most 15 leaves, rate 0.1. Columns that do not change are left out.

    Args:
      train: predictors [N, P] and targets [N].
      valid: likewise.
      most_trees: the most that are grown.
      seed: of scikit-learn's binning.

    References: Friedman, 2001; scikit-learn's HistGradientBoostingRegressor.
    """
    import threadpoolctl
    from sklearn.ensemble import HistGradientBoostingRegressor

    changes = np.ptp(train[0], axis=0) > 0
    options: dict[str, Any] = {"early_stopping": False, "random_state": seed}
    model = HistGradientBoostingRegressor(
        learning_rate=0.1, max_iter=most_trees, max_leaf_nodes=15, **options
    )
    # One thread: on a busy machine those of OpenMP wait for each other, minutes for seconds' work.
    with threadpoolctl.threadpool_limits(limits=1, user_api="openmp"):
        model.fit(train[0][:, changes], train[1])
        errors = [rmse(found, valid[1]) for found in model.staged_predict(valid[0][:, changes])]
    best = int(np.argmin(errors))

    def predict(predictors: np.ndarray) -> np.ndarray:
        with threadpoolctl.threadpool_limits(limits=1, user_api="openmp"):
            return next(islice(model.staged_predict(predictors[:, changes]), best, None))

    return predict
