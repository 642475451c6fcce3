"""The fast loop behind `unroll`."""
