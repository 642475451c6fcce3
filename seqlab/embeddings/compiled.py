"""Blocks of word2vec with negative sampling, compiled by numba: the fast path of a processor.

A block is walked in three sweeps, each shared out over threads. The first computes, for every
centre, its gradient and the factor of every word that it is paired with, from tables that nobody
writes to; the second adds to the output vectors and the third to the input vectors, each part of
the vocabulary by one thread, in the order of the corpus. So there is no race, and neither the
number of threads nor chance has a say in the result: in the usual way to train word2vec on many
threads (Recht et al., 2011, "Hogwild!") both have. Each sweep is a function of its own, for numba
would make one loop of loops of equal length.

A part of the vocabulary finds its words by a look at all of the block (Skip-gram), or by chains
that the first sweep links (CBOW: it adds a third as much, and looking took as long as adding).

What is computed is the gradient of the losses written in `tiles` over the block, with negatives
that 16 centres share (Skip-gram) or of each centre's own (CBOW); the tests hold it to them.
"""

import math

import numba
import numpy as np
from numba import njit, prange

GROUP = 16  # centres that share their drawn words
PARTS = 16  # of a block and of the vocabulary: more than threads, and the same on every machine
FEW = 512  # factors of at most 2 whose product a float64 holds
FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; NaN and infinity keep meaning

FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # as in `draws`
GAMMA = np.uint64(0x9E3779B97F4A7C15)
U1, U27, U30, U31, U32 = (np.uint64(bits) for bits in (1, 27, 30, 31, 32))
LOW = np.uint64(0xFFFFFFFF)
ZERO, ONE, SIXTEEN = np.float32(0), np.float32(1), np.float32(16)
CORES = numba.get_num_threads()  # before anyone has asked for fewer


@njit(inline="always")
def drawn(key, counter, keep, alias):
    """`draws.Noise.draw` of one counter."""
    bits = (counter + U1) * GAMMA + key
    bits = (bits ^ (bits >> U30)) * FIRST
    bits = (bits ^ (bits >> U27)) * SECOND
    bits = bits ^ (bits >> U31)
    hit = ((bits >> U32) * np.uint64(len(keep))) >> U32
    if (bits & LOW) < np.uint64(keep[hit]):
        return np.int32(hit)
    return alias[hit]


@njit(inline="always", fastmath=FAST)
def dot(first, second):
    """Sum of products."""
    total = ZERO
    for d in range(len(first)):
        total += first[d] * second[d]
    return total


@njit(inline="always", fastmath=FAST)
def add(to, factor, vector):
    """Adds a multiple of a vector in place."""
    for d in range(len(to)):
        to[d] += factor * vector[d]


@njit(inline="always")
def sigmoid(score, small):
    """1 / (1 + exp(-score)), with small = exp(-|score|), which cannot overflow."""
    return (ONE if score >= ZERO else small) / (ONE + small)


@njit(inline="always")
def look_around(ids, place, radius, around):
    """Writes the words of a centre's window, and says how many there are."""
    count = 0
    for step in (-1, 1):
        for far in range(1, radius + 1):
            other = place + step * far
            if other < 0 or other >= len(ids) or ids[other] < 0:
                break
            around[count] = ids[other]
            count += 1
    return count


