"""The network of the estimators: a multilayer perceptron, and gated steps compiled by shape."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snrgate.alias import adamw
from snrgate.annotations import Array, ArrayLike, Float, PyTree
from snrgate.moments import value_and_moments
from snrgate.state import measures_next

__all__ = ["Batches", "Rates", "initial", "outputs", "start", "train"]

_WARMUP = 10  # steps in which the learning rate rises


class Batches(NamedTuple):
    """The batches of some steps.

    Attributes:
        x: standardised inputs.
        y: targets, either numbers of classes or standardised values.
        weights: how often each example counts, 0 for padding.
    """

    x: Float[ArrayLike, "k b d"]
    y: ArrayLike
    weights: Float[ArrayLike, "k b"]


class Rates(NamedTuple):
    """Settings of a training that do not change its compiled program.

    Attributes:
        learning_rate: largest learning rate; it falls to zero along a cosine.
        weight_decay: decoupled weight decay, behind the gate.
        z: threshold, in standard deviations of pure noise.
        dataset_size: number of examples, infinity where every batch is fresh.
        steps: number of all steps, infinity where the learning rate is constant.
    """

    learning_rate: float
    weight_decay: float
    z: float
    dataset_size: float
    steps: float


def initial(sizes: Sequence[int], rng: np.random.RandomState) -> list[dict[str, np.ndarray]]:
    """Kernels of LeCun's normal initialisation, and biases of zero.

    Args:
        sizes: numbers of inputs, of units in each hidden layer, and of outputs.
        rng: draws the kernels.
    """
    return [
        {
            "kernel": (rng.standard_normal((m, n)) / np.sqrt(m)).astype(np.float32),
            "bias": np.zeros(n, np.float32),
        }
        for m, n in itertools.pairwise(sizes)
    ]


def outputs(params: Sequence[dict[str, Any]], x: Any, xp: Any = np) -> Any:
    """The outputs for one input or many.

    Args:
        params: of the layers.
        x: inputs, the last axis is that of the columns.
        xp: ``numpy`` or ``jax.numpy``.
    """
    *hidden, last = params
    for layer in hidden:
        x = xp.maximum(x @ layer["kernel"] + layer["bias"], 0)
    return x @ last["kernel"] + last["bias"]


def _of_class(params: PyTree, example: tuple[Array, Array]) -> Array:
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(outputs(params, x, jnp), y)


def _of_values(params: PyTree, example: tuple[Array, Array]) -> Array:
    x, y = example
    return jnp.mean(jnp.square(outputs(params, x, jnp) - y))


_LOSSES = {"class": _of_class, "values": _of_values}


def _optimizer(rates: Rates, block: str) -> optax.GradientTransformationExtraArgs:
    def rate(count: Array) -> Array:
        rise = jnp.minimum((count + 1) / _WARMUP, 1.0)
        done = jnp.minimum(count / rates.steps, 1.0)
        return rates.learning_rate * rise * (1 + jnp.cos(jnp.pi * done)) / 2

    return adamw(
        rate,
        weight_decay=rates.weight_decay,
        block=block,
        z=rates.z,
        fitted=0.0,
        dataset_size=rates.dataset_size,
    )


@partial(jax.jit, static_argnames="block")
def start(params: PyTree, rates: Rates, block: str) -> optax.OptState:
    """The state of the optimizer before the first step.

    Args:
        params: of the layers.
        rates: settings of the training.
        block: the ``block`` of the gate.
    """
    return _optimizer(rates, block).init(params)


@partial(jax.jit, static_argnames=("loss", "block"))
def train(
    params: PyTree, state: optax.OptState, batches: Batches, rates: Rates, *, loss: str, block: str
) -> tuple[PyTree, optax.OptState, Array]:
    """Take a step on each batch.

    Args:
        params: of the layers.
        state: of the optimizer.
        batches: of the steps.
        rates: settings of the training.
        loss: "class", the cross-entropy, or "values", the mean square.
        block: the ``block`` of the gate.

    Returns:
        Parameters, state, and the mean loss of the steps.
    """
    tx = _optimizer(rates, block)
    gradients = value_and_moments(_LOSSES[loss], block=block)

    def step(carry: tuple[PyTree, Any], batch: Batches) -> tuple[tuple[PyTree, Any], Any]:
        params, state = carry
        value, moments = gradients(
            params, (batch.x, batch.y), weights=batch.weights, measure=measures_next(state)
        )
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return (optax.apply_updates(params, updates), state), value

    (params, state), values = jax.lax.scan(step, (params, state), batches)
    return params, state, jnp.mean(values)
