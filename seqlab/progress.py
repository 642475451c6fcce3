"""Progress bars: live on a terminal, widgets in a notebook, elsewhere a line now and then."""

import sys

from tqdm.auto import tqdm

__all__ = ["is_live", "tqdm"]


def is_live() -> bool:
    """Whether someone looks on: standard error is a terminal, or this is a notebook's kernel."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
