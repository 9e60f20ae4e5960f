"""A real table: how far diabetes has gone a year on, from ten measurements."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.datasets import load_diabetes

from snrgate.annotations import Array, PyTree
from snrgate.lab.tasks.task import Task, from_arrays
from snrgate.models.mlp import MLP

__all__ = ["Table"]


@dataclasses.dataclass(frozen=True)
class Table:
    """Regression on scikit-learn's diabetes table (Efron et al., 2004), 112 patients held out."""

    width: int = 64
    """Number of units in each hidden layer."""
    depth: int = 2
    """Number of hidden layers."""

    def data(self, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """What is learned from, and what is held out.

        Args:
            seed: of the split.

        Returns:
            Inputs (330, 10) and targets (330,) of the training, then inputs (112, 10) and
            targets (112,) held out; standardised by the mean and deviation of the training.
        """
        inputs, targets = (np.asarray(x) for x in load_diabetes(return_X_y=True))
        rng = np.random.default_rng(seed)
        train, test = np.split(rng.permutation(len(targets)), [330])
        inputs = _standardised(inputs, train).astype(np.float32)
        targets = _standardised(targets, train).astype(np.float32)
        return (inputs[train], targets[train]), (inputs[test], targets[test])

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the split and the initial weights.

        Returns:
            A task measured by ``error``, the held-out mean squared error in units of the
            variance of the target: 1 is what its mean alone comes to.
        """
        train, (test_inputs, test_targets) = self.data(seed)
        model = MLP((10, *[self.width] * self.depth, 1), nnx.relu, rngs=nnx.Rngs(params=seed))
        graph, params = nnx.split(model)

        def predict(params: PyTree, x: Array) -> Array:
            return nnx.merge(graph, params)(x)[0]

        def evaluate(params: PyTree) -> dict[str, Array]:
            outputs = jax.vmap(predict, (None, 0))(params, jnp.asarray(test_inputs))
            return {"error": jnp.mean(jnp.square(outputs - test_targets))}

        return from_arrays(
            params,
            predict,
            lambda output, target: jnp.square(output - target),
            train,
            evaluate,
            "error",
            higher_is_better=False,
        )


def _standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return (x - x[train].mean(0)) / x[train].std(0)
