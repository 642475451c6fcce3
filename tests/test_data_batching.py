import gc
import itertools
import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlab.data.batching import Buckets, Examples, Feed, NetBuckets, Streams, pad_tokens, stack
from seqlab.errors import InputError


def epoch_of(source, epoch=0):
    first = epoch * source.batches_per_epoch
    return [source.batch(first + k) for k in range(source.batches_per_epoch)]


def assert_same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def differ(one, other):
    return any(not np.array_equal(one[name], other[name]) for name in one)


def failure(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Streams


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 90))
def test_streams_see_every_target_once_in_order(batch_size, num_steps, extra):
    ids = np.arange(batch_size + extra) + 7
    streams = Streams(ids, batch_size, num_steps)
    batches = epoch_of(streams, epoch=2)
    for batch in batches:
        assert batch["xs"].shape == batch["targets"].shape == (batch_size, num_steps)
        assert batch["xs"].dtype == batch["targets"].dtype == np.int32
        mask = batch["mask"]
        np.testing.assert_array_equal(batch["targets"][mask], batch["xs"][mask] + 1)
        assert not batch["xs"][~mask].any()
        assert not batch["targets"][~mask].any()
        has_some = mask[:, 0]
        np.testing.assert_array_equal(ids[batch["ids"][has_some]], batch["xs"][has_some, 0])
    walks = [
        np.concatenate([batch["targets"][row][batch["mask"][row]] for batch in batches])
        for row in range(batch_size)
    ]
    np.testing.assert_array_equal(np.concatenate(walks), ids[1:])  # each once, in order
    assert streams.num_targets == len(ids) - 1
    lengths = [len(walk) for walk in walks]
    assert max(lengths) - min(lengths) <= 1
    assert len(batches) == -(-max(lengths) // num_steps)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_carry_kept_over_batches_is_that_of_one_long_walk(batch_size, num_steps, extra, seed):
    ids = np.random.default_rng(seed).integers(4, 50, size=batch_size + extra)
    streams = Streams(ids, batch_size, num_steps)

    def step(carry, x):
        return (31 * carry + x + 1) % 1_000_003  # remembers all it has read

    carry = np.full(batch_size, 99)
    for number in range(2 * streams.batches_per_epoch):  # a second epoch begins anew
        batch = streams.batch(number)
        np.testing.assert_array_equal(batch["reset"], number % streams.batches_per_epoch == 0)
        carry = np.where(batch["reset"], 0, carry)
        for x, real in zip(batch["xs"].T, batch["mask"].T, strict=True):
            carry = np.where(real, step(carry, x), carry)
    first = streams.batch(0)["ids"]
    for row, (start, end) in enumerate(itertools.pairwise([*first, len(ids) - 1])):
        alone = 0
        for x in ids[start:end]:
            alone = step(alone, x)
        assert carry[row] == alone


def test_streams_by_hand():
    streams = Streams(np.arange(10, 18), batch_size=2, num_steps=3)
    assert streams.batches_per_epoch == 2
    first, last = epoch_of(streams)
    assert first["xs"].tolist() == [[10, 11, 12], [14, 15, 16]]
    assert first["targets"].tolist() == [[11, 12, 13], [15, 16, 17]]
    assert first["mask"].all()
    assert first["ids"].tolist() == [0, 4]
    assert first["reset"].tolist() == [True, True]
    assert last["xs"].tolist() == [[13, 0, 0], [0, 0, 0]]
    assert last["targets"].tolist() == [[14, 0, 0], [0, 0, 0]]
    assert last["mask"].tolist() == [[True, False, False], [False, False, False]]
    assert last["reset"].tolist() == [False, False]


def test_streams_keep_a_copy_of_the_text():
    ids = np.arange(9, dtype=np.int32)
    streams = Streams(ids, 2, 3)
    before = streams.batch(0)
    ids[:] = 0
    assert_same(streams.batch(0), before)


@pytest.mark.parametrize(
    ("ids", "batch_size", "num_steps", "words"),
    [
        (np.arange(4), 4, 5, "batch_size 4 needs a text of 5 tokens or more, this one has 4"),
        (np.arange(0), 1, 5, "batch_size 1 needs a text of 2 tokens or more, this one has 0"),
        (np.arange(4), 0, 5, "batch_size must be 1 or more"),
        (np.arange(4), 1, 0, "num_steps must be 1 or more"),
    ],
)
def test_streams_that_cannot_be(ids, batch_size, num_steps, words):
    assert words in failure(Streams, ids, batch_size, num_steps)


@pytest.mark.parametrize("ids", [np.arange(4.0), np.zeros((2, 2), int), [1, -1], [1, 2**31]])
def test_streams_of_what_are_no_tokens(ids):
    with pytest.raises(ValueError, match="ids must be"):
        Streams(ids, 1, 1)


def test_batches_are_numbered_from_zero():
    for source in (Streams(np.arange(9), 2, 3), Examples([{"x": 1}], 1, seed=None)):
        with pytest.raises(ValueError, match="from 0 on, got -1"):
            source.batch(-1)


# Examples


def numbered(count):
    return [{"xs": np.full(2, i + 1), "label": i} for i in range(count)]


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(1, 9), st.none() | st.integers(0, 2**40))
def test_examples_come_once_an_epoch(count, batch_size, seed):
    examples = Examples(numbered(count), batch_size, seed=seed)
    for epoch in (0, 1, 5):
        batches = epoch_of(examples, epoch)
        for batch in batches:
            assert batch["xs"].shape == (batch_size, 2)
            real = batch["is_real"]
            np.testing.assert_array_equal(batch["ids"] >= 0, real)
            np.testing.assert_array_equal(batch["label"][real], batch["ids"][real])
            np.testing.assert_array_equal(batch["xs"][real, 1], batch["ids"][real] + 1)
            assert not batch["xs"][~real].any()
        ids = np.concatenate([batch["ids"][batch["is_real"]] for batch in batches])
        assert sorted(ids) == list(range(count))
        assert all(batch["is_real"].all() for batch in batches[:-1])
        if seed is None:
            assert ids.tolist() == list(range(count))


