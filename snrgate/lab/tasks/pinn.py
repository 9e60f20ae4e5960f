"""Physics-informed networks: an equation to satisfy and a noisy initial condition.

A batch has two kinds of examples. The *residual* points are drawn afresh at every step. The
measurements of the *initial* condition are few and noisy, and come back again and again. Each kind
has a loss of one example, a mean and a noise. Only the measurements are a finite data set.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.tasks.task import Group, Supervised, Task, require
from snrgate.models.mlp import MLP

__all__ = ["Equation", "Pinn", "advection", "burgers"]

Equation = Literal["advection", "burgers"]


@dataclasses.dataclass(frozen=True)
class Pinn:
    """Advection, u_t + beta u_x = 0, or Burgers, u_t + u u_x = nu u_xx, from noisy u(x, 0)."""

    equation: Equation = "advection"
    """Equation; the solution is periodic in x, in [-pi, pi], and starts at -sin x at t = 0."""
    beta: float = 5.0
    """Speed of the advection."""
    viscosity: float = 0.05
    """Viscosity nu of Burgers' equation."""
    noise: float = 0.5
    """Standard deviation of the noise of the measurements of u(x, 0)."""
    measurements: int = 256
    """Number of measurements; their places are drawn uniformly."""
    initial_weight: float = 10.0
    """Weight of the loss of the measurements; the equation and periodicity have weight 1."""
    width: int = 64
    """Number of units in each hidden layer."""
    depth: int = 4
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be learned with."""
        equations = get_args(Equation)
        require(
            self,
            equation=(self.equation in equations, f"one of {', '.join(equations)}"),
            viscosity=(self.viscosity >= 0.02, "at least 0.02, or the exact solution is not exact"),
            noise=(self.noise >= 0, "0 or more"),
            measurements=(self.measurements >= 2, "at least 2"),
        )

    def data(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The measurements of the initial condition.

        Args:
            seed: of their places and their noise.

        Returns:
            Places x (``measurements``,) and noisy values of u(x, 0) there.
        """
        rng = np.random.default_rng(seed)
        x0 = rng.uniform(-np.pi, np.pi, self.measurements).astype(np.float32)
        u0 = -np.sin(x0) + self.noise * rng.standard_normal(self.measurements).astype(np.float32)
        return x0, u0

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the measurements and the initial weights.

        Returns:
            A task of two groups, measured by ``error``: the relative L2 distance from the exact
            solution with the clean initial condition, on a grid of 64 places and 33 times.
        """
        return self.make_from(self.data(seed), seed)

    def make_from(self, measurements: tuple[np.ndarray, np.ndarray], seed: int) -> Task:
        """The task with given measurements.

        Args:
            measurements: places and values, as :meth:`data` returns them.
            seed: of the initial weights.

        Returns:
            As :meth:`make`.
        """
        sizes = (2, *[self.width] * self.depth, 1)
        graph, params = nnx.split(MLP(sizes, nnx.tanh, rngs=nnx.Rngs(params=seed)))

        def u(params: PyTree, x: Array, t: Array) -> Array:
            return nnx.merge(graph, params)(jnp.stack([x / jnp.pi, 2 * t - 1]))[0]

        def residual(params: PyTree, x: Array, t: Array) -> Array:
            if self.equation == "advection":
                # One derivative, along the flow.
                along = (jnp.full_like(x, self.beta), jnp.ones_like(t))
                return jax.jvp(lambda x, t: u(params, x, t), (x, t), along)[1]

            def slope(x: Array) -> tuple[Array, Array]:
                return jax.jvp(lambda x: u(params, x, t), (x,), (jnp.ones_like(x),))

            (value, u_x), (_, u_xx) = jax.jvp(slope, (x,), (jnp.ones_like(x),))
            u_t = jax.jvp(lambda t: u(params, x, t), (t,), (jnp.ones_like(t),))[1]
            return u_t + value * u_x - self.viscosity * u_xx

        def equation_loss(params: PyTree, place: tuple[Array, Array, Array]) -> Array:
            x, t, edge = place
            pi = jnp.full_like(edge, jnp.pi)
            gap = u(params, pi, edge) - u(params, -pi, edge)
            return jnp.square(residual(params, x, t)) + jnp.square(gap)

        def at_the_start(params: PyTree, x: Array) -> Array:
            return u(params, x, jnp.zeros_like(x))

        def initial_loss(value: Array, measured: Array) -> Array:
            return self.initial_weight * jnp.square(value - measured)

        def places(key: Array, number: int) -> tuple[Array, Array, Array]:
            x, t, edge = jax.random.uniform(key, (3, number))
            return jnp.pi * (2 * x - 1), t, edge

        x = np.linspace(-np.pi, np.pi, 64, endpoint=False)
        x, t = (v.ravel() for v in np.meshgrid(x, np.linspace(0, 1, 33), indexing="ij"))
        exact = (
            advection(x, t, self.beta)
            if self.equation == "advection"
            else burgers(x, t, self.viscosity)
        ).astype(np.float32)
        x, t = x.astype(np.float32), t.astype(np.float32)

        @jax.jit
        def evaluate(params: PyTree) -> dict[str, Array]:
            values = jax.vmap(u, (None, 0, 0))(params, jnp.asarray(x), jnp.asarray(t))
            distance = jnp.linalg.norm(values - exact)
            return {"error": distance / np.linalg.norm(exact)}

        data = Supervised(at_the_start, initial_loss, *measurements)
        groups = (Group(equation_loss, places, None), data.group(data.targets))
        return Task(params, groups, evaluate, "error", higher_is_better=False, supervised=data)


def advection(x: Float[np.ndarray, " n"], t: Float[np.ndarray, " n"], beta: float) -> np.ndarray:
    """The wave at time t that starts as -sin x."""
    return -np.sin(x - beta * t)


def burgers(x: Float[np.ndarray, " n"], t: Float[np.ndarray, " n"], nu: float) -> np.ndarray:
    r"""The solution of Burgers' equation from -sin x, by the Cole-Hopf transformation.

    .. math::

        u = -\frac{\int \sin(x - \eta)\, f(x - \eta)\, e^{-\eta^2 / 4 \nu t} d\eta}
                  {\int f(x - \eta)\, e^{-\eta^2 / 4 \nu t} d\eta}, \qquad
        f(y) = e^{-\cos(y) / 2 \nu}

    Args:
        x: places.
        t: times.
        nu: viscosity.

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.pinn import burgers
        >>> print(f"{burgers(np.array([0.5]), np.array([0.0]), 0.1)[0]:.4f} {-np.sin(0.5):.4f}")
        -0.4794 -0.4794
    """
    nodes, weights = np.polynomial.hermite.hermgauss(100)
    y = x[:, None] - np.sqrt(4 * nu * t)[:, None] * nodes
    f = weights * np.exp(-(np.cos(y) + 1) / (2 * nu))  # scaled by a constant, against overflow
    return -np.sum(np.sin(y) * f, axis=1) / np.sum(f, axis=1)
