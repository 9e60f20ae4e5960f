"""The models that the benchmarks measure: parameters, a batch, the loss of one example."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from snrgate.models.mlp import MLP
from snrgate.models.transformer import Transformer

__all__ = ["WORKLOADS", "Workload", "coordinate", "gpt", "grokking", "pinn"]


class Workload(NamedTuple):
    """What there is to measure.

    Attributes:
        params: initial parameters.
        batch: a tree of arrays with a leading example axis.
        loss: ``(params, example) -> scalar``.
        batched_loss: ``(params, batch) -> scalar``, the mean, as one writes it without vmap;
            ``None`` where nobody would.
    """

    params: Any
    batch: Any
    loss: Callable[[Any, Any], jax.Array]
    batched_loss: Callable[[Any, Any], jax.Array] | None = None


def coordinate(batch_size: int = 1024, width: int = 256, depth: int = 4) -> Workload:
    """Colours at places: a relu network, one use of every layer an example."""
    model = MLP((2, *[width] * depth, 3), nnx.relu, rngs=nnx.Rngs(params=0))
    graph, params = nnx.split(model)
    keys = jax.random.split(jax.random.key(0))
    batch = (
        jax.random.uniform(keys[0], (batch_size, 2)),
        jax.random.uniform(keys[1], (batch_size, 3)),
    )

    def loss(params: Any, examples: Any) -> jax.Array:
        places, colours = examples
        return jnp.mean(jnp.square(nnx.merge(graph, params)(places) - colours))

    return Workload(params, batch, loss, loss)


def pinn(batch_size: int = 512, width: int = 64, depth: int = 4) -> Workload:
    """The residual of ``u_t + 30 u_x``: derivatives by the input inside the loss."""
    model = MLP((2, *[width] * depth, 1), nnx.tanh, rngs=nnx.Rngs(params=0))
    graph, params = nnx.split(model)
    batch = jax.random.uniform(jax.random.key(0), (batch_size, 2))

    def loss(params: Any, place: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda xt: nnx.merge(graph, params)(xt)[0])(place)
        return jnp.square(gradient[1] + 30 * gradient[0])

    return Workload(params, batch, loss)


def _sequences(
    model: Transformer, batch_size: int, length: int, vocabulary: int, *, last: bool
) -> Workload:
    graph, params = nnx.split(model)
    keys = jax.random.split(jax.random.key(0))
    tokens = jax.random.randint(keys[0], (batch_size, length), 0, vocabulary)
    targets = jax.random.randint(
        keys[1], (batch_size,) if last else (batch_size, length), 0, vocabulary
    )

    def loss(params: Any, examples: Any) -> jax.Array:
        tokens, targets = examples
        logits = nnx.merge(graph, params)(tokens)
        logits = logits[..., -1, :] if last else logits
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))

    return Workload(params, (tokens, targets), loss, loss)


def grokking(batch_size: int = 512, length: int = 4, width: int = 128, depth: int = 2) -> Workload:
    """Modular division: short sequences, an answer at the last position."""
    model = Transformer(99, length, width=width, depth=depth, heads=4, rngs=nnx.Rngs(params=0))
    return _sequences(model, batch_size, length, 99, last=True)


def gpt(batch_size: int = 16, length: int = 128, width: int = 256, depth: int = 4) -> Workload:
    """A language model: an answer at every position."""
    model = Transformer(256, length, width=width, depth=depth, heads=4, rngs=nnx.Rngs(params=0))
    return _sequences(model, batch_size, length, 256, last=False)


WORKLOADS = {"coordinate": coordinate, "grokking": grokking, "pinn": pinn, "gpt": gpt}