@njit(cache=True)
def skipgram(tables, ids, places, radii, rates, block_size, noise, losses, counts, settings):
    """One SGD step a block over the stream `ids`; writes each block's loss and its pairs."""
    inputs, outputs = tables
    window, num_drawn, weight, key, _ = settings
    size = inputs.shape[1]
    rows = np.empty((block_size, 2 * window), np.int32)
    factors = np.empty((block_size, 2 * window), np.float32)
    used = np.empty(block_size, np.int32)
    turns = np.empty((block_size, size), np.float32)
    num_groups = -(-block_size // GROUP)
    words = np.empty((num_groups, num_drawn), np.int32)
    drawn_turns = np.empty((num_groups, num_drawn, size), np.float32)
    part_loss, part_count = np.empty(PARTS, np.float64), np.empty(PARTS, np.int64)
    for block in range(len(losses)):
        first = block * block_size
        length = min(block_size, len(ids) - first)
        pair_up(inputs, outputs, ids, places, radii, first, length, weight, key, noise[0], noise[1],
                rows, factors, used, turns, words, drawn_turns, part_loss, part_count)  # fmt: skip
        add_outputs(inputs, outputs, ids, first, length, rates[block], rows, factors, used, words,
                    drawn_turns)  # fmt: skip
        add_centres(inputs, ids, first, length, rates[block], turns, used)
        losses[block], counts[block] = part_loss.sum(), part_count.sum()


@njit(parallel=True, fastmath=FAST, cache=True)
def pair_up(
    inputs, outputs, ids, places, radii, first, length, weight, key, keep, alias, rows, factors,
    used, turns, words, drawn_turns, part_loss, part_count,
):  # fmt: skip
    """First sweep: the factors of the words around each centre, and all turns.

    What a group's centres and its drawn words have to do with each other is three products of
    small matrices.
    """
    num_drawn, size = words.shape[1], inputs.shape[1]
    num_groups = -(-length // GROUP)
    for part in prange(PARTS):
        centres = np.empty((GROUP, size), np.float32)
        shares = np.empty((GROUP, num_drawn), np.float32)
        scores = np.empty((GROUP, num_drawn), np.float32)
        vectors = np.empty((num_drawn, size), np.float32)
        pushes = np.empty((GROUP, size), np.float32)
        total, pairs = 0.0, 0
        for group in range(part * num_groups // PARTS, (part + 1) * num_groups // PARTS):
            begin = group * GROUP
            base = np.uint64(places[first + begin]) * np.uint64(num_drawn)
            for n in range(num_drawn):
                words[group, n] = drawn(key, base + np.uint64(n), keep, alias)
                vectors[n] = outputs[words[group, n]]
            for g in range(GROUP):
                at = begin + g
                count = 0
                if at < length and ids[first + at] >= 0:
                    count = look_around(ids, first + at, radii[first + at], rows[at])
                if at < length:
                    used[at] = count
                pairs += count
                shares[g] = np.float32(count)
                if count == 0:
                    centres[g] = ZERO
                    continue
                centres[g] = inputs[ids[first + at]]
                turns[at] = ZERO
                # -log sigma(s) = max(-s, 0) + log(1 + exp(-|s|)); the logarithm is of a product.
                product = 1.0
                for pair in range(count):
                    row = outputs[rows[at, pair]]
                    score = dot(centres[g], row)
                    small = math.exp(-abs(score))
                    factors[at, pair] = ONE - sigmoid(score, small)
                    add(turns[at], factors[at, pair], row)
                    product *= 1.0 + small
                    if pair % FEW == FEW - 1:
                        total += math.log(product)
                        product = 1.0
                    total += max(-score, ZERO)
                    for n in range(num_drawn):  # a pair whose own word it is leaves it out
                        shares[g, n] -= np.float32(words[group, n] == rows[at, pair])
                total += math.log(product)
            np.dot(centres, vectors.T, scores)
            for g in range(min(GROUP, length - begin)):
                total += weight * be_wrong(
                    scores[g], shares[g], np.float32(used[begin + g]), np.float32(weight)
                )
            np.dot(scores, vectors, pushes)
            np.dot(scores.T, centres, drawn_turns[group])
            for g in range(min(GROUP, length - begin)):
                if used[begin + g] > 0:
                    add(turns[begin + g], ONE, pushes[g])
        part_loss[part], part_count[part] = total, pairs


@njit(inline="always", fastmath=FAST)
def be_wrong(scores, shares, count, weight):
    """The loss of drawn words, to be multiplied by weight; writes factors in the scores' place.

    Of a centre's `count` pairs, shares[n] have the n-th drawn word for a negative. Where all have,
    which is nearly always, the logarithms are one of a product.
    """
    total, logs = 0.0, 0.0
    for n in range(len(scores)):
        if shares[n] != count:
            total += shares[n] * math.log1p(math.exp(-abs(scores[n])))
    for begin in range(0, len(scores), FEW):
        product = 1.0
        for n in range(begin, min(begin + FEW, len(scores))):
            score = scores[n]
            small = exp_below(abs(score))
            total += shares[n] * max(score, ZERO)
            product *= 1.0 + small if shares[n] == count else 1.0
            scores[n] = -weight * shares[n] * sigmoid(score, small)
        logs += math.log(product)
    return total + count * logs


@njit(inline="always", fastmath=FAST)
def exp_below(far):
    """exp(-far) for far >= 0 within 1e-6, without a call, so that loops of it become vector code.

    The series of exp(-far / 8), far up to 16, to its eighth power; then squared three times.
    """
    u = min(far, SIXTEEN) * np.float32(-1 / 8)
    power = ONE
    for n in (8, 7, 6, 5, 4, 3, 2, 1):
        power = ONE + u * np.float32(1 / n) * power
    for _ in range(3):
        power *= power
    return power


@njit(parallel=True, fastmath=FAST, cache=True)
def add_outputs(
    inputs, outputs, ids, first, length, rate, rows, factors, used, words, drawn_turns
):  # fmt: skip
    """Second sweep: every word that a centre was paired with, and every drawn word."""
    num_groups = -(-length // GROUP)
    for part in prange(PARTS):
        for group in range(num_groups):
            for at in range(group * GROUP, min((group + 1) * GROUP, length)):
                for n in range(used[at]):
                    word = rows[at, n]
                    if word % PARTS == part:
                        add(outputs[word], rate * factors[at, n], inputs[ids[first + at]])
            for n in range(words.shape[1]):
                if words[group, n] % PARTS == part:
                    add(outputs[words[group, n]], rate, drawn_turns[group, n])


@njit(parallel=True, fastmath=FAST, cache=True)
def add_centres(inputs, ids, first, length, rate, turns, used):
    """Third sweep: the centres."""
    for part in prange(PARTS):
        for at in range(length):
            if used[at] > 0 and ids[first + at] % PARTS == part:
                add(inputs[ids[first + at]], rate, turns[at])


# Chains link the entries of a block for each part of the vocabulary, in the order they were met.
# ends: int32 [part of the block, part of the vocabulary, 2], the first and the last, -1 for none;
# after: int32 [entries], the next. Two arrays, for numba loses what is written through a tuple.


@njit(inline="always")
def link(ends, after, part, word, entry):
    """Puts an entry behind the others of its word's part of the vocabulary."""
    owner = word % PARTS
    if ends[part, owner, 0] < 0:
        ends[part, owner, 0] = entry
    else:
        after[ends[part, owner, 1]] = entry
    ends[part, owner, 1] = entry
    after[entry] = -1


@njit(cache=True)
def cbow(tables, ids, places, radii, rates, block_size, noise, losses, counts, settings):
    """As `skipgram`, but the bag of the words around predicts the centre."""
    inputs, outputs = tables
    window, num_drawn, weight, key, mean = settings
    size = inputs.shape[1]
    around = np.empty((block_size, 2 * window), np.int32)
    wholes = np.ones((block_size, 2 * window), np.float32)  # a turn goes whole to every word around
    rows = np.empty((block_size, 1 + num_drawn), np.int32)
    factors = np.empty((block_size, 1 + num_drawn), np.float32)
    bags = np.empty((block_size, size), np.float32)
    turns = np.empty((block_size, size), np.float32)
    row_ends, bag_ends = np.empty((2, PARTS, PARTS, 2), np.int32)
    row_after, bag_after = np.empty(rows.size, np.int32), np.empty(around.size, np.int32)
    part_loss, part_count = np.empty(PARTS, np.float64), np.empty(PARTS, np.int64)
    for block in range(len(losses)):
        first = block * block_size
        length = min(block_size, len(ids) - first)
        bag_up(inputs, outputs, ids, places, radii, first, length, weight, key, noise[0], noise[1],
               mean, around, rows, factors, bags, turns, row_ends, row_after, bag_ends,
               bag_after, part_loss, part_count)  # fmt: skip
        add_linked(outputs, rates[block], rows, factors, bags, row_ends, row_after)
        add_linked(inputs, rates[block], around, wholes, turns, bag_ends, bag_after)
        losses[block], counts[block] = part_loss.sum(), part_count.sum()


@njit(parallel=True, fastmath=FAST, cache=True)
def bag_up(
    inputs, outputs, ids, places, radii, first, length, weight, key, keep, alias, mean, around,
    rows, factors, bags, turns, row_ends, row_after, bag_ends, bag_after, part_loss, part_count,
):  # fmt: skip
    """First sweep: each centre's bag, the factors of the words it is scored with, and its turn."""
    num_drawn = rows.shape[1] - 1
    for part in prange(PARTS):
        scores = np.empty(num_drawn, np.float32)
        shares = np.empty(num_drawn, np.float32)
        total, examples = 0.0, 0
        row_ends[part] = bag_ends[part] = -1
        for at in range(part * length // PARTS, (part + 1) * length // PARTS):
            place = first + at
            centre = ids[place]
            if centre < 0:
                continue
            count = look_around(ids, place, radii[place], around[at])
            if count == 0:
                continue
            examples += 1
            bags[at] = turns[at] = ZERO
            scale = np.float32(1.0 / count) if mean else ONE
            for n in range(count):
                link(bag_ends, bag_after, part, around[at, n], at * around.shape[1] + n)
                add(bags[at], scale, inputs[around[at, n]])
            rows[at, 0] = centre
            score = dot(bags[at], outputs[centre])
            small = math.exp(-abs(score))
            factors[at, 0] = ONE - sigmoid(score, small)
            total += max(-score, ZERO) + math.log1p(small)
            base = np.uint64(places[place]) * np.uint64(num_drawn)
            for n in range(num_drawn):
                word = drawn(key, base + np.uint64(n), keep, alias)
                rows[at, 1 + n] = word
                scores[n] = dot(bags[at], outputs[word])
                shares[n] = np.float32(word != centre)
            total += weight * be_wrong(scores, shares, ONE, np.float32(weight))
            factors[at, 1:] = scores
            for n in range(1 + num_drawn):
                if n > 0 and shares[n - 1] == ZERO:
                    continue
                link(row_ends, row_after, part, rows[at, n], at * rows.shape[1] + n)
                add(turns[at], factors[at, n] * scale, outputs[rows[at, n]])
        part_loss[part], part_count[part] = total, examples


@njit(parallel=True, fastmath=FAST, cache=True)
def add_linked(table, rate, words, factors, vectors, ends, after):
    """Second and third sweep: multiples of a centre's vector, for each of its words that is linked.

    words and factors are [block, words of a centre], vectors [block, D].
    """
    width = words.shape[1]
    for owner in prange(PARTS):
        for part in range(PARTS):
            entry = ends[part, owner, 0]
            while entry >= 0:
                at, n = entry // width, entry % width
                add(table[words[at, n]], rate * factors[at, n], vectors[at])
                entry = after[entry]


def set_threads(count: int | None) -> None:
    """Threads that share out a block, None for all cores; the results do not depend on it."""
    numba.set_num_threads(CORES if count is None else max(1, min(count, CORES)))
