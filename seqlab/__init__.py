"""A laboratory for sequence models in JAX and Flax, with exact gradient instruments for any cell.

The public names, each loaded when it is first asked for; importing seqlab starts no device work.
"""

import importlib

_HOME = {
    "cells.affine": ("Init", "affine", "init_affine", "scale_recurrent"),
    "cells.antisymmetric": ("AntisymmetricRNN",),
    "cells.diagonal": ("LRU", "MinGRU", "MinLSTM"),
    "cells.gru": ("GRU",),
    "cells.janet": ("JANET",),
    "cells.lem": ("LEM",),
    "cells.lmu": ("LMU",),
    "cells.lookup": ("lookup",),
    "cells.lstm": ("LSTM", "LSTMCarry"),
    "cells.mgu": ("MGU",),
    "cells.minimalrnn": ("MinimalRNN",),
    "cells.oscillators": ("CoRNN", "UnICORNN"),
    "cells.rnn": ("RNN", "PreactivationRNN"),
    "cells.slstm": ("SLSTM",),
    "cells.unitary": ("ORNN", "URNN"),
    "description": ("Description", "describe"),
    "devices": ("Devices",),
    "ensemble": ("map_nets", "train_nets"),
    "errors": ("InputError",),
    "gradflow.attribution": (
        "completeness_gap",
        "gradient_times_input",
        "integrated_gradients",
        "leave_one_out",
        "log_odds",
    ),
    "gradflow.gates": ("gate_activations", "saturation"),
    "gradflow.theory": ("critical_gain", "mean_field_tanh"),
    "gradflow.jacobians": (
        "jacobian_products",
        "log_jacobian_norms",
        "log_product_norms",
        "log_singular_values",
        "route_jacobians",
        "step_jacobians",
    ),
    "gradflow.lyapunov": ("kaplan_yorke_dimension", "lyapunov_exponents"),
    "gradflow.omega": ("norm_preservation", "norm_ratios"),
    "gradflow.paths": ("path_gradients",),
    "gradflow.sensitivity": ("parameter_sensitivity",),
    "gradflow.taps": ("carry_gradients", "gradients", "log_norm_over_time", "named_leaves"),
    "gradflow.truncation": ("chunk_borders", "truncated_gradient"),
    "gradflow.weights": ("share_norms", "weight_shares"),
    "metrics": ("bootstrap",),
    "models.functional": ("functional",),
    "models.recurrent": ("ManyToMany", "ManyToOne", "OneToMany", "Recurrent"),
    "models.text_cnn": ("TextCNN",),
    "recorder": ("locate",),
    "recurrence": (
        "Unrolled",
        "bidirectional",
        "init_stack",
        "stack",
        "unroll",
        "using",
        "why_not_native",
    ),
    "report.make": ("gradient_report",),
    "report.result": ("compare_reports",),
    "session": ("Session",),
    "testing": ("assert_padding_invariant", "check_cell"),
    "train": ("TrainState", "fresh_state", "init_state", "make_train_step", "steps"),
    "types": ("Cell", "Model", "Output"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The public object called `name`, from the module that defines it."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'seqlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"seqlab.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return __all__