def test_examples_are_shuffled_by_seed_and_epoch():
    def order(seed, epoch):
        return tuple(
            np.concatenate(
                [b["ids"] for b in epoch_of(Examples(numbered(40), 8, seed=seed), epoch)]
            )
        )

    orders = {(seed, epoch): order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16  # epoch 1 of seed 0 is not epoch 0 of seed 1
    assert order(3, 2) == orders[3, 2]
    assert orders[0, 0][:5] == (18, 35, 16, 7, 20)  # runs are resumed by later versions too


def test_examples_are_read_in_bulk_where_the_source_can():
    class Source:
        def __init__(self):
            self.read = []

        def __len__(self):
            return 5

        def __getitem__(self, i):
            raise AssertionError("one by one")

        def __getitems__(self, indices):
            self.read.append(list(indices))
            return [{"x": i} for i in indices]

    source = Source()
    assert Examples(source, 3, seed=None).batch(1)["x"].tolist() == [3, 4, 0]
    assert source.read == [[3, 4]]


def test_examples_of_many_lengths_need_a_collate():
    sentences = [np.arange(4, 4 + n) for n in (1, 3, 2)]
    source = [{"xs": sentence} for sentence in sentences]
    message = failure(Examples(source, 3, seed=None).batch, 0)
    assert "'xs', as in [1] and [2]: give a collate" in message

    def collate(examples):
        xs, mask = pad_tokens([example["xs"] for example in examples], 3)
        return {"xs": xs, "mask": mask}

    batch = Examples(source, 2, seed=None, collate=collate).batch(1)
    assert batch["xs"].tolist() == [[4, 5, 0], [0, 0, 0]]
    assert batch["mask"].tolist() == [[True, True, False], [False, False, False]]
    assert batch["ids"].tolist() == [2, -1]


def test_fields_that_do_not_fit():
    assert "no field 'b'" in failure(stack, [{"a": 1, "b": 2}, {"a": 1}])
    assert "'ids' is the batch's own" in failure(Examples([{"ids": 1}], 1, seed=None).batch, 0)
    short = Examples(numbered(4), 2, seed=None, collate=lambda examples: {"x": np.zeros(1)})
    with pytest.raises(ValueError, match="1 rows of 'x' from 2 examples"):
        short.batch(0)


def test_examples_that_cannot_be():
    assert "source is empty" in failure(Examples, [], 1, seed=None)
    assert "batch_size must be 1 or more" in failure(Examples, [1], 0, seed=None)
    assert "seed must be 0 or more" in failure(Examples, [1], 1, seed=-1)


def test_padded_tokens_by_hand():
    tokens, mask = pad_tokens([np.array([5, 6]), np.array([], int), np.array([7])], 3)
    assert tokens.tolist() == [[5, 6, 0], [0, 0, 0], [7, 0, 0]]
    assert tokens.dtype == np.int32
    assert mask.tolist() == [[True, True, False], [False] * 3, [True, False, False]]
    assert "row 1 has 3 tokens, num_steps is 2" in failure(pad_tokens, [[1], [1, 2, 3]], 2)


# Buckets


def sentences_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 99, size=length) for length in lengths]


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=40)
SIZES = st.one_of(
    st.builds(lambda size: {"batch_size": size}, st.integers(1, 9)),
    st.builds(lambda size: {"max_tokens": size}, st.integers(24, 80)),
)
SEEDS = st.none() | st.integers(0, 1000)


