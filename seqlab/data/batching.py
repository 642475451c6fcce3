"""Batches of one shape, each a function of its number; a place in training is therefore one number.

A batch is a dict of numpy arrays. The names in it mean the same everywhere:

* `xs`: tokens int32 [B, T], PAD where padded.
* `mask`: bool [B, T], True where a step of `xs` is real.
* `targets`: the answers: [B, T] with the mask of `xs`, one label a row [B], or, for pairs, tokens
  [B, U] with a mask of their own, `targets_mask`.
* `ids`: int64 [B], where each row comes from: its example's number, or its place in the text.
* `is_real`: bool [B], False for a row that only fills the batch up; its `ids` entry is -1.
* `reset`: bool [B], True where a stream starts anew and its carry has to be forgotten.

`source.batch(number)` gives any batch of `Streams`, `Examples` or `Buckets`, again and again the
same. Every source has epochs of `batches_per_epoch` batches without an end; in each, everything is
seen exactly once. A `Feed` hands the batches out one by one and prepares the next in threads.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from seqlab.data.checks import check_at_least, check_known
from seqlab.data.vocabulary import PAD
from seqlab.errors import InputError

Batch = dict[str, np.ndarray]
NO_EXAMPLE = -1  # in `ids`, for a row that only fills up


class Batches(Protocol):
    """What a `Feed` reads: batches by number, from 0 on, without an end."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which everything is seen once."""
        ...

    def batch(self, number: int) -> Batch:
        """Batch `number`, always the same; called from several threads."""
        ...


