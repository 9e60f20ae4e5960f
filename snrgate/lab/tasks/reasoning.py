"""Arithmetic in several steps, where each result follows from the one before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snrgate.annotations import Array, PyTree
from snrgate.lab.tasks.task import Group, Task, require
from snrgate.models.transformer import Transformer

__all__ = ["Reasoning"]

_BASE = 10
_OPERATIONS = 3  # plus, minus, times


@dataclasses.dataclass(frozen=True)
class Reasoning:
    """Operations on a digit, mod 10; the model writes every intermediate result."""

    steps: int = 6
    """Number of operations in an example."""
    width: int = 64
    """Size of an embedding."""
    depth: int = 2
    """Number of transformer blocks."""
    heads: int = 4
    """Number of attention heads."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be built."""
        require(
            self,
            steps=(self.steps >= 1, "at least 1"),
            heads=(self.heads > 0 and self.width % self.heads == 0, "a divisor of width"),
        )

    def make(self, seed: int) -> Task:
        """The task. Its examples are drawn afresh at every step.

        Args:
            seed: of the initial weights and the held-out examples.

        Returns:
            A task measured by ``accuracy``: the share of examples in which all results are right.
            The model works out each result from the result that it wrote before.
        """
        model = Transformer(
            _BASE + _OPERATIONS + 1,
            1 + 4 * self.steps,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            rngs=nnx.Rngs(params=seed),
        )
        graph, params = nnx.split(model)
        answers = np.arange(self.steps) * 2 + 2 * self.steps + 1  # positions of the results
        held_out = _sample(jax.random.fold_in(jax.random.key(seed), 1), 1000, self.steps)

        def loss(params: PyTree, tokens: Array) -> Array:
            logits = nnx.merge(graph, params)(tokens)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits[answers], tokens[answers + 1]
            )
            return jnp.mean(losses)

        @jax.jit
        def evaluate(params: PyTree) -> dict[str, Array]:
            written = held_out
            for position in answers:
                logits = jax.vmap(nnx.merge(graph, params))(written)[:, position]
                written = written.at[:, position + 1].set(logits.argmax(-1))
            right = written[:, answers + 1] == held_out[:, answers + 1]
            return {
                "accuracy": jnp.mean(jnp.all(right, axis=1)),
                "result_accuracy": jnp.mean(right),
            }

        group = Group(loss, lambda key, number: _sample(key, number, self.steps), None)
        return Task(params, (group,), evaluate, "accuracy", higher_is_better=True)


def _sample(key: Array, number: int, steps: int) -> Array:
    """``x op a op b ... = r = r ...``: a question, then each result after an equals sign."""
    keys = jax.random.split(key, 3)
    start = jax.random.randint(keys[0], (number,), 0, _BASE)
    operations = jax.random.randint(keys[1], (number, steps), 0, _OPERATIONS)
    operands = jax.random.randint(keys[2], (number, steps), 0, _BASE)
    results, x = [], start
    for i in range(steps):
        y = operands[:, i]
        x = jnp.stack([x + y, x - y, x * y])[operations[:, i], jnp.arange(number)] % _BASE
        results.append(x)
    equals = jnp.full((number, steps), _BASE + _OPERATIONS)
    question = jnp.stack([_BASE + operations, operands], axis=2).reshape(number, -1)
    worked = jnp.stack([equals, jnp.stack(results, 1)], axis=2).reshape(number, -1)
    return jnp.concatenate([start[:, None], question, worked], axis=1)
