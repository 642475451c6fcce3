"""One call that tells how a gradient travels back through time: `make.gradient_report`."""
