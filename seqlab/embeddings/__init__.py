"""Word embeddings: word2vec, GloVe, and the vectors that either gives."""
