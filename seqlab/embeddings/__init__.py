"""Word vectors: counted, trained, read, written and asked."""
