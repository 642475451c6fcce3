"""Word embeddings: vectors, what can be asked of them, and their files."""

from seqlab.embeddings.evaluation import AnalogyScores, PairScores, Section
from seqlab.embeddings.files import load_glove, load_word2vec, save_glove, save_word2vec
from seqlab.embeddings.nearest import Neighbours, neighbour_overlap
from seqlab.embeddings.pretrained import frozen, with_embedding
from seqlab.embeddings.vectors import Embedding, Vectors

__all__ = [
    "AnalogyScores",
    "Embedding",
    "Neighbours",
    "PairScores",
    "Section",
    "Vectors",
    "frozen",
    "load_glove",
    "load_word2vec",
    "neighbour_overlap",
    "save_glove",
    "save_word2vec",
    "with_embedding",
]
