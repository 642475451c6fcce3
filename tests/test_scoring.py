"""One contract for the scores of language models: sums by hand, mixtures, caches, files."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqlab.errors import InputError
from seqlab.scoring import (
    TokenScores,
    cache_scores,
    check_same_tokens,
    em_weights,
    interpolate,
    load_scores,
    summary,
)

TOKENS = np.array([5, 1, 4, 3])
UNKNOWN = TOKENS == 1


def scores(*probs, **changed):
    fields = {"tokens": TOKENS, "unknown": UNKNOWN, "carry": "sentence"} | changed
    with np.errstate(divide="ignore"):
        return TokenScores(log_probs=np.log(probs), **fields)


def test_figures_by_hand():
    found = scores(1 / 2, 1 / 32, 1 / 4, 1 / 2, num_characters=3)
    assert found.perplexity == pytest.approx(2 ** (9 / 4))  # the end of the sentence counts
    assert found.perplexity_without_unknown == pytest.approx(2 ** (4 / 3))
    assert found.unknown_rate == 0.25
    assert found.bits_per_character == pytest.approx(3.0)
    assert scores(1 / 2, 1 / 2, 0, 1 / 2).perplexity == math.inf
    assert scores(1 / 2, 1 / 2, 1 / 2, 1 / 2).bits_per_character is None


def test_summary_has_the_promised_keys():
    valid, test = scores(1 / 2, 1 / 2, 1 / 2, 1 / 2), scores(1 / 2, 1 / 32, 1 / 4, 1 / 2)
    assert summary(valid, test) == {
        "valid_perplexity": pytest.approx(2.0),
        "test_perplexity": test.perplexity,
        "test_perplexity_without_unknown": test.perplexity_without_unknown,
        "unknown_rate": 0.25,
        "bits_per_character": None,
        "test_tokens": 4,
        "carry": "sentence",
    }


def test_a_file_gives_the_scores_back_to_the_last_bit(tmp_path):
    for name, found in {
        "words": scores(0.1, 0.2, 0.3, 0.7, vocabulary="digest"),
        "characters": scores(0.1, 0.2, 0.0, 1.0, num_characters=4),
    }.items():
        found.save(tmp_path / f"{name}.npz")
        again = load_scores(tmp_path / f"{name}.npz")
        for field in ("tokens", "log_probs", "unknown"):
            np.testing.assert_array_equal(getattr(again, field), getattr(found, field))
        assert (again.carry, again.vocabulary) == (found.carry, found.vocabulary)
        assert again.num_characters == found.num_characters


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", a=1)
    for name in ("text.npz", "other.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            load_scores(tmp_path / name)
    whole = tmp_path / "whole.npz"
    scores(0.1, 0.2, 0.3, 0.7).save(whole)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:300])
    with pytest.raises(InputError, match=r"cut\.npz"):
        load_scores(tmp_path / "cut.npz")
    with pytest.raises(InputError, match="cannot write"):
        scores(0.1, 0.2, 0.3, 0.7).save(tmp_path / "nowhere" / "x.npz")


def test_scores_of_other_tokens_are_refused():
    first = scores(0.1, 0.2, 0.3, 0.7, vocabulary="a" * 64)
    half = np.full(4, 0.5)
    others = {
        "4 and 3 tokens": TokenScores([5, 1, 4], np.log(half[:3]), [False] * 3, ""),
        "token 2 is 4 in one and 6 in the other": scores(*half, tokens=[5, 1, 6, 3]),
        "token 1 is 1": scores(*half, unknown=[False] * 4),
        "different vocabularies": scores(*half, vocabulary="b" * 64),
    }
    for words, other in others.items():
        for use in (
            lambda pair: check_same_tokens(pair),
            lambda pair: em_weights(pair),
            lambda pair: interpolate(pair, [0.5, 0.5]),
        ):
            with pytest.raises(InputError, match=words):
                use([first, other])
    check_same_tokens([first, scores(*half)])  # one that does not say its vocabulary


def test_scores_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="one length"):
        scores(0.1, 0.2)
    with pytest.raises(ValueError, match=r"log_probs\[1\] is 0.69"):
        scores(0.1, 2.0, 0.1, 0.1)
    with pytest.raises(ValueError, match=r"log_probs\[2\] is nan"):
        scores(0.1, 0.2, math.nan, 0.1)
    with pytest.raises(InputError, match="empty"):
        TokenScores([], [], [], "")


def test_a_mixture_is_the_weighted_sum_of_probabilities():
    one, two = scores(0.1, 0.2, 0.0, 0.7), scores(0.5, 0.1, 0.2, 0.7)
    mixed = interpolate([one, two], [0.25, 0.75])
    np.testing.assert_allclose(np.exp(mixed.log_probs), [0.4, 0.125, 0.15, 0.7], rtol=1e-12)
    np.testing.assert_allclose(interpolate([one, two], [1, 0]).log_probs, one.log_probs)
    assert "0.25" in mixed.carry
    tiny = TokenScores(TOKENS, np.full(4, -2000.0), UNKNOWN, "")
    np.testing.assert_allclose(interpolate([tiny, tiny], [0.5, 0.5]).log_probs, -2000.0)
    for weights, words in (([0.5, 0.6], "sum to 1"), ([1.0], "2 numbers"), ([2, -1], "0 or more")):
        with pytest.raises(InputError, match=words):
            interpolate([one, two], weights)


@example([[0.5859375, 0.5862836903930656]])  # nearly a tie: steps are short, and many
@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(
            st.lists(st.floats(1e-6, 1.0), min_size=m, max_size=m), min_size=1, max_size=40
        )
    )
)
def test_em_climbs_to_weights_that_no_neighbour_beats(probs):
    probs = np.array(probs).T
    tokens = np.full(probs.shape[1], 4)
    given = [TokenScores(tokens, np.log(p), tokens == 1, "") for p in probs]
    found = em_weights(given, tolerance=1e-13, max_steps=500_000)
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(np.diff(found.nats_per_token) <= 1e-12)
    best = interpolate(given, found.weights).nats_per_token
    assert best == pytest.approx(found.nats_per_token[-1], abs=1e-10)
    assert best <= min(each.nats_per_token for each in given) + 1e-6
    for m in range(len(probs)):  # the likelihood is concave: a downhill step each way is the top
        moved = 0.99 * found.weights + 0.01 * np.eye(len(probs))[m]
        assert best <= interpolate(given, moved).nats_per_token + 1e-6


def test_em_finds_the_shares_that_made_a_text():
    rng = np.random.default_rng(0)
    models = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    tokens = rng.choice(3, 200_000, p=[0.3, 0.7] @ models)
    given = [TokenScores(tokens, np.log(p[tokens]), tokens > 5, "") for p in models]
    np.testing.assert_allclose(em_weights(given).weights, [0.3, 0.7], atol=0.005)


def test_em_says_where_no_model_will_do():
    with pytest.raises(InputError, match="token 2 has probability 0"):
        em_weights([scores(0.1, 0.2, 0.0, 0.7), scores(0.1, 0.2, 0.0, 0.7)])


def cached_by_definition(tokens, vocab_size, window, decay, prior):
    found = []
    for t in range(len(tokens)):
        weights = np.zeros(vocab_size)
        for s in range(t):
            if window is None or s >= t - window:
                weights[tokens[s]] += 1 if decay is None else decay ** (t - 1 - s)
        p = (weights + prior / vocab_size) / (weights.sum() + prior)
        assert p.sum() == pytest.approx(1, abs=1e-12)
        found.append(p[tokens[t]])
    return np.log(found)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(1, 12),
    st.floats(0.05, 0.99),
    st.floats(0.01, 10),
)
def test_a_cache_is_its_definition(tokens, window, decay, prior):
    like = TokenScores(tokens, np.zeros(len(tokens)), np.zeros(len(tokens), bool), "")
    for options in ({"window": window, "decay": None}, {"window": None, "decay": decay}):
        found = cache_scores(like, 6, prior=prior, **options)
        expected = cached_by_definition(tokens, 6, prior=prior, **options)
        np.testing.assert_allclose(found.log_probs, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"window": 5, "decay": 0.9}, {"window": 0}, {"decay": 1.0}, {"decay": 0.0},
        {"window": 5, "prior": 0.0},
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_is_refused(options):
    with pytest.raises(InputError, match=r"window|decay|prior"):
        cache_scores(scores(0.1, 0.2, 0.3, 0.7), 10, **options)
