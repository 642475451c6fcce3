"""How every test runs: on the CPU, with JAX's own checks on, in float32 unless it asks for x64."""

import os
import socket
import sys

os.environ["JAX_PLATFORMS"] = "cpu"  # read when jax is imported
os.environ["MPLBACKEND"] = "agg"  # read when matplotlib is imported

# A worker for each core, and a thread for each worker: threads of BLAS wait for each other in a
# busy loop, and where others compute, a logistic regression of 0.3 s takes 15 s of both cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by OpenBLAS, MKL and OpenMP; not by numba

# Two thirds of the suite would be the compiler, for programs that run once: no optimising, and no
# fusions by way of MLIR. `XLA_FLAGS= python -m pytest` tests the programs that users run.
os.environ.setdefault(
    "XLA_FLAGS",  # read when jax is imported; inherited by the processes that tests start
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false",
)

# The same for loops of machine code; tests of those name the form.
os.environ.setdefault("SEQLAB_NATIVE", "0")  # read when seqlab is imported; inherited too

import jax
import pytest
from hypothesis import HealthCheck, settings


class Without:
    """A finder of modules to which some do not exist, as where they are not installed."""

    def __init__(self, finder, *names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


# Installed or not, there is no TensorFlow here: the data sets need none. (TFDS would take
# `sys.modules["tensorflow"] = None` for a sign that it is loaded.)
sys.meta_path[:] = [Without(finder, "tensorflow") for finder in sys.meta_path]

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling takes its time, x64 suits every example alike, and a red run must be red again.
settings.register_profile(
    "seqlab",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("seqlab")


@pytest.fixture
def x64():
    """64-bit numbers for one test; what was compiled outside it stays 32-bit."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks for it in one test fails."""

    def refuse(*args):
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name.startswith("test_parity_"):
            item.add_marker(pytest.mark.peers)
