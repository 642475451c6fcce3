"""Engines that run to failure: the C-MAPSS files are read strictly, made-up ones wear as said."""

import gzip

import numpy as np
import pytest

from seqlab.data import forecasting
from seqlab.data.engines import NUM_SENSORS, read_engines, read_subset
from seqlab.data.wear import NUM_BLIND, NUM_CONSTANT, simulated_engines
from seqlab.errors import InputError


def row(unit, cycle, *, first="0.5", count=24):
    return f"{unit} {cycle} {first} " + " ".join(["1.0"] * (count - 1)) + "  \n"


TRAIN = row(1, 1) + row(1, 2, first="nan") + row(2, 1)


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_train_engines_have_failed_and_missing_numbers_are_nan(tmp_path):
    one, two = read_engines(write(tmp_path / "train.txt", TRAIN))
    assert (one.id, len(one), one.sensors.shape, one.settings.shape) == ("1", 2, (2, 21), (2, 3))
    np.testing.assert_array_equal(one.settings[:, 0], [0.5, np.nan])
    assert one.remaining_life.tolist() == [1, 0]
    assert two.remaining_life.tolist() == [0]


def test_a_subset_from_a_folder(tmp_path):
    write(tmp_path / "train_FD003.txt.gz", TRAIN)
    write(tmp_path / "test_FD003.txt", TRAIN)
    write(tmp_path / "RUL_FD003.txt", "112 \n7\n")
    train, test = forecasting.load_engines("fd003", folder=tmp_path)
    assert len(train) == 2
    assert [engine.remaining_life.tolist() for engine in test] == [[113, 112], [7]]
    with pytest.raises(InputError, match=r"has no train_FD004\.txt"):
        read_subset(tmp_path, "FD004")
    write(tmp_path / "RUL_FD003.txt", "112\n")
    with pytest.raises(InputError, match="has 1 lives"):
        read_subset(tmp_path, "FD003")
    write(tmp_path / "RUL_FD003.txt", "112\nx\n")
    with pytest.raises(InputError, match=r"RUL_FD003\.txt, line 2: 'x' is no number"):
        read_subset(tmp_path, "FD003")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " holds no engine"),
        (row(1, 1) + row(1, 3), ", line 2: cycle 3 of unit 1, expected 2"),
        (row(1, 2), ", line 1: cycle 2 of unit 1, expected 1"),
        (row(2, 1) + row(1, 1), ", line 2: unit 1 after unit 2"),
        (row(1, 1) + row(1, 2, count=23), ", line 2: 25 numbers, expected 26"),
        (row(1, 1, first="abc"), ", line 1: could not convert"),
        (row(1, 1, first="inf"), ", line 1: column 3 is infinite"),
        (row("nan", 1), ", line 1: unit nan, expected a whole number"),
        (row(1, 1) + row("inf", 1), ", line 2: unit inf, expected a whole number"),
        (row(1.5, 1), ", line 1: unit 1.5, expected a whole number"),
        ("1\n", ", line 1: 1 numbers, expected 26"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(tmp_path, text, message):
    path = write(tmp_path / "train.txt", text)
    with pytest.raises(InputError) as error:
        list(read_engines(path))
    assert str(error.value).startswith(f"{path}{message}")


def test_simulated_engines_wear_out():
    train, test = simulated_engines(np.random.default_rng(1), 40, 40)
    again, _ = simulated_engines(np.random.default_rng(1), 40, 40)
    np.testing.assert_array_equal(train[7].sensors, again[7].sensors)
    assert all(engine.cycles_left == 0 for engine in train)
    assert all(engine.cycles_left >= 0 for engine in test)
    assert np.std([engine.cycles_left for engine in test]) > 20
    # Late sensors differ from early ones for all that tell of wear, and for no other.
    early = np.concatenate([engine.sensors[:20] for engine in train])
    late = np.concatenate([engine.sensors[-5:] for engine in train])
    moved = np.abs(late.mean(axis=0) - early.mean(axis=0)) / np.maximum(early.std(axis=0), 1e-12)
    assert np.sum(moved > 1.5) == NUM_SENSORS - NUM_CONSTANT - NUM_BLIND
    assert np.sum(early.std(axis=0) < 1e-9) == NUM_CONSTANT


def test_regimes_shift_sensors_far_more_than_wear():
    train, _ = simulated_engines(np.random.default_rng(1), 20, 1, num_regimes=6)
    settings = np.concatenate([engine.settings for engine in train])
    assert sorted(set(settings[:, 0])) == [0, 1, 2, 3, 4, 5]
    sensors = np.concatenate([engine.sensors for engine in train])
    within = np.mean([sensors[settings[:, 0] == r].std(axis=0) for r in range(6)], axis=0)
    assert np.median(sensors.std(axis=0) / np.maximum(within, 1e-9)) > 5
