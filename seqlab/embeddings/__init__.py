"""Word embeddings: word2vec and GloVe, their vectors, and what can be asked of these.

The public names, each loaded when it is first asked for: reading a corpus needs no jax.
"""

import importlib

_HOME = {
    "corpus": ("Corpus", "encode", "sentences"),
    "cooccurrence": ("Cooccurrences", "count_cooccurrences"),
    "evaluation": ("AnalogyScores", "PairScores", "Section"),
    "files": ("load_glove", "load_vectors", "load_word2vec", "save_glove", "save_word2vec"),
    "glove": ("GloVe",),
    "nearest": ("Neighbours", "neighbour_overlap"),
    "pretrained": ("frozen", "with_embedding", "with_vectors"),
    "vectors": ("Embedding", "Vectors"),
    "word2vec": ("Training", "Word2Vec"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """The public object called `name`, from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'seqlab.embeddings' has no attribute {name!r}")
    return getattr(importlib.import_module(f"seqlab.embeddings.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
