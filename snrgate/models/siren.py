"""A picture as a function of the place, by layers of sines."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snrgate.annotations import Array, Float

__all__ = ["Siren"]


class Siren(nnx.Module):
    r"""Colours at places: layers :math:`\sin(\omega_0 (W x + c))`, the last one linear.

    Args:
        channels: number of outputs, 1 for grey and 3 for colour.
        width: number of units in each hidden layer.
        depth: number of hidden layers.
        omega: frequency of every layer. A higher one learns finer detail early.
        rngs: the stream ``params`` draws the kernels.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from snrgate.models.siren import Siren
        >>> model = Siren(3, width=8, depth=2, rngs=nnx.Rngs(params=0))
        >>> model(jnp.zeros((5, 2))).shape
        (5, 3)

    Source: Sitzmann et al., arXiv 2006.09661, for the initialisation too.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 192,
        depth: int = 3,
        omega: float = 30.0,
        rngs: nnx.Rngs,
    ):
        self.omega = omega

        def layer(m: int, n: int, bound: float) -> nnx.Linear:
            def uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
                return jax.random.uniform(key, shape, dtype, -bound, bound)

            return nnx.Linear(m, n, kernel_init=uniform, rngs=rngs)

        sizes = [2] + [width] * depth
        first = layer(2, width, 1 / 2)
        inner = [layer(m, n, math.sqrt(6 / m) / omega) for m, n in itertools.pairwise(sizes[1:])]
        self.hidden = nnx.List([first, *inner])
        self.head = layer(width, channels, math.sqrt(6 / width) / omega)

    def __call__(self, position: Float[Array, "... 2"]) -> Float[Array, "... channels"]:
        """The colours at some places.

        Args:
            position: coordinates, about [-1, 1] each.
        """
        x = position
        for layer in self.hidden:
            x = jnp.sin(self.omega * layer(x))
        return self.head(x)
