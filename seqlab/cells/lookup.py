"""From a name on the command line to a cell."""

import difflib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from seqlab.cells import lstm
from seqlab.cells.affine import Init
from seqlab.cells.antisymmetric import AntisymmetricRNN
from seqlab.cells.diagonal import LRU, MinGRU, MinLSTM
from seqlab.cells.gru import GRU
from seqlab.cells.janet import JANET
from seqlab.cells.lem import LEM
from seqlab.cells.lmu import LMU
from seqlab.cells.lstm import LSTM
from seqlab.cells.mgu import MGU
from seqlab.cells.minimalrnn import MinimalRNN
from seqlab.cells.oscillators import CoRNN, UnICORNN
from seqlab.cells.rnn import RNN, PreactivationRNN
from seqlab.cells.slstm import SLSTM
from seqlab.cells.unitary import ORNN, URNN
from seqlab.errors import InputError
from seqlab.types import Cell

CELLS: dict[str, Callable[..., Any]] = {
    "rnn": RNN,
    "rnn-relu": partial(RNN, activation="relu"),
    "rnn-sigmoid": partial(RNN, activation="sigmoid"),
    "rnn-identity": partial(RNN, activation="identity"),
    "rnn-preactivation": PreactivationRNN,
    "irnn": partial(  # W_x of standard deviation 0.001 / sqrt(D)
        RNN, activation="relu", weight_init=Init(recurrent="identity", input_gain=0.001)
    ),
    "lstm": LSTM,
    "lstm-1997": partial(LSTM, forget_gate=1.0),
    "lstm-vanilla": lstm.Vanilla,
    "lstm-nig": lstm.NIG,
    "lstm-nfg": lstm.NFG,
    "lstm-nog": lstm.NOG,
    "lstm-niaf": lstm.NIAF,
    "lstm-noaf": lstm.NOAF,
    "lstm-np": lstm.NP,
    "lstm-cifg": lstm.CIFG,
    "lstm-fgr": lstm.FGR,
    "gru": GRU,
    "gru-after": partial(GRU, reset="after"),
    "gru-torch": partial(GRU, reset="after", z_multiplies="state"),
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "lru": LRU,
    "mgu": MGU,
    "janet": JANET,
    "minimalrnn": MinimalRNN,
    "slstm": SLSTM,
    "urnn": URNN,
    "ornn": ORNN,
    "antisymmetric": AntisymmetricRNN,
    "cornn": CoRNN,
    "unicornn": UnICORNN,
    "lem": LEM,
    "lmu": LMU,
}


def lookup(name: str) -> Callable[..., Cell]:
    """What makes the cell of that name; call it with `hidden_size=` and the cell's own fields.

        >>> from seqlab import lookup
        >>> lookup("gru")(hidden_size=4).reset
        'before'

    Args:
      name: one of `CELLS`, or "package.module:Class" for a cell of your own, found on the Python
        path.

    Raises:
      InputError: when there is no such name, module or class; it lists what there is.
    """
    if name in CELLS:
        return CELLS[name]
    if ":" in name:
        return _own(name)
    close = difflib.get_close_matches(name.lower(), CELLS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise InputError(
        f"unknown cell {name!r}{hint} known: {', '.join(CELLS)}; or package.module:Class"
    )


def make_cell(name: str, hidden_size: int, num_steps: int | None = None) -> Cell:
    """The cell of that name, made.

    Args:
      name: as for `lookup`; with `num_steps` also one followed by "-chrono".
      hidden_size: H.
      num_steps: None, or the longest memory with which a "-chrono" cell begins.

    Raises:
      InputError: as `lookup`, and when the cell cannot be made so.
    """
    base, chrono = name, {}
    if num_steps is not None and name.endswith("-chrono"):
        base, chrono = name.removesuffix("-chrono"), {"chrono_steps": float(num_steps)}
    try:
        return lookup(base)(hidden_size=hidden_size, **chrono)
    except TypeError as error:
        raise InputError(f"cell {name!r} cannot be made: {error}") from error


def _own(name: str) -> Callable[..., Cell]:
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise InputError(f"cell {name!r}: expected package.module:Class")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise InputError(f"cell {name!r}: cannot import {module_name!r}: {error}") from error
    except AttributeError as error:
        raise InputError(f"cell {name!r}: module {module_name!r} has no {class_name!r}") from error
    missing = [
        method
        for method in ("init", "initial_carry", "step", "output")
        if not callable(getattr(found, method, None))
    ]
    if missing and not isinstance(found, partial):
        raise InputError(f"cell {name!r}: {class_name} lacks {', '.join(missing)}")
    return found
