"""Writes the arrays that hold the cells to torch where torch is not installed.

    python tests/golden/make_torch_golden.py

One file for each of RNN (tanh, relu), LSTM and GRU, float64, with rows of several lengths: inputs
(`xs`, `lengths`, `h0`, `c0`), weights by torch's names, what a loss sends back (`bar_ys`,
`bar_h_n`, `bar_c_n`), and what torch made of it: `ys`, `h_n`, `c_n` and the gradient `grad_...` of
xs, h0, c0 and every weight.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

B, T, D, H = 3, 5, 2, 3
LENGTHS = (3, 5, 1)
MODULES = {
    "rnn_tanh": torch.nn.RNN(D, H, nonlinearity="tanh", batch_first=True),
    "rnn_relu": torch.nn.RNN(D, H, nonlinearity="relu", batch_first=True),
    "lstm": torch.nn.LSTM(D, H, batch_first=True),
    "gru": torch.nn.GRU(D, H, batch_first=True),
}


def golden(module: torch.nn.RNNBase) -> dict[str, np.ndarray]:
    """What goes into the module and what comes out, forward and backward, by name."""
    rng = np.random.default_rng(0)
    parts = ("h", "c") if module.mode == "LSTM" else ("h",)
    given = {"xs": rng.normal(size=(B, T, D))}
    given |= {f"{part}0": rng.normal(size=(1, B, H)) for part in parts}
    given |= {name: rng.normal(0.0, 0.7, leaf.shape) for name, leaf in module.state_dict().items()}
    sent_back = {"bar_ys": rng.normal(size=(B, T, H))}
    sent_back |= {f"bar_{part}_n": rng.normal(size=(1, B, H)) for part in parts}

    leaves = {name: torch.from_numpy(leaf).requires_grad_() for name, leaf in given.items()}
    weights = {name: leaves[name] for name in module.state_dict()}
    first = tuple(leaves[f"{part}0"] for part in parts)
    packed = pack_padded_sequence(
        leaves["xs"], torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    packed_ys, last = torch.func.functional_call(
        module.double(), weights, (packed, first if "c" in parts else first[0])
    )
    ys, _ = pad_packed_sequence(packed_ys, batch_first=True, total_length=T)
    last = last if "c" in parts else (last,)
    made = {"ys": ys} | {f"{part}_n": leaf for part, leaf in zip(parts, last, strict=True)}
    grads = torch.autograd.grad(
        tuple(made.values()),
        tuple(leaves.values()),
        tuple(torch.from_numpy(leaf) for leaf in sent_back.values()),
    )
    return {
        "made_with": np.array(f"torch {torch.__version__}"),
        "lengths": np.array(LENGTHS),
        **given,
        **sent_back,
        **{name: leaf.detach().numpy() for name, leaf in made.items()},
        **{f"grad_{name}": grad.numpy() for name, grad in zip(leaves, grads, strict=True)},
    }


if __name__ == "__main__":
    for name, module in MODULES.items():
        np.savez_compressed(Path(__file__).parent / f"torch_{name}.npz", **golden(module))
