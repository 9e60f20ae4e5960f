"""Training steps compiled in stretches: the same loop for any optimizer."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Int, PyTree
from snrgate.moments import value_and_moments

__all__ = ["Gradients", "TrainState", "exact_moments", "init", "make_stretch", "mean_gradient"]

Gradients = Callable[[PyTree, PyTree], tuple[Array, PyTree, dict[str, Any]]]
"""``(params, batch) -> (loss, gradients, extra arguments of the optimizer's update)``."""


class TrainState(NamedTuple):
    """What one optimizer has made of the parameters so far."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: optax.OptState


def mean_gradient(loss: Callable[[PyTree, PyTree], Array]) -> Gradients:
    """The ordinary gradient of a batch.

    Args:
        loss: ``(params, example) -> scalar``.
    """

    def mean_loss(params: PyTree, batch: PyTree) -> Array:
        return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    def gradients(params: PyTree, batch: PyTree) -> tuple[Array, PyTree, dict[str, Any]]:
        value, grads = jax.value_and_grad(mean_loss)(params, batch)
        return value, grads, {}

    return gradients


def exact_moments(loss: Callable[[PyTree, PyTree], Array], block: str) -> Gradients:
    """The same gradient with the noise of the batch's own examples, for the gate.

    Args:
        loss: ``(params, example) -> scalar``.
        block: as the gate's.
    """
    value_and = value_and_moments(loss, block=block)

    def gradients(params: PyTree, batch: PyTree) -> tuple[Array, PyTree, dict[str, Any]]:
        value, moments = value_and(params, batch)
        return value, moments.mean, moments.extra_args()

    return gradients


def init(params: PyTree, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))


def make_stretch(
    gradients: Gradients, tx: optax.GradientTransformation, *, batch_size: int, seed: int
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Compile some steps of training into one call.

    The batch of a step depends on the seed and on the number of the step alone: every optimizer
    sees the same ones, and a resumed run the ones that are still due.

    Args:
        gradients: :func:`mean_gradient` or :func:`exact_moments`.
        tx: the optimizer.
        batch_size: examples a step, drawn with replacement.
        seed: of the batches.

    Returns:
        ``(state, examples, length=steps) -> (state, metrics)``; ``metrics`` are means over the
        stretch: ``loss``, and ``gate_fraction`` where the optimizer has a gate.
    """
    tx = optax.with_extra_args_support(tx)
    batches = jax.random.key(seed)

    @partial(jax.jit, static_argnames="length")
    def stretch(
        state: TrainState, examples: PyTree, *, length: int
    ) -> tuple[TrainState, dict[str, Array]]:
        count = jax.tree.leaves(examples)[0].shape[0]

        def step(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
            key = jax.random.fold_in(batches, state.step)
            index = jax.random.randint(key, (batch_size,), 0, count)
            batch = jax.tree.map(lambda x: x[index], examples)
            value, grads, extra_args = gradients(state.params, batch)
            updates, opt_state = tx.update(grads, state.opt_state, state.params, **extra_args)
            params = optax.apply_updates(state.params, updates)
            metrics = {"loss": value}
            if (fraction := optax.tree.get(opt_state, "gate_fraction")) is not None:
                metrics["gate_fraction"] = fraction
            return TrainState(state.step + 1, params, opt_state), metrics

        state, metrics = jax.lax.scan(step, state, length=length)
        return state, jax.tree.map(jnp.mean, metrics)

    return stretch
