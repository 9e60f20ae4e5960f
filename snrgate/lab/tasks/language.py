"""A small language model of real text, character by character: the manual of Python."""

import dataclasses
from pydoc_data import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snrgate.annotations import Array, PyTree
from snrgate.lab.tasks.task import Group, Task, require
from snrgate.models.transformer import Transformer

__all__ = ["Language"]


@dataclasses.dataclass(frozen=True)
class Language:
    """Prediction of the next character in the manual of Python; the last tenth is held out.

    The text has about 465,000 characters. It differs a little between versions of Python.
    """

    length: int = 64
    """Number of characters in an example."""
    width: int = 96
    """Size of an embedding."""
    depth: int = 2
    """Number of transformer blocks."""
    heads: int = 4
    """Number of attention heads."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be built."""
        require(
            self,
            length=(self.length >= 2, "at least 2"),
            heads=(self.heads > 0 and self.width % self.heads == 0, "a divisor of width"),
        )

    def make(self, seed: int) -> Task:
        """The task.

        Args:
            seed: of the initial weights. The text and its split are always the same.

        Returns:
            A task measured by ``loss_per_character`` of the held-out text, in nats. The
            ``dataset_size`` is the number of training examples that do not overlap.
        """
        text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
        alphabet, tokens = np.unique(np.frombuffer(text.encode(), np.uint8), return_inverse=True)
        tokens = tokens.astype(np.int32)
        cut = len(tokens) * 9 // 10
        train = jnp.asarray(tokens[:cut])
        window = self.length + 1
        test = tokens[cut:]
        test = test[: len(test) // window * window].reshape(-1, window)[:512]

        model = Transformer(
            len(alphabet),
            self.length,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            rngs=nnx.Rngs(params=seed),
        )
        graph, params = nnx.split(model)

        def loss(params: PyTree, example: Array) -> Array:
            logits = nnx.merge(graph, params)(example[:-1])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, example[1:])
            return jnp.mean(losses)

        def sample(key: Array, number: int) -> Array:
            starts = jax.random.randint(key, (number, 1), 0, cut - window + 1)
            return train[starts + jnp.arange(window)[None]]

        @jax.jit
        def evaluate(params: PyTree) -> dict[str, Array]:
            losses = jax.vmap(loss, (None, 0))(params, jnp.asarray(test))
            return {"loss_per_character": jnp.mean(losses)}

        group = Group(loss, sample, cut // window)
        return Task(params, (group,), evaluate, "loss_per_character", higher_is_better=False)
