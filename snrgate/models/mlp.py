"""A multilayer perceptron, the network of several tasks and of the benchmarks."""

import itertools
from collections.abc import Callable, Sequence

from flax import nnx

from snrgate.annotations import Array, Float

__all__ = ["MLP"]


class MLP(nnx.Module):
    """Dense layers with one nonlinearity between them.

    Args:
        sizes: number of inputs, numbers of units in each hidden layer, and number of outputs.
        activation: the nonlinearity.
        rngs: the stream ``params`` draws the kernels.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from snrgate.models.mlp import MLP
        >>> MLP((2, 16, 3), nnx.tanh, rngs=nnx.Rngs(params=0))(jnp.zeros((5, 2))).shape
        (5, 3)
    """

    def __init__(
        self, sizes: Sequence[int], activation: Callable[[Array], Array], *, rngs: nnx.Rngs
    ):
        self.activation = activation
        self.layers = nnx.List(nnx.Linear(m, n, rngs=rngs) for m, n in itertools.pairwise(sizes))

    def __call__(self, x: Float[Array, "... m"]) -> Float[Array, "... n"]:
        """The outputs for some inputs."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)
