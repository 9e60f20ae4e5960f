"""Test settings that must be in place before JAX starts."""

import importlib.util
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping


def known(flag: str) -> bool:
    """Whether JAX holds a flag of XLA, which ends the process at one that it does not know."""
    spec = importlib.util.find_spec("jaxlib")
    library = next(Path(spec.origin).parent.glob("libjax_common.*"), None)
    if library is None:
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        return held.find(flag.encode()) >= 0


# Several devices on one machine, so that the tests of distributed batches run everywhere. A program
# of a test runs for a moment and compiles for seconds, and four fifths of these seconds make its
# machine code fast, which says nothing of its numbers. What follows later wins:
# `XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true" pytest`.
os.environ["XLA_FLAGS"] = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" * known("xla_cpu_use_fusion_emitters"),
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    )
)
os.environ["JAX_PLATFORMS"] = "cpu"
# What takes long to compile is compiled once for all workers and the processes that they start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="compiled-")  # removed when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Threads of NumPy's linear algebra wait by spinning, which takes the processors from the others.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A silent broadcast between arrays of different rank is an error.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"


def outermost(decorate: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator that checks shapes and types, but not for functions within functions.

    These are made at every call of the function around them, and their checks with them, which
    would take a quarter of the time of all tests. What they are given is checked there.
    """

    def decorator(**settings: Any) -> Callable[[Any], Any]:
        checked = decorate(**settings)
        return lambda made: made if "<locals>" in made.__qualname__ else checked(made)

    return decorator


jaxtyping.jaxtyped = outermost(jaxtyping.jaxtyped)
