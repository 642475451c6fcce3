"""Studies: each file one question, run with `python -m experiments.NAME`."""
