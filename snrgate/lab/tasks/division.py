"""Modular division, a / b mod p, by a small transformer: the task on which networks grok.

A network first memorises the training answers, and finds the rule only much later. Where some of
these answers are wrong, the memorised part is noise.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snrgate.annotations import Array, PyTree
from snrgate.lab.tasks.task import Task, from_arrays, require
from snrgate.models.transformer import Transformer

__all__ = ["Division"]


@dataclasses.dataclass(frozen=True)
class Division:
    """a / b mod p for all a and all b but 0: a random part for training, the rest held out."""

    modulus: int = 97
    """Modulus p, a prime."""
    train_fraction: float = 0.25
    """Share of the table that is learned from."""
    wrong: float = 0.0
    """Share of the training answers replaced by random ones."""
    width: int = 128
    """Size of an embedding."""
    depth: int = 2
    """Number of transformer blocks."""
    heads: int = 4
    """Number of attention heads."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be learned with."""
        prime = self.modulus > 2 and all(self.modulus % k for k in range(2, self.modulus))
        require(
            self,
            modulus=(prime, "a prime above 2"),
            train_fraction=(0 < self.train_fraction < 1, "between 0 and 1"),
            wrong=(0 <= self.wrong <= 1, "in [0, 1]"),
            heads=(self.heads > 0 and self.width % self.heads == 0, "a divisor of width"),
        )

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the split, the wrong answers and the initial weights.

        Returns:
            A task measured by ``accuracy`` on the held-out part. ``train_accuracy`` is the share
            of training questions with the right answer. ``wrong_learned`` is the share of wrong
            answers that have been learned.
        """
        questions, answers = _table(self.modulus)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(answers))
        cut = round(self.train_fraction * len(answers))
        train, test = order[:cut], order[cut:]
        given = answers.copy()
        swapped = train[rng.random(cut) < self.wrong]
        given[swapped] = rng.integers(0, self.modulus, len(swapped))
        swapped = swapped[given[swapped] != answers[swapped]]

        model = Transformer(
            self.modulus + 2,
            4,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            activation=nnx.relu,  # the papers on grokking use it
            embedding_std=self.width**-0.5,
            rngs=nnx.Rngs(params=seed),
        )
        graph, params = nnx.split(model)

        def predict(params: PyTree, question: Array) -> Array:
            return nnx.merge(graph, params)(question, last=True)[-1]

        def right(params: PyTree, rows: np.ndarray, key: np.ndarray) -> Array:
            if not len(rows):
                return jnp.zeros(())
            logits = jax.vmap(predict, (None, 0))(params, jnp.asarray(questions[rows]))
            return jnp.mean(logits.argmax(-1) == key[rows])

        def evaluate(params: PyTree) -> dict[str, Array]:
            return {
                "accuracy": right(params, test, answers),
                "train_accuracy": right(params, train, answers),
                "wrong_learned": right(params, swapped, given),
            }

        return from_arrays(
            params,
            predict,
            optax.softmax_cross_entropy_with_integer_labels,
            (questions[train], given[train]),
            evaluate,
            "accuracy",
            higher_is_better=True,
            repeats=False,  # an answer that is twice in a batch slows the memorising
        )


def _table(p: int) -> tuple[np.ndarray, np.ndarray]:
    """Questions ``a / b =`` as tokens, and their answers; ``/`` is p and ``=`` is p + 1."""
    a, b = (x.ravel() for x in np.meshgrid(np.arange(p), np.arange(1, p), indexing="ij"))
    inverse = np.array([0] + [pow(x, -1, p) for x in range(1, p)])
    signs = np.full_like(a, p)
    questions = np.stack([a, signs, b, signs + 1], axis=1).astype(np.int32)
    return questions, (a * inverse[b] % p).astype(np.int32)
