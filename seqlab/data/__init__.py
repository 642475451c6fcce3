"""Data sets, texts and synthetic tasks as numpy arrays. Nothing here imports jax."""
