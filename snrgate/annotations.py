"""Shape annotations: those of jaxtyping where it is installed, and plain names where it is not.

jaxtyping documents the arrays, and lets the tests check the shapes. The library itself needs only
jax, optax and numpy.
"""

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

try:
    from jaxtyping import Bool, Float, Int, PyTree
except ImportError:

    class _Shaped:
        """Stands in for a jaxtyping dtype: ``Float[Array, "m n"]`` is ``Any``."""

        def __class_getitem__(cls, item: Any) -> Any:
            return Any

    Bool = Float = Int = _Shaped
    PyTree = Any

Scalar = Array | np.ndarray | np.floating | np.integer | float | int
"""A real number, traced or not: a hyperparameter or a count."""

__all__ = ["Array", "ArrayLike", "Bool", "Float", "Int", "PyTree", "Scalar"]