def assert_whole_epoch(buckets, count, num_buckets):
    """Every sentence once, in batches of the stated shapes; returns the batches."""
    for epoch in (0, 3):
        batches = epoch_of(buckets, epoch)
        ids = np.concatenate([batch["ids"][batch["is_real"]] for batch in batches])
        assert sorted(ids) == list(range(count))
    for batch in batches:
        np.testing.assert_array_equal(batch["ids"] >= 0, batch["is_real"])
        assert batch["is_real"].any()
        assert not batch["mask"][~batch["is_real"]].any()
        assert not batch["xs"][~batch["mask"]].any()
    assert len(buckets.shapes) <= num_buckets
    return batches


def assert_padding_is(buckets, batches, names):
    cells = sum(batch[name].size for batch in batches for name in names)
    real = sum(batch[name].sum() for batch in batches for name in names)
    assert buckets.padding == pytest.approx(1 - real / cells, abs=1e-12)


@given(LENGTHS, SIZES, st.integers(1, 5), SEEDS)
def test_buckets_hold_every_sentence_once_an_epoch(lengths, sizes, num_buckets, seed):
    xs = sentences_of(lengths)
    labels = np.arange(len(xs)) * 10
    buckets = Buckets(xs, labels, **sizes, num_buckets=num_buckets, seed=seed)
    batches = assert_whole_epoch(buckets, len(xs), num_buckets)
    for batch in batches:
        for i, row, mask in zip(batch["ids"], batch["xs"], batch["mask"], strict=True):
            expected = xs[i] if i >= 0 else []
            np.testing.assert_array_equal(row[mask], expected)
            assert mask[: len(expected)].all()
        np.testing.assert_array_equal(
            batch["targets"], np.where(batch["is_real"], 10 * batch["ids"], 0)
        )
        assert batch["xs"].size <= sizes.get("max_tokens", batch["xs"].size)
        assert len(batch["xs"]) == sizes.get("batch_size", len(batch["xs"]))
    assert {batch["xs"].shape for batch in batches} == set(buckets.shapes)
    assert_padding_is(buckets, batches, ["mask"])


