"""Speed and memory, side by side with the peers; quote ratios from one run, never a lone time."""