class Streams:
    """One long text as B parallel streams, for language models that keep their carry.

    Every token but the first is a target, exactly once an epoch: nothing is left over. The text's
    N - 1 steps (read ids[i], predict ids[i + 1]) are cut into B stretches as equal as can be,
    the first (N - 1) mod B of them one step longer than the others. Row b of the batches walks
    stretch b in windows of T steps; the last window is filled up with masked steps.

    A batch holds `xs`, `targets`, `mask` [B, T], `reset` [B] (all True in an epoch's first batch,
    else all False) and `ids` [B]: row b reads the text from ids[b] on.

    To have the first token predicted as well, put an EOS before the text. An evaluation that is
    to be one long walk needs a batch size of 1: each further stream starts without a past.
    """

    def __init__(self, ids: np.ndarray, batch_size: int, num_steps: int):
        """Streams through a text.

        Args:
          ids: tokens of the whole text, [N].
          batch_size: B, streams.
          num_steps: T, steps in a window.

        Raises:
          InputError: the text has fewer than B + 1 tokens, or a size is below 1.
        """
        check_at_least(batch_size, 1, "batch_size")
        check_at_least(num_steps, 1, "num_steps")
        self._tokens = _tokens(ids, "ids").astype(np.int32)
        self.num_targets = max(len(self._tokens) - 1, 0)
        if self.num_targets < batch_size:
            raise InputError(
                f"batch_size {batch_size} needs a text of {batch_size + 1} tokens or more, "
                f"this one has {len(self._tokens)}; give a longer text or a smaller batch_size"
            )
        self.batch_size, self.num_steps = batch_size, num_steps
        shared, longer = divmod(self.num_targets, batch_size)
        rows = np.arange(batch_size)
        self._starts = rows * shared + np.minimum(rows, longer)
        self._ends = np.append(self._starts[1:], self.num_targets)

    @property
    def batches_per_epoch(self) -> int:
        """Windows of the longest stream."""
        return -(-int(self._ends[0]) // self.num_steps)

    def batch(self, number: int) -> Batch:
        """Batch `number`; number // `batches_per_epoch` is its epoch.

        Raises:
          ValueError: a number below 0.
        """
        window = _not_negative(number) % self.batches_per_epoch
        first = self._starts + window * self.num_steps
        places = first[:, None] + np.arange(self.num_steps)
        mask = places < self._ends[:, None]
        places = np.where(mask, places, 0)
        return {
            "xs": np.where(mask, self._tokens[places], np.int32(PAD)),
            "targets": np.where(mask, self._tokens[places + 1], np.int32(PAD)),
            "mask": mask,
            "reset": np.full(self.batch_size, window == 0),
            "ids": first,
        }


def stack(examples: Sequence[Mapping[str, Any]]) -> Batch:
    """Examples with equal fields and shapes as one batch, field by field.

    Raises:
      InputError: naming the field that some example lacks, or that differs in shape.
    """
    first = examples[0]
    for example in examples:
        if differing := sorted(set(first) ^ set(example)):
            raise InputError(f"some examples have no field {differing[0]!r}: give a collate")
    batch = {}
    for name in first:
        values = [np.asarray(example[name]) for example in examples]
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            small, large = sorted(shapes)[:2]
            raise InputError(
                f"examples differ in the shape of field {name!r}, as in {list(small)} and "
                f"{list(large)}: give a collate that pads them (see pad_tokens) or use Buckets"
            )
        batch[name] = np.stack(values)
    return batch


def pad_tokens(arrays: Sequence[np.ndarray], num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Token arrays as rows of one length: (tokens int32 [B, T], mask bool [B, T]).

    Raises:
      InputError: an array of more than `num_steps` tokens.
    """
    check_at_least(num_steps, 0, "num_steps")
    lengths = np.array([len(array) for array in arrays], np.int64)
    if lengths.size and lengths.max() > num_steps:
        row = int(lengths.argmax())
        raise InputError(
            f"row {row} has {lengths[row]} tokens, num_steps is {num_steps}; "
            "give more num_steps or cut it"
        )
    mask = np.arange(num_steps) < lengths[:, None]
    tokens = np.full(mask.shape, PAD, np.int32)
    if mask.any():
        tokens[mask] = np.concatenate(arrays)
    return tokens, mask


class Examples:
    """Examples of a random-access source in batches of B, each exactly once an epoch.

    The last batch of an epoch is filled up with rows of zeros; batches do not cross epochs. Beside
    what `collate` makes of the examples, a batch holds `ids` and `is_real`, both [B].
    """

    def __init__(
        self,
        source: Any,
        batch_size: int,
        *,
        seed: int | None,
        collate: Callable[[Sequence[Any]], Batch] = stack,
    ):
        """Batches of examples.

        Args:
          source: has `len` and `[i]`; `__getitems__(indices)` is used where there is one, as in
            TensorFlow Datasets. It is read from several threads at once.
          batch_size: B.
          seed: the order is shuffled anew each epoch; None for the source's own order.
          collate: makes one batch of a list of examples, each array with a row for each example.

        Raises:
          InputError: an empty source, or a batch size below 1.
        """
        check_at_least(batch_size, 1, "batch_size")
        if not len(source):
            raise InputError("source is empty: batches need at least one example")
        self._source, self._collate = source, collate
        self.batch_size = batch_size
        self._order = _Order(seed)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every example is seen once."""
        return -(-len(self._source) // self.batch_size)

    def batch(self, number: int) -> Batch:
        """Batch `number`; number // `batches_per_epoch` is its epoch.

        Raises:
          InputError: examples with a field "ids" or "is_real", which are the batch's own.
          ValueError: a number below 0, or a collate that makes another number of rows.
        """
        epoch, place = divmod(_not_negative(number), self.batches_per_epoch)
        size = len(self._source)
        first = place * self.batch_size
        taken = range(first, min(first + self.batch_size, size))
        indices = self._order.places(taken, size, epoch)
        batch = self._collate(self._read(indices))
        if clashing := sorted({"ids", "is_real"} & set(batch)):
            raise InputError(f"field {clashing[0]!r} is the batch's own: rename it by a collate")
        missing = self.batch_size - len(indices)
        filled = {}
        for name, array in batch.items():
            if len(array) != len(indices):
                raise ValueError(
                    f"collate made {len(array)} rows of {name!r} from {len(indices)} examples"
                )
            rows = np.zeros((missing, *array.shape[1:]), array.dtype)
            filled[name] = np.concatenate([array, rows]) if missing else array
        filled["ids"] = np.array(indices + [NO_EXAMPLE] * missing, np.int64)
        filled["is_real"] = filled["ids"] != NO_EXAMPLE
        return filled

    def _read(self, indices: list[int]) -> Sequence[Any]:
        if hasattr(self._source, "__getitems__"):
            return self._source.__getitems__(indices)
        return [self._source[i] for i in indices]


class Bucket(NamedTuple):
    """Sentences of like length, batched together.

    Attributes:
      shape: (T,), or (T, U) for pairs: what each batch is padded to.
      batch_size: B, rows of each batch.
      members: numbers of the sentences in it, int64 [N].
    """

    shape: tuple[int, ...]
    batch_size: int
    members: np.ndarray

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.members) // self.batch_size)

    @property
    def num_cells(self) -> int:
        """Tokens in an epoch, padding and filling rows included."""
        return self.num_batches * self.batch_size * sum(self.shape)


class Buckets:
    """Sentences, or pairs of them, batched with others of like length: few shapes, little padding.

    Sentences are cut by length into at most `num_buckets` ranges, those for which an epoch has the
    fewest tokens, padding included (found exactly, by dynamic programming over the lengths). Pairs
    are halved again and again by the length of one side or the other, where it saves most, until
    there are `num_buckets` groups. Each group has one shape, so a compiled step is compiled at most
    `num_buckets` times. The last batch of a group is filled up with rows that are masked all over.

    Each epoch has every sentence exactly once; which ones come together, and the order of the
    batches, is shuffled anew.

    A batch holds `xs`, `mask`, `ids`, `is_real`, and what `targets` asks for.
    """

    def __init__(
        self,
        xs: Sequence[np.ndarray],
        targets: Any = None,
        *,
        seed: int | None,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        num_buckets: int = 8,
        max_length: int | None = None,
        too_long: Literal["refuse", "cut"] = "refuse",
    ):
        """Batches of sentences.

        Args:
          xs: the tokens of each sentence, N arrays.
          targets: None for none; "next" for a language model of single sentences, which reads
            x[:-1] and predicts x[1:] (put SOS and EOS around them); N labels; or N token arrays,
            the other halves of pairs, with SOS and EOS as the model wants them.
          seed: order of the epochs; None for the same order, by length, in each.
          batch_size: B, rows of every batch. Either this or `max_tokens` has to be given.
          max_tokens: instead, the most tokens in a batch, padding included, B x T or B x (T + U);
            short sentences then come in larger batches.
          num_buckets: the most shapes.
          max_length: the most steps of a sentence, of either side of a pair.
          too_long: whether a longer one is refused, or cut to its first `max_length` steps and
            counted in `num_cut`.

        Raises:
          InputError: no sentences, one too long, or sizes that cannot be.
        """
        check_known(too_long, ("refuse", "cut"), "too_long")
        check_at_least(num_buckets, 1, "num_buckets")
        if (batch_size is None) == (max_tokens is None):
            raise InputError("give either batch_size or max_tokens")
        check_at_least(1 if batch_size is None else batch_size, 1, "batch_size")
        if not len(xs):
            raise InputError("xs is empty: batches need at least one sentence")
        sides = [_Ragged.of(xs, "xs")]
        self._labels: np.ndarray | None = None
        if isinstance(targets, str):
            check_known(targets, ("next",), "targets")
            sides = list(sides[0].shifted())
        elif targets is not None:
            if len(targets) != len(xs):
                raise InputError(f"targets has {len(targets)} entries, xs {len(xs)}: one for each")
            if np.ndim(targets[0]):
                sides.append(_Ragged.of(targets, "targets"))
            else:
                self._labels = np.asarray(targets)
        self._is_next = isinstance(targets, str)
        lengths = np.stack([side.lengths for side in sides], axis=1)
        self.num_cut = 0
        if max_length is not None:
            check_at_least(max_length, 1, "max_length")
            self.num_cut = _check_lengths(lengths, max_length, too_long)
            lengths = np.minimum(lengths, max_length)
            sides = [side.cut(max_length) for side in sides]
        self._sides = sides
        if self._is_next:
            lengths = lengths[:, :1]  # of targets the same
        self._num_tokens = int(lengths.sum())
        lengths = np.maximum(lengths, 1)  # an empty sentence takes a step: no axis has length 0
        _check_fits(lengths, max_tokens)
        plan = _sentence_buckets if lengths.shape[1] == 1 else _pair_buckets
        self.buckets = plan(lengths, num_buckets, _Rows(batch_size, max_tokens))
        self._ends = np.cumsum([bucket.num_batches for bucket in self.buckets])
        self._order = _Order(seed)

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every sentence is seen once."""
        return int(self._ends[-1])

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The distinct shapes of batches, (B, T) or (B, T, U)."""
        return tuple(sorted({(bucket.batch_size, *bucket.shape) for bucket in self.buckets}))

    @property
    def padding(self) -> float:
        """Share of an epoch's tokens that are padding or fill up rows, 0 to 1."""
        return 1 - self._num_tokens / sum(bucket.num_cells for bucket in self.buckets)

    def batch(self, number: int) -> Batch:
        """Batch `number`; number // `batches_per_epoch` is its epoch.

        Raises:
          ValueError: a number below 0.
        """
        epoch, place = divmod(_not_negative(number), self.batches_per_epoch)
        (chosen,) = self._order.places([place], self.batches_per_epoch, epoch, 0)
        which = int(np.searchsorted(self._ends, chosen, side="right"))
        bucket = self.buckets[which]
        size = len(bucket.members)
        first = (chosen - (self._ends[which] - bucket.num_batches)) * bucket.batch_size
        taken = range(first, min(first + bucket.batch_size, size))
        ids = np.full(bucket.batch_size, NO_EXAMPLE, np.int64)
        ids[: len(taken)] = bucket.members[self._order.places(taken, size, epoch, 1 + which)]
        return self.rows_of(ids, which)

    def rows_of(self, ids: np.ndarray, which: int) -> Batch:
        """A batch of some sentences [B, ...] of bucket number `which`; -1 for rows that fill up."""
        bucket = self.buckets[which]
        batch = {"ids": ids, "is_real": ids != NO_EXAMPLE}
        batch["xs"], batch["mask"] = self._sides[0].rows(ids, bucket.shape[0])
        if self._labels is not None:
            labels = self._labels[np.maximum(ids, 0)]
            batch["targets"] = np.where(batch["is_real"], labels, labels.dtype.type(0))
        elif self._is_next:
            batch["targets"], _ = self._sides[1].rows(ids, bucket.shape[0])
        elif len(self._sides) == 2:
            batch["targets"], batch["targets_mask"] = self._sides[1].rows(ids, bucket.shape[1])
        return batch


class NetBuckets:
    """`Buckets` of N nets trained side by side, each on sentences of its own: folds, or seeds.

    All nets read sentences of one bucket at a time, so that a batch is one array for all of them:
    its leaves are [B, N, ...], a net's rows each, beside the names of `Buckets`. Each epoch has
    every sentence of a net exactly once, in an order of the net's own. Where a net has fewer
    sentences in a bucket than another, rows of it are filled up.
    """

    def __init__(
        self,
        xs: Sequence[np.ndarray],
        labels: np.ndarray,
        rows: Sequence[np.ndarray],
        *,
        seeds: Sequence[int] | None,
        batch_size: int,
        num_buckets: int = 8,
    ):
        """Batches of sentences.

        Args:
          xs: tokens of all sentences, of every part: they decide the buckets, so that batches for
            training and for testing have the same shapes.
          labels: of each.
          rows: of each net, the numbers of the sentences that it reads.
          seeds: of each net's order; None for the sentences' own order.
          batch_size: B.
          num_buckets: the most shapes.

        Raises:
          InputError: a net without a sentence, or what `Buckets` refuses.
        """
        self._all = Buckets(xs, labels, seed=None, batch_size=batch_size, num_buckets=num_buckets)
        self.batch_size, self.num_nets = batch_size, len(rows)
        self._orders = [_Order(seed) for seed in seeds or [None] * len(rows)]
        self._members = []  # by bucket, by net
        for bucket in self._all.buckets:
            is_in = np.zeros(len(xs), bool)
            is_in[bucket.members] = True
            self._members.append([own[is_in[own]] for own in map(np.asarray, rows)])
        for own in rows:
            check_at_least(len(own), 1, "number of sentences of a net")
        counts = [-(-max(map(len, nets)) // batch_size) for nets in self._members]
        self._ends = np.cumsum(counts)
        self.num_real = int(sum(map(len, rows)))

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every net has seen its sentences once."""
        return int(self._ends[-1])

    def batch(self, number: int) -> Batch:
        """Batch `number` of all nets; number // `batches_per_epoch` is its epoch.

        Raises:
          ValueError: a number below 0.
        """
        epoch, place = divmod(_not_negative(number), self.batches_per_epoch)
        (chosen,) = self._orders[0].places([place], self.batches_per_epoch, epoch, 0)
        which = int(np.searchsorted(self._ends, chosen, side="right"))
        first = (chosen - (self._ends[which - 1] if which else 0)) * self.batch_size
        ids = np.full((self.batch_size, self.num_nets), NO_EXAMPLE, np.int64)
        for net, (order, members) in enumerate(
            zip(self._orders, self._members[which], strict=True)
        ):
            taken = range(first, min(first + self.batch_size, len(members)))
            if taken:
                places = order.places(taken, len(members), epoch, 1 + which)
                ids[: len(taken), net] = members[places]
        return self._all.rows_of(ids, which)


class Feed(Iterator[Batch]):
    """The batches of a source, one after the other, the next ones prepared in threads.

    What comes is the same whatever the number of threads. `position`, the number of batches handed
    out so far, is all there is to save: `restore(position)` in another process goes on with exactly
    the batch that would have come. A `next` that was interrupted or failed has handed nothing out;
    the following one tries the same batch again.

    Threads end by `close`, with the `with` block, or after the last batch. A feed that was closed
    can be used again.

    Reading is grain's (`grain.MapDataset`), which brings jax in; importing this module does not.
    """

    def __init__(
        self,
        source: Batches,
        *,
        start: int = 0,
        stop: int | None = None,
        threads: int = 2,
        prefetch: int = 8,
    ):
        """A feed of the batches `start`, `start` + 1, ...

        Args:
          source: `Streams`, `Examples`, `Buckets`, or whatever has `batch(number)`.
          start: number of the first batch.
          stop: number of the batch before which the feed ends; None for never. One evaluation is
            `stop=source.batches_per_epoch`.
          threads: that prepare batches; 0 prepares each when it is asked for.
          prefetch: batches prepared ahead; 0 as above.

        Raises:
          InputError: a number that cannot be.
        """
        check_at_least(threads, 0, "threads")
        check_at_least(prefetch, 0, "prefetch")
        check_at_least(start, 0, "start")
        check_at_least(start if stop is None else stop, start, "stop", "where the feed starts")
        self._source, self._stop = source, stop
        self._threads, self._prefetch = threads, prefetch
        self._position = start
        self._reader: _Reader | None = None

    @property
    def position(self) -> int:
        """Number of the batch that comes next: `start` plus what was handed out."""
        return self._position

    def restore(self, position: int) -> None:
        """Goes to the place where `position` was read.

        Raises:
          InputError: a place that this feed does not have.
        """
        check_at_least(position, 0, "position")
        if self._stop is not None and position > self._stop:
            raise InputError(
                f"position {position} lies behind the end of the feed, batch {self._stop}: "
                "it was saved with other data or another batch size"
            )
        self.close()
        self._position = position

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        if self._position == self._stop:
            self.close()
            raise StopIteration
        # After a batch that fails, or is interrupted, grain goes on with the one behind it, and
        # miscounts. Such a reader is not read again.
        if self._reader is None or not self._reader.is_sound:
            self.close()
            self._reader = self._open()
        reader = self._reader
        reader.is_sound = False
        number, batch = next(reader.iterator)
        if number != self._position:
            raise RuntimeError(f"grain gave batch {number} in the place of {self._position}")
        self._position += 1
        reader.is_sound = True
        return batch

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads, after the batches that they are in the midst of."""
        reader, self._reader = self._reader, None
        if reader is None:
            return
        reader.iterator.close()
        if self._threads and self._prefetch:  # else the source was read in the caller's own thread
            for thread in reader.numbered.threads.copy():
                thread.join()  # grain does not wait

    def _open(self) -> "_Reader":
        import grain

        numbered = _Numbered(self._source, self._stop)
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._prefetch)
        iterator = iter(grain.MapDataset.source(numbered).to_iter_dataset(options))
        iterator.set_state({"next_index": self._position})
        return _Reader(iterator, numbered)


class _Numbered:
    """A source as grain reads it: (number, batch); and the threads that have read it."""

    def __init__(self, source: Batches, stop: int | None):
        self._source, self._stop = source, stop
        self.threads: set[threading.Thread] = set()

    def __len__(self) -> int:
        return sys.maxsize if self._stop is None else self._stop

    def __getitem__(self, index: int) -> tuple[int, Batch]:
        self.threads.add(threading.current_thread())
        return index, self._source.batch(index)


@dataclass
class _Reader:
    """An iterator of grain's over a source; `is_sound` while it stands where it should."""

    iterator: Any
    numbered: _Numbered
    is_sound: bool = True


class _Order:
    """Orders by grain's shuffling, a new one for each epoch; the plain order without a seed."""

    def __init__(self, seed: int | None):
        self._seed = seed
        if seed is not None:
            import grain

            check_at_least(seed, 0, "seed")
            self._shuffle = grain.experimental.index_shuffle

    def places(self, places: Sequence[int], size: int, *which: int) -> list[int]:
        """What stands at some places of the order `which` of 0 .. size - 1."""
        if self._seed is None:
            return list(places)
        # grain would take seed + epoch, which makes epoch 1 of seed 0 the epoch 0 of seed 1.
        mixed = np.random.SeedSequence([self._seed, *which]).generate_state(1)
        seed = int(mixed[0])
        return [self._shuffle(i, max_index=size - 1, seed=seed, rounds=4) for i in places]


class _Ragged:
    """Token arrays of many lengths in one: `tokens` with `starts` and `lengths`."""

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray):
        self.tokens, self.starts, self.lengths = tokens, starts, lengths

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], name: str) -> "_Ragged":
        arrays = [_tokens(array, f"{name}[{i}]") for i, array in enumerate(arrays)]
        lengths = np.array([len(array) for array in arrays], np.int64)
        # One more token than there is, so that an empty last array starts somewhere.
        tokens = np.concatenate([*arrays, [PAD]], dtype=np.int32, casting="unsafe")
        return cls(tokens, np.cumsum(lengths) - lengths, lengths)

    def shifted(self) -> tuple["_Ragged", "_Ragged"]:
        """Each array without its last token, and without its first."""
        if self.lengths.min() < 2:
            raise InputError(
                f"xs[{self.lengths.argmin()}] has {self.lengths.min()} tokens: predicting the next "
                "one needs 2 or more; put SOS and EOS around each sentence"
            )
        lengths = self.lengths - 1
        return (
            _Ragged(self.tokens, self.starts, lengths),
            _Ragged(self.tokens, self.starts + 1, lengths),
        )

    def cut(self, max_length: int) -> "_Ragged":
        """Each array's first `max_length` tokens."""
        return _Ragged(self.tokens, self.starts, np.minimum(self.lengths, max_length))

    def rows(self, ids: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Padded tokens and mask [..., T] of some arrays; nothing but padding for NO_EXAMPLE."""
        lengths = np.where(ids == NO_EXAMPLE, 0, self.lengths[ids])
        steps = np.arange(num_steps)
        mask = steps < lengths[..., None]
        places = np.where(mask, self.starts[ids][..., None] + steps, 0)
        return np.where(mask, self.tokens[places], np.int32(PAD)), mask


class _Rows(NamedTuple):
    """How many rows a batch has: a fixed number, or as many as `max_tokens` allow."""

    batch_size: int | None
    max_tokens: int | None

    def of(self, count: Any, width: Any) -> Any:
        """Rows of each batch, for `count` sentences that take `width` tokens each."""
        if self.max_tokens is None:
            return np.full_like(count, self.batch_size)
        num_batches = -(-count // (self.max_tokens // width))
        return -(-count // num_batches)  # as equal as can be: fewer rows only fill up

    def cells(self, count: Any, width: Any) -> Any:
        """Tokens that all batches together take."""
        rows = self.of(count, width)
        return -(-count // rows) * rows * width


def _check_lengths(lengths: np.ndarray, max_length: int, too_long: str) -> int:
    """How many sentences or pairs [N, sides] are longer; none if that is to be refused."""
    is_longer = (lengths > max_length).any(axis=1)
    num_longer = int(is_longer.sum())
    if num_longer and too_long == "refuse":
        first = int(is_longer.argmax())
        raise InputError(
            f"{num_longer} of {len(lengths)} sentences have more steps than max_length "
            f"{max_length}, the first is number {first} with {lengths[first].max()}; "
            'give a larger max_length, or too_long="cut"'
        )
    return num_longer


def _check_fits(lengths: np.ndarray, max_tokens: int | None) -> None:
    """Refuses `max_tokens` that do not hold one row of the longest sentence or pair.

    A group of pairs is as wide as the longest of either side in it, whichever pairs those are.
    """
    widest = int(lengths.max(axis=0).sum())
    if max_tokens is not None and max_tokens < widest:
        raise InputError(
            f"max_tokens {max_tokens} is less than the longest sentence takes, {widest}; "
            "give more, or a smaller max_length"
        )


def _sentence_buckets(lengths: np.ndarray, num_buckets: int, rows: _Rows) -> list[Bucket]:
    """The ranges of length that take the fewest tokens; the fewest ranges among equals.

    best[j] is the least that sentences of the j shortest lengths can take in k ranges, for
    k = 1, 2, ...: the least over where the last of the ranges begins.
    """
    steps, counts = np.unique(lengths[:, 0], return_counts=True)
    up_to = np.concatenate([[0], np.cumsum(counts)])  # sentences of the j shortest lengths
    num_lengths = len(steps)
    best = np.full(num_lengths + 1, np.inf)
    best[0] = 0
    totals, begins = [], []
    for _ in range(min(num_buckets, num_lengths)):
        longer, begin = np.full(num_lengths + 1, np.inf), np.zeros(num_lengths + 1, np.int64)
        for j in range(1, num_lengths + 1):
            last = rows.cells(up_to[j] - up_to[:j], steps[j - 1])
            begin[j] = np.argmin(best[:j] + last)
            longer[j] = best[begin[j]] + last[begin[j]]
        best = longer
        totals.append(best[-1])
        begins.append(begin)
    buckets, end = [], num_lengths
    for begin in reversed(begins[: int(np.argmin(totals)) + 1]):
        first = begin[end]
        members = np.flatnonzero((lengths >= steps[first]) & (lengths <= steps[end - 1]))
        buckets.append(_bucket(members, lengths, rows))
        end = first
    return buckets[::-1]


def _pair_buckets(lengths: np.ndarray, num_buckets: int, rows: _Rows) -> list[Bucket]:
    """Groups of pairs [N, 2], each time split where one split saves most.

    Optimal grouping by two lengths is not to be had; this is never worse than one group.
    """
    groups = [_Split.best(np.arange(len(lengths)), lengths, rows)]
    while len(groups) < num_buckets:
        groups.sort(key=lambda group: group.saved)
        if groups[-1].saved <= 0:
            break
        chosen = groups.pop()
        groups += [_Split.best(part, lengths, rows) for part in (chosen.below, chosen.above)]
    buckets = [_bucket(np.sort(group.members), lengths, rows) for group in groups]
    return sorted(buckets, key=lambda bucket: bucket.shape)


def _bucket(members: np.ndarray, lengths: np.ndarray, rows: _Rows) -> Bucket:
    shape = tuple(lengths[members].max(axis=0).tolist())
    return Bucket(shape, int(rows.of(np.int64(len(members)), sum(shape))), members)


class _Split(NamedTuple):
    """Pairs, and their best split in two; `saved` tokens by it."""

    members: np.ndarray
    saved: float
    below: np.ndarray
    above: np.ndarray

    @classmethod
    def best(cls, members: np.ndarray, lengths: np.ndarray, rows: _Rows) -> "_Split":
        count = np.int64(len(members))
        whole = rows.cells(count, lengths[members].max(axis=0).sum())
        found = cls(members, 0, members, members[:0])
        for side in (0, 1):
            order = members[np.argsort(lengths[members, side], kind="stable")]
            own, other = lengths[order, side], lengths[order, 1 - side]
            cuts = np.flatnonzero(np.diff(own)) + 1  # pairs below each cut
            if not len(cuts):
                continue
            below = own[cuts - 1] + np.maximum.accumulate(other)[cuts - 1]
            above = own[-1] + np.maximum.accumulate(other[::-1])[::-1][cuts]
            saved = whole - rows.cells(cuts, below) - rows.cells(count - cuts, above)
            at = int(np.argmax(saved))
            if saved[at] > found.saved:
                found = cls(members, float(saved[at]), order[: cuts[at]], order[cuts[at] :])
        return found


def _tokens(array: Any, name: str) -> np.ndarray:
    """One axis of tokens as an array."""
    array = np.asarray(array)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"{name} must be one axis of whole numbers, got {array.dtype} {list(array.shape)}"
        )
    if array.size and not 0 <= array.min() <= array.max() <= np.iinfo(np.int32).max:
        raise ValueError(f"{name} must be in 0 .. 2^31 - 1, got {array.min()} .. {array.max()}")
    return array


def _not_negative(number: int) -> int:
    if number < 0:
        raise ValueError(f"batches are numbered from 0 on, got {number}")
    return number