@given(LENGTHS, SIZES, st.integers(1, 5), SEEDS, st.integers(0, 99))
def test_pairs_stay_together(lengths, sizes, num_buckets, seed, shift):
    xs = sentences_of(lengths)
    targets = sentences_of(np.roll([length % 7 for length in lengths], shift), seed=1)
    buckets = Buckets(xs, targets, **sizes, num_buckets=num_buckets, seed=seed)
    batches = assert_whole_epoch(buckets, len(xs), num_buckets)
    for batch in batches:
        assert not batch["targets_mask"][~batch["is_real"]].any()
        assert not batch["targets"][~batch["targets_mask"]].any()
        for row, i in enumerate(batch["ids"]):
            if i >= 0:
                np.testing.assert_array_equal(batch["xs"][row][batch["mask"][row]], xs[i])
                mask = batch["targets_mask"][row]
                np.testing.assert_array_equal(batch["targets"][row][mask], targets[i])
        cells = batch["xs"].size + batch["targets"].size
        assert cells <= sizes.get("max_tokens", cells)
    shapes = {(*batch["xs"].shape, batch["targets"].shape[1]) for batch in batches}
    assert shapes == set(buckets.shapes)
    assert_padding_is(buckets, batches, ["mask", "targets_mask"])


@settings(max_examples=40)
@given(st.lists(st.integers(2, 12), min_size=1, max_size=30), SEEDS)
def test_sentences_predict_their_next_token(lengths, seed):
    xs = sentences_of(lengths)
    buckets = Buckets(xs, "next", batch_size=4, num_buckets=3, seed=seed)
    for batch in assert_whole_epoch(buckets, len(xs), 3):
        assert "targets_mask" not in batch
        assert batch["targets"].shape == batch["xs"].shape
        for row, i in enumerate(batch["ids"]):
            mask = batch["mask"][row]
            if i >= 0:
                np.testing.assert_array_equal(batch["xs"][row][mask], xs[i][:-1])
                np.testing.assert_array_equal(batch["targets"][row][mask], xs[i][1:])


def fewest_cells(lengths, num_buckets, batch_size, max_tokens):
    """By trying every way to cut the lengths into ranges."""
    steps = sorted(set(lengths))
    least = np.inf
    for count in range(min(num_buckets, len(steps))):
        for cuts in itertools.combinations(range(1, len(steps)), count):
            cells = 0
            for first, end in itertools.pairwise([0, *cuts, len(steps)]):
                members = sum(steps[first] <= length <= steps[end - 1] for length in lengths)
                rows = batch_size
                if max_tokens is not None:
                    num_batches = -(-members // (max_tokens // steps[end - 1]))
                    rows = -(-members // num_batches)
                cells += -(-members // rows) * rows * steps[end - 1]
            least = min(least, cells)
    return least


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), SIZES, st.integers(1, 4))
def test_no_other_ranges_of_length_take_fewer_tokens(lengths, sizes, num_buckets):
    buckets = Buckets(sentences_of(lengths), **sizes, num_buckets=num_buckets, seed=None)
    expected = fewest_cells(lengths, num_buckets, sizes.get("batch_size"), sizes.get("max_tokens"))
    assert sum(bucket.num_cells for bucket in buckets.buckets) == expected


def test_more_buckets_pad_pairs_less():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 40, size=2000)
    xs = sentences_of(lengths)
    targets = sentences_of(lengths + rng.integers(-2, 9, size=2000))
    shares = [
        Buckets(xs, targets, batch_size=16, num_buckets=count, seed=None).padding
        for count in (1, 4, 16)
    ]
    assert shares[0] > 0.4
    assert shares[1] < 0.25
    assert shares[2] < 0.12


def test_pairs_that_differ_on_the_second_side_alone_are_told_apart():
    xs = sentences_of([5] * 8)
    targets = sentences_of([2, 9] * 4)
    buckets = Buckets(xs, targets, batch_size=2, num_buckets=2, seed=None)
    assert buckets.shapes == ((2, 5, 2), (2, 5, 9))
    assert buckets.padding == 0


