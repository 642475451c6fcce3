"""Exact gradient instruments for any cell in any model, and the closed forms to draw over them."""
