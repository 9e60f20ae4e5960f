"""A real table: predict the progress of diabetes after a year from ten measurements."""

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
        """The training data and the held-out data.

        Args:
            seed: of the split.

        Returns:
            The training data, inputs (330, 10) and targets (330,), and the held-out data, inputs
            (112, 10) and targets (112,). Both are standardised by the mean and deviation of the
            training data.
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
            A task measured by ``error``: the held-out mean squared error, in units of the
            variance of the target. The mean of the target alone has the error 1.
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