def test_buckets_are_shuffled_anew_each_epoch():
    xs = sentences_of(list(range(1, 9)) * 6)
    buckets = Buckets(xs, batch_size=4, num_buckets=2, seed=5)
    epochs = [epoch_of(buckets, epoch) for epoch in range(3)]
    for one, other in itertools.combinations(epochs, 2):
        assert [b["xs"].shape for b in one] != [b["xs"].shape for b in other]
        together = [{frozenset(b["ids"]) for b in batches} for batches in (one, other)]
        assert together[0] != together[1]
    again = Buckets(xs, batch_size=4, num_buckets=2, seed=5)
    for one, other in zip(epochs[2], epoch_of(again, 2), strict=True):
        assert_same(one, other)
    unseeded = Buckets(xs, batch_size=4, num_buckets=2, seed=None)
    lengths = [b["xs"].shape[1] for b in epoch_of(unseeded)]
    assert lengths == sorted(lengths)
    assert_same(unseeded.batch(1), unseeded.batch(1 + unseeded.batches_per_epoch))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_labels_keep_their_kind(dtype):
    labels = np.array([3, 1, 2], dtype)
    batch = Buckets(sentences_of([2, 2, 2]), labels, batch_size=4, seed=None).batch(0)
    assert batch["targets"].dtype == dtype
    assert batch["targets"].tolist() == [3, 1, 2, 0]
    assert batch["is_real"].tolist() == [True, True, True, False]


def test_sentences_without_targets_have_none():
    batch = Buckets(sentences_of([2, 1]), batch_size=2, seed=None).batch(0)
    assert sorted(batch) == ["ids", "is_real", "mask", "xs"]


def test_too_long_sentences_are_refused_or_cut_and_counted():
    xs = [np.arange(4, 4 + n) for n in (2, 5, 3, 9)]
    message = failure(Buckets, xs, batch_size=2, max_length=3, seed=None)
    assert "2 of 4 sentences have more steps than max_length 3" in message
    assert 'the first is number 1 with 5; give a larger max_length, or too_long="cut"' in message
    buckets = Buckets(xs, batch_size=4, max_length=3, too_long="cut", num_buckets=1, seed=None)
    assert buckets.num_cut == 2
    assert buckets.batch(0)["xs"].tolist() == [[4, 5, 0], [4, 5, 6], [4, 5, 6], [4, 5, 6]]
    pairs = Buckets(xs[:1], [xs[3]], batch_size=1, max_length=3, too_long="cut", seed=None)
    assert pairs.num_cut == 1
    assert pairs.batch(0)["targets"].tolist() == [[4, 5, 6]]
    steps = Buckets(xs, "next", batch_size=4, max_length=4, too_long="cut", seed=None)
    assert steps.num_cut == 1  # of 9 tokens; the one of 5 has 4 steps
    assert Buckets(xs, batch_size=4, max_length=9, seed=None).num_cut == 0


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([],), {"batch_size": 1}, "xs is empty"),
        (([[4]],), {}, "give either batch_size or max_tokens"),
        (([[4]],), {"batch_size": 1, "max_tokens": 9}, "give either batch_size or max_tokens"),
        (([[4]],), {"batch_size": 0}, "batch_size must be 1 or more"),
        (([[4]],), {"batch_size": 1, "num_buckets": 0}, "num_buckets must be 1 or more"),
        (([[4]],), {"batch_size": 1, "max_length": 0}, "max_length must be 1 or more"),
        (([[4]],), {"batch_size": 1, "too_long": "crop"}, "unknown too_long 'crop'"),
        (([[4]], "nxt"), {"batch_size": 1}, "unknown targets 'nxt'; did you mean 'next'?"),
        (([[4], [5]], [1]), {"batch_size": 1}, "targets has 1 entries, xs 2"),
        (([[4, 5], [4]], "next"), {"batch_size": 1}, r"xs\[1\] has 1 tokens"),
        (
            ([[4] * 9],),
            {"max_tokens": 8},
            "max_tokens 8 is less than the longest sentence takes, 9",
        ),
        (([[4]],), {"batch_size": 1, "seed": -2}, "seed must be 0 or more"),
    ],
)
def test_buckets_that_cannot_be(arguments, options, words):
    with pytest.raises(InputError, match=words):
        Buckets(*arguments, **{"seed": None, **options})


def test_a_sentence_of_what_are_no_tokens_is_named():
    with pytest.raises(ValueError, match=r"xs\[1\] must be one axis of whole numbers"):
        Buckets([[4], [0.5]], batch_size=1, seed=None)


# Feed


