"""Scores of what was written: sacrebleu's own figures, references by source, positions."""

import numpy as np
import pytest

from seqlab import translations

OUTPUTS = ["the cat sat on the mat", "a dog runs", "no"]
ANSWERS = [["the cat sat on the mat", "a cat sat"], ["a dog is running"], ["no", "never"]]


def test_pairs_are_gathered_by_their_source():
    found = translations.references(["a", "b", "a", "a"], ["x", "y", "z", "x"])
    assert found.sources == ["a", "b"]
    assert found.answers == [["x", "z"], ["y"]]
    assert found.members == [[0, 2, 3], [1]]


def test_scores_are_those_of_sacrebleu_with_several_references():
    import sacrebleu

    found = translations.scores(OUTPUTS, ANSWERS, tokenize="none")
    streams = [["the cat sat on the mat", "a dog is running", "no"], ["a cat sat", None, "never"]]
    bleu = sacrebleu.corpus_bleu(OUTPUTS, streams, tokenize="none", force=True)
    assert found["bleu"] == pytest.approx(bleu.score, abs=1e-9)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(OUTPUTS, streams).score, abs=1e-9)
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert "tok:none" in found["bleu_signature"]
    assert "nrefs:var" in found["bleu_signature"]


def test_intervals_hold_the_score_and_close_when_all_are_right():
    found = translations.bleu_interval(OUTPUTS, ANSWERS, tokenize="none")
    assert found.low <= found.middle <= found.high
    assert found.high > found.low
    perfect = translations.bleu_interval(
        OUTPUTS[:1] * 5, ANSWERS[:1] * 5, tokenize="none", num_draws=10
    )
    assert (perfect.low, perfect.middle, perfect.high) == pytest.approx((100.0, 100.0, 100.0))
    share = translations.exact_interval(OUTPUTS, ANSWERS)
    assert share.middle == pytest.approx(200 / 3)


def test_an_interval_is_that_of_sacrebleu_on_drawn_sentences():
    import sacrebleu

    rng = np.random.default_rng(0)
    drawn = []
    for rows in (rng.integers(3, size=3) for _ in range(50)):
        longest = max(len(ANSWERS[i]) for i in rows)
        streams = [
            [ANSWERS[i][k] if k < len(ANSWERS[i]) else None for i in rows] for k in range(longest)
        ]
        texts = [OUTPUTS[i] for i in rows]
        drawn.append(sacrebleu.corpus_bleu(texts, streams, tokenize="none", force=True).score)
    found = translations.bleu_interval(OUTPUTS, ANSWERS, tokenize="none", num_draws=50)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))
    last = translations.bleu_by_order(OUTPUTS, ANSWERS, tokenize="none", num_draws=5)[-1]
    assert float(found.middle) == pytest.approx(float(last.middle))


def test_accuracy_by_position_counts_what_is_there():
    hits = [np.array([True, True]), np.array([True, False, True]), np.array([False])]
    shares, counts = translations.position_accuracy(hits, 3)
    np.testing.assert_array_equal(counts, [3, 2, 1])
    np.testing.assert_allclose(shares, [2 / 3, 1 / 2, 1.0])


def test_tokens_agree_place_by_place():
    assert translations.agrees([5, 6, 7], [5, 9, 7]).tolist() == [True, False, True]
    assert translations.agrees([5], [5, 6]).tolist() == [True, False]
    assert translations.agrees([5, 6, 7, 8], [5, 6]).tolist() == [True, True]
