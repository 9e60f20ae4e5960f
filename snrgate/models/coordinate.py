"""A picture as a function of the place, by random Fourier features and a perceptron."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from snrgate.annotations import Array, Float

__all__ = ["CoordinateMLP", "Frozen"]


class Frozen(nnx.Variable):
    """A constant of the model. It is drawn once and never trained, and is no ``nnx.Param``."""


class CoordinateMLP(nnx.Module):
    r"""Colours at places: an MLP on :math:`[\sin(\pi x B), \cos(\pi x B)]` with a random B.

    Args:
        channels: number of outputs, 1 for grey and 3 for colour.
        width: number of units in each hidden layer.
        depth: number of hidden layers.
        frequencies: number of columns of B. There are twice as many features.
        fourier_scale: standard deviation of the entries of B. A higher one learns finer detail
            early, and noise with it.
        rngs: the stream ``params`` draws B and the kernels.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from snrgate.models.coordinate import CoordinateMLP
        >>> model = CoordinateMLP(3, width=8, depth=1, frequencies=4, rngs=nnx.Rngs(params=0))
        >>> model(jnp.zeros((5, 2))).shape
        (5, 3)

    Source: Tancik et al., arXiv 2006.10739.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 192,
        depth: int = 3,
        frequencies: int = 128,
        fourier_scale: float = 5.0,
        rngs: nnx.Rngs,
    ):
        self.frequencies = Frozen(
            fourier_scale * jax.random.normal(rngs.params(), (2, frequencies))
        )
        # He's variance keeps the scale of the signal through relu layers of any depth.
        widths = [2 * frequencies] + [width] * depth
        self.hidden = nnx.List(
            nnx.Linear(m, n, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
            for m, n in itertools.pairwise(widths)
        )
        self.head = nnx.Linear(widths[-1], channels, rngs=rngs)

    def __call__(self, position: Float[Array, "... 2"]) -> Float[Array, "... channels"]:
        """The colours at some places.

        Args:
            position: coordinates, about [-1, 1] each.
        """
        phase = jnp.pi * position @ self.frequencies[...]
        x = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.head(x)