class Slow:
    """Batches that take unequal times, so that threads overtake each other."""

    batches_per_epoch = 7

    def batch(self, number):
        time.sleep(0.001 * (number * 7 % 3))
        return {"number": np.array(number)}


class Fast(Slow):
    def batch(self, number):
        return {"number": np.array(number)}


def numbers(feed, count):
    return [int(batch["number"]) for batch in itertools.islice(feed, count)]


def feeding_threads():
    return [thread for thread in threading.enumerate() if "grain" in thread.name]


def feeding_threads_end(seconds=5.0):
    """Whether they do soon: one that has not read anything yet is not waited for by `close`."""
    deadline = time.monotonic() + seconds
    while feeding_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not feeding_threads()


@pytest.mark.parametrize(("threads", "prefetch"), [(0, 0), (0, 4), (3, 0), (1, 1), (2, 8), (5, 3)])
def test_a_feed_gives_the_same_with_any_threads(threads, prefetch):
    with Feed(Slow(), threads=threads, prefetch=prefetch) as feed:
        assert numbers(feed, 25) == list(range(25))
        assert feed.position == 25
        assert bool(feeding_threads()) == (threads > 0 and prefetch > 0)
    assert feeding_threads_end()


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 20),
)
def test_no_batch_is_lost_or_repeated_wherever_the_position_is_saved(
    counts, threads, prefetch, start
):
    options = {"threads": threads, "prefetch": prefetch}
    seen, saved = [], json.dumps(start)
    for count in counts:  # each part in a feed of its own, as after a kill
        with Feed(Fast(), **options) as feed:
            feed.restore(json.loads(saved))
            for _ in range(count):
                seen += numbers(feed, 1)
                assert feed.position == start + len(seen)
            saved = json.dumps(feed.position)
            numbers(feed, 2)  # handed out after the save: come again
    assert seen == list(range(start, start + len(seen)))


def test_a_feed_can_go_back_and_forth():
    with Feed(Slow(), start=3) as feed:
        assert numbers(feed, 2) == [3, 4]
        feed.restore(0)
        assert numbers(feed, 3) == [0, 1, 2]
        feed.restore(10**12)
        assert numbers(feed, 2) == [10**12, 10**12 + 1]
        feed.close()
        assert numbers(feed, 1) == [10**12 + 2]


