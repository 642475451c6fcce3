"""Models: Flax layers around the loop, turned into pure functions by `functional`."""
