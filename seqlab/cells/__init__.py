"""Cells: one recurrent step each, plain functions over plain dicts."""
