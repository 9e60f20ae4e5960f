"""The momentum that an inner transformation already keeps, so that the gate need not."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Float, PyTree

__all__ = ["inner_momentum", "measured_decay"]

# States whose ``mu`` is the plain exponential average of the gradients they are given.
_WITH_MOMENTUM = (optax.ScaleByAdamState, optax.ScaleByLionState)


def inner_momentum(state: optax.OptState) -> PyTree | None:
    """The running mean of the incoming gradients in an optimizer state, if it is there.

    Only the first transformation of a chain sees the gradients as they come; a momentum behind
    it (behind clipping, say) is in other units than the noise, and is not used.

    Args:
        state: state of any optax transformation.

    Returns:
        The momentum, not bias-corrected, or ``None``.
    """
    while type(state) is tuple and state:
        state = state[0]
    return state.mu if isinstance(state, _WITH_MOMENTUM) else None


def measured_decay(
    inner: optax.GradientTransformationExtraArgs, updates: PyTree, **extra_args: Any
) -> Float[Array, ""]:
    """The decay ``b1`` of that momentum, seen from its answer to one gradient of one.

    A transformation does not tell its settings, and a hyperparameter may be traced: what it
    does is the one sure source. Under jit this is a constant.

    Args:
        inner: a transformation for which :func:`inner_momentum` finds a momentum.
        updates: the tree it is used on, so that masks fit; one scalar a leaf is tried.
        **extra_args: what its ``update`` is given besides.

    Returns:
        The decay, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from snrgate.momentum import measured_decay
        >>> inner = optax.with_extra_args_support(optax.scale_by_adam(b1=0.75))
        >>> float(measured_decay(inner, {"w": jnp.ones(3)}))
        0.75
    """
    ones = jax.tree.map(lambda g: jnp.ones((), jnp.result_type(float)), updates)
    zeros = jax.tree.map(jnp.zeros_like, ones)
    if "sum_sq_diff_grads" in extra_args:
        extra_args["sum_sq_diff_grads"] = zeros
    _, state = inner.update(ones, inner.init(zeros), zeros, **extra_args)
    momentum = jax.tree.leaves(inner_momentum(state))
    return 1 - jnp.asarray(momentum[0], jnp.result_type(float)) if momentum else jnp.zeros(())
