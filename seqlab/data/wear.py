"""Made-up machines that run to failure: hidden wear, sensors, operating regimes, censoring.

The health loss w of a machine begins at a wear of its own and grows exponentially, faster at
heavier duty; the machine fails at the first cycle t with w_t >= 1:

    w_0 ~ U(0, 0.05),      w_{t+1} = w_t + g (0.02 + w_t) (1 + 0.4 d_{r_t}) exp(0.3 n_t),

with its own rate g = exp(N(log 0.02, 0.25^2)), n_t ~ N(0, 1), and regime r_t, drawn anew each cycle
from `num_regimes` (one: the same at all cycles), of duty d_r evenly spaced over [-1, 1] (one: 0).
Settings are (r, d_r, 100) with noise of 0.002 on the second. Sensor k of the 21, with its own sign
and shape, drawn once for all machines of a seed,

    x_k = a_k + c_k d_r + m_k + b_k w_t^{q_k} + sigma_k N(0, 1),

has offset a_k, a regime's shift c_k (some twenty times as large as what wear does), a machine's own
shift m_k ~ N(0, (0.05 b_k)^2), response b_k to wear of order q_k in {1, 2}, and noise
sigma_k = 0.15 |b_k|. Seven of the 21 say nothing of wear: four are constant and three only noise
and regime.

Machines of the test part are censored: cut off at a cycle drawn uniformly from the last 70 % of
their lives, and how many cycles were left is what has to be told.

The exponential growth of wear follows the model of Saxena et al., 2008, section 3.
"""

import numpy as np

from seqlab.data.checks import check_at_least
from seqlab.data.engines import NUM_SENSORS, Engine

NUM_CONSTANT, NUM_BLIND = 4, 3
LONGEST = 2000  # cycles; the rates above end long before


def simulated_engines(
    rng: np.random.Generator, num_train: int, num_test: int, num_regimes: int = 1
) -> tuple[list[Engine], list[Engine]]:
    """(train, test): machines run to failure, and machines that are cut off before it.

    Args:
      rng: of everything that is random.
      num_train, num_test: machines in each.
      num_regimes: of operation.

    Raises:
      InputError: no machine in a part, or no regime.
    """
    for name, value in (("num_train", num_train), ("num_test", num_test),
                        ("num_regimes", num_regimes)):  # fmt: skip
        check_at_least(value, 1, name)
    fleet = _fleet(rng)
    train = [_engine(rng, str(i + 1), fleet, num_regimes) for i in range(num_train)]
    test = [_censored(rng, _engine(rng, str(i + 1), fleet, num_regimes)) for i in range(num_test)]
    return train, test


def _fleet(rng):
    """What all machines share: offset, shift by duty, response, order and noise of each sensor."""
    response = rng.uniform(0.5, 2.0, NUM_SENSORS) * rng.choice([-1.0, 1.0], NUM_SENSORS)
    order = rng.integers(1, 2, NUM_SENSORS, endpoint=True)
    noise = 0.15 * np.abs(response)
    shift = 20.0 * rng.normal(size=NUM_SENSORS)
    kinds = rng.permutation(NUM_SENSORS)
    response[kinds[: NUM_CONSTANT + NUM_BLIND]] = 0.0
    noise[kinds[:NUM_CONSTANT]] = shift[kinds[:NUM_CONSTANT]] = 0.0
    return rng.uniform(10.0, 1000.0, NUM_SENSORS), shift, response, order, noise


def _engine(rng, id, fleet, num_regimes):
    offset, shift, response, order, noise = fleet
    duties = np.linspace(-1.0, 1.0, num_regimes) if num_regimes > 1 else np.zeros(1)
    rate = np.exp(rng.normal(np.log(0.02), 0.25))
    wear, regimes = [rng.uniform(0.0, 0.05)], [int(rng.integers(num_regimes))]
    while wear[-1] < 1.0 and len(wear) < LONGEST:
        duty = 1.0 + 0.4 * duties[regimes[-1]]
        grown = rate * (0.02 + wear[-1]) * duty * np.exp(0.3 * rng.normal())
        wear.append(wear[-1] + grown)
        regimes.append(int(rng.integers(num_regimes)))
    wear, duty = np.minimum(wear, 1.0)[:, None], duties[regimes]
    own = 0.05 * np.abs(response) * rng.normal(size=NUM_SENSORS)
    sensors = offset + shift * duty[:, None] + own + response * wear**order
    sensors = sensors + noise * rng.normal(size=sensors.shape)
    settings = np.stack(
        [
            np.array(regimes, float),
            duty + 0.002 * rng.normal(size=len(duty)),
            np.full(len(duty), 100.0),
        ],
        axis=1,
    )
    return Engine(id, settings, sensors)


def _censored(rng, engine):
    kept = int(np.ceil(len(engine) * rng.uniform(0.3, 1.0)))
    return Engine(engine.id, engine.settings[:kept], engine.sensors[:kept], len(engine) - kept)