@pytest.mark.parametrize("threads", [0, 2])
def test_a_feed_ends_before_stop_and_reads_no_further(threads):
    read = set()

    class Counted(Fast):
        def batch(self, number):
            read.add(number)
            return super().batch(number)

    source = Counted()
    feed = Feed(source, start=2, stop=6, threads=threads)
    assert [int(batch["number"]) for batch in feed] == [2, 3, 4, 5]
    assert read == {2, 3, 4, 5}
    assert feeding_threads_end()
    assert next(feed, None) is None
    feed.restore(5)
    assert [int(batch["number"]) for batch in feed] == [5]
    feed.restore(6)
    assert list(feed) == []
    assert list(Feed(source, stop=0)) == []
    assert "position 7 lies behind the end of the feed, batch 6" in failure(feed.restore, 7)
    assert "position must be 0 or more" in failure(feed.restore, -1)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_batch_that_fails_is_tried_again_and_not_left_out(threads):
    class Failing(Fast):
        fails = True

        def batch(self, number):
            if number == 4 and self.fails:
                raise InputError("disk unplugged")
            return super().batch(number)

    source = Failing()
    with Feed(source, threads=threads) as feed:
        assert numbers(feed, 4) == [0, 1, 2, 3]
        for _ in range(2):
            with pytest.raises(InputError, match="disk unplugged"):
                next(feed)
            assert feed.position == 4
        source.fails = False
        assert numbers(feed, 3) == [4, 5, 6]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_an_interrupted_wait_loses_no_batch():
    about_to_wait, interrupted = threading.Event(), threading.Event()

    class Stuck(Fast):
        def batch(self, number):
            if number == 3 and not interrupted.is_set():
                about_to_wait.wait(10)
                time.sleep(0.2)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                interrupted.wait(10)
            return super().batch(number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Feed(Stuck(), threads=2, prefetch=3) as feed:
            assert numbers(feed, 3) == [0, 1, 2]
            about_to_wait.set()
            with pytest.raises(KeyboardInterrupt):
                next(feed)
            assert feed.position == 3
            interrupted.set()
            assert numbers(feed, 3) == [3, 4, 5]
    finally:
        signal.signal(signal.SIGINT, before)
    assert feeding_threads_end()


def test_threads_end_with_a_feed_that_is_forgotten():
    feed = Feed(Slow())
    next(feed)
    assert feeding_threads()
    del feed
    gc.collect()
    assert feeding_threads_end()


def test_a_feed_left_open_does_not_hold_up_the_end_of_the_program():
    code = (
        "import numpy as np\n"
        "from seqlab.data.batching import Feed, Streams\n"
        "feed = Feed(Streams(np.arange(500), 2, 3))\n"
        "print(next(feed)['xs'].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[[0, 1, 2], [250, 251, 252]]\n", "")


def test_real_sources_through_a_feed_are_themselves():
    xs = sentences_of(list(range(1, 30)))
    sources = [
        Streams(np.arange(300), 4, 7),
        Examples(numbered(20), 3, seed=1),
        Buckets(xs, batch_size=4, num_buckets=3, seed=1),
    ]
    for source in sources:
        num_batches = 2 * source.batches_per_epoch + 1
        found = list(Feed(source, stop=num_batches, threads=3))
        assert len(found) == num_batches
        for number, batch in enumerate(found):
            assert_same(batch, source.batch(number))
        assert differ(found[0], found[1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": -1}, "threads must be 0 or more"),
        ({"prefetch": -1}, "prefetch must be 0 or more"),
        ({"start": -1}, "start must be 0 or more"),
        ({"start": 3, "stop": 2}, "stop must be 3 or more"),
    ],
)
def test_feeds_that_cannot_be(options, words):
    assert words in failure(Feed, Fast(), **options)


# NetBuckets


@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=40),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 10),
)
@settings(max_examples=30)  # grain takes 3 ms for each index of so short an order
def test_every_net_sees_its_own_sentences_once_an_epoch(lengths, num_nets, batch_size, seed):
    rng = np.random.default_rng(seed)
    xs = [rng.integers(5, 99, length) for length in lengths]
    labels = rng.integers(0, 3, len(xs)).astype(np.int32)
    rows = [np.flatnonzero(rng.random(len(xs)) < 0.6) for _ in range(num_nets)]
    rows = [own if len(own) else np.array([0]) for own in rows]
    nets = NetBuckets(xs, labels, rows, seeds=range(num_nets), batch_size=batch_size, num_buckets=3)
    assert nets.num_real == sum(map(len, rows))
    for epoch in (0, 1):
        seen = [[] for _ in rows]
        for batch in epoch_of(nets, epoch):
            assert batch["xs"].shape[:2] == batch["ids"].shape == (batch_size, num_nets)
            for net in range(num_nets):
                for row in np.flatnonzero(batch["is_real"][:, net]):
                    example = batch["ids"][row, net]
                    seen[net].append(int(example))
                    own = batch["xs"][row, net][batch["mask"][row, net]]
                    np.testing.assert_array_equal(own, xs[example])
                    assert batch["targets"][row, net] == labels[example]
            assert not batch["mask"][~batch["is_real"]].any()
        assert [sorted(each) for each in seen] == [own.tolist() for own in rows]
    # The shapes are those of all sentences, whichever of them a net reads.
    other = NetBuckets(xs, labels, rows[:1], seeds=None, batch_size=batch_size, num_buckets=3)
    shapes = {batch["xs"].shape[2] for batch in epoch_of(other)}
    assert shapes <= {
        shape[1] for shape in Buckets(xs, seed=None, batch_size=batch_size, num_buckets=3).shapes
    }


def test_a_net_without_a_sentence_is_refused():
    message = failure(
        NetBuckets, [np.arange(3)], np.zeros(1), [np.zeros(0, int)], seeds=None, batch_size=2
    )
    assert "number of sentences of a net" in message
