"""Handwritten digits, some of them with wrong labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from snrgate.annotations import Array, PyTree
from snrgate.lab.kinds import LATER
from snrgate.lab.tasks.task import Task, from_arrays, require
from snrgate.models.mlp import MLP

__all__ = ["Digits"]


@dataclasses.dataclass(frozen=True)
class Digits:
    """Classification of scikit-learn's 8 x 8 digits (UCI): 1,200 for training, 597 held out."""

    wrong: float = 0.0
    """Share of the training labels replaced by another digit."""
    nuisance: int = dataclasses.field(default=0, metadata=LATER)
    """Number of pixels of pure noise, as strong as the real ones, which stand beside them."""
    width: int = 256
    """Number of units in each hidden layer."""
    depth: int = 2
    """Number of hidden layers."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be learned with."""
        require(
            self,
            wrong=(0 <= self.wrong <= 1, "in [0, 1]"),
            nuisance=(self.nuisance >= 0, "at least 0"),
        )

    def data(self, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The training data and the held-out data.

        Args:
            seed: of the split and the wrong labels.

        Returns:
            The training data: pixels (1200, 64 + nuisance), the real ones first and between 0 and
            1, and labels (1200,), some of them wrong. The held-out data: pixels
            (597, 64 + nuisance), and labels (597,), all of them right.
        """
        pixels, labels = (np.asarray(x) for x in load_digits(return_X_y=True))
        pixels, labels = (pixels / 16).astype(np.float32), labels.astype(np.int32)
        rng = np.random.default_rng(seed)
        train, test = np.split(rng.permutation(len(labels)), [1200])
        given = labels[train]
        swapped = rng.random(len(train)) < self.wrong
        given[swapped] = (given[swapped] + rng.integers(1, 10, swapped.sum())) % 10
        noise = 0.5 * rng.standard_normal((len(pixels), self.nuisance), np.float32)
        pixels = np.concatenate([pixels, noise], axis=1)
        return (pixels[train], given), (pixels[test], labels[test])

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the split, the wrong labels and the initial weights.

        Returns:
            A task measured by ``accuracy`` on the held-out pictures, whose labels are all right.
        """
        train, (pixels, labels) = self.data(seed)
        sizes = (64 + self.nuisance, *[self.width] * self.depth, 10)
        model = MLP(sizes, nnx.relu, rngs=nnx.Rngs(params=seed))
        graph, params = nnx.split(model)

        def predict(params: PyTree, x: Array) -> Array:
            return nnx.merge(graph, params)(x)

        def evaluate(params: PyTree) -> dict[str, Array]:
            logits = jax.vmap(predict, (None, 0))(params, jnp.asarray(pixels))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            right = logits.argmax(-1) == labels
            return {"accuracy": jnp.mean(right), "test_loss": jnp.mean(losses)}

        return from_arrays(
            params,
            predict,
            optax.softmax_cross_entropy_with_integer_labels,
            train,
            evaluate,
            "accuracy",
            higher_is_better=True,
        )
