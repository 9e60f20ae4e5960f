"""Test settings that must be in place before JAX starts."""

import os

# Several devices on one machine, so that the tests of distributed batches run everywhere.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Threads of NumPy's linear algebra wait by spinning, which costs most of the time on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A silent broadcast between arrays of different rank is an error.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
