"""Language models of n-grams: counts, seven smoothings, ARPA files. Plain numpy.

counts = count_ngrams(vocabulary.encode_lines(text), order=5, vocabulary=vocabulary)
model = fit(counts, "modified-kneser-ney")
model.score_tokens(vocabulary.encode_lines(unseen)).perplexity
"""

from seqlab.ngram.arpa import read_arpa, write_arpa
from seqlab.ngram.counts import Counts, Table, count_ngrams
from seqlab.ngram.model import Level, NGram
from seqlab.ngram.smoothing import SMOOTHINGS, fit

__all__ = [
    "SMOOTHINGS",
    "Counts",
    "Level",
    "NGram",
    "Table",
    "count_ngrams",
    "fit",
    "read_arpa",
    "write_arpa",
]
