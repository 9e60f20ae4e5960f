"""Chaotic dynamics from noisy sensors: predict the next state from the last measurements."""

import dataclasses
import importlib.resources
import io
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.tasks.task import Task, from_arrays, require
from snrgate.models.mlp import MLP

__all__ = ["Chaos", "System", "lorenz", "windows"]

System = Literal["lorenz", "laser"]
_STEP = 0.05  # time between two measurements of the Lorenz system
_ROLLOUT = 1000  # number of measurements in a free run


@dataclasses.dataclass(frozen=True)
class Chaos:
    """One-step prediction, learned from measurements with noise and judged on clean ones."""

    system: System = "lorenz"
    """System that is measured: Lorenz-63 by integration, or the Santa Fe laser of reservoirpy."""
    noise: float = 0.2
    """Standard deviation of the sensor noise, in units of that of the signal."""
    train: int = 2000
    """Number of measurements to learn from."""
    lags: int = 4
    """Number of measurements that the next one is predicted from."""
    width: int = 128
    """Number of units in each hidden layer."""
    depth: int = 3
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be learned with."""
        systems = get_args(System)
        require(
            self,
            system=(self.system in systems, f"one of {', '.join(systems)}"),
            noise=(self.noise >= 0, "0 or more"),
            train=(100 <= self.train <= 6000, "100 to 6000"),
            lags=(self.lags >= 1, "at least 1"),
        )

    def data(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The series for training, and the series that comes after it.

        Args:
            seed: of the sensor noise, and of where Lorenz starts.

        Returns:
            The noisy measurements (``train``, channels), and the 3,000 measurements after them
            without added noise. Both are standardised by the mean and deviation that the training
            measurements have without noise.
        """
        clean = _series(self.system, self.train + 3000, seed)
        clean = (clean - clean[: self.train].mean(0)) / clean[: self.train].std(0)
        rng = np.random.default_rng(seed)
        noisy = clean[: self.train] + self.noise * rng.standard_normal((self.train, clean.shape[1]))
        return noisy.astype(np.float32), clean[self.train :]

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the sensor noise and the initial weights, and of where Lorenz starts.

        Returns:
            A task measured by ``error``: the mean squared one-step error on later measurements
            without added noise, in units of the signal's variance. ``attractor_distance`` is the
            distance of a free run of 1,000 steps from the attractor: the mean over coordinates of
            the Wasserstein distance between their distributions.
        """
        noisy, later = self.data(seed)
        test_inputs, test_targets = windows(later, self.lags)

        attractor = np.sort(test_targets[:_ROLLOUT], axis=0)
        channels = later.shape[1]
        sizes = (self.lags * channels, *[self.width] * self.depth, channels)
        graph, params = nnx.split(MLP(sizes, nnx.gelu, rngs=nnx.Rngs(params=seed)))

        def predict(params: PyTree, x: Array) -> Array:
            # The network learns the change of the state, which is small where little happens.
            return x[-channels:] + nnx.merge(graph, params)(x)

        def rollout(params: PyTree) -> Array:
            def step(window: Array, _: None) -> tuple[Array, Array]:
                # A run that leaves the attractor must not end in overflow.
                state = jnp.clip(predict(params, window), -10, 10)
                return jnp.concatenate([window[channels:], state]), state

            return jax.lax.scan(step, jnp.asarray(test_inputs[0]), length=_ROLLOUT)[1]

        def evaluate(params: PyTree) -> dict[str, Array]:
            outputs = jax.vmap(predict, (None, 0))(params, jnp.asarray(test_inputs))
            errors = jnp.square(outputs - test_targets)
            return {
                "error": jnp.mean(errors),
                "attractor_distance": jnp.mean(
                    # Wasserstein-1 compares each coordinate quantile by quantile.
                    jnp.abs(jnp.sort(rollout(params), axis=0) - attractor)
                ),
            }

        return from_arrays(
            params,
            predict,
            lambda output, target: jnp.mean(jnp.square(output - target)),
            windows(noisy, self.lags),
            evaluate,
            "error",
            higher_is_better=False,
        )


def windows(
    series: Float[np.ndarray, "length channels"], lags: int
) -> tuple[Float[np.ndarray, "n inputs"], Float[np.ndarray, "n channels"]]:
    """The windows of measurements, and the measurement that follows each window.

    Args:
        series: measurements in a row.
        lags: number of measurements in an input, the oldest first.

    Returns:
        The inputs, of size ``lags * channels`` each, and the targets, one for each measurement
        except the first ``lags``.

    Example:
        >>> import numpy as np
        >>> from snrgate.lab.tasks.chaos import windows
        >>> inputs, targets = windows(np.arange(4.0)[:, None], 2)
        >>> print(inputs.tolist(), targets.tolist())
        [[0.0, 1.0], [1.0, 2.0]] [[2.0], [3.0]]
    """
    inputs = np.stack([series[i : len(series) - lags + i] for i in range(lags)], axis=1)
    return inputs.reshape(len(inputs), -1), series[lags:]


def lorenz(length: int, start: Float[np.ndarray, "3"]) -> Float[np.ndarray, "length 3"]:
    """A trajectory of Lorenz-63 by Runge-Kutta of fourth order, with ten steps a measurement.

    Args:
        length: number of measurements.
        start: state before the first measurement.
    """

    def slope(s: np.ndarray) -> np.ndarray:
        x, y, z = s
        return np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    states, s, h = [], start, _STEP / 10
    for _ in range(length):
        for _ in range(10):
            a = slope(s)
            b = slope(s + h / 2 * a)
            c = slope(s + h / 2 * b)
            d = slope(s + h * c)
            s = s + h / 6 * (a + 2 * b + 2 * c + d)
        states.append(s)
    return np.stack(states)


def _series(system: System, length: int, seed: int) -> np.ndarray:
    if system == "laser":
        # Read the file directly, because the loader of the package leaves it open.
        file = importlib.resources.files("reservoirpy.datasets") / "santafe_laser.npy"
        return np.load(io.BytesIO(file.read_bytes()))[:length].reshape(length, 1).astype(np.float32)
    start = np.random.default_rng(seed).standard_normal(3) + np.array([0, 0, 25.0])
    return lorenz(length + 200, start)[200:].astype(np.float32)
