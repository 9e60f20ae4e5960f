"""The momentum that an inner transformation already keeps, so that the gate need not."""

from typing import Any

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


def measured_decay(inner: optax.GradientTransformationExtraArgs) -> Float[Array, ""]:
    """The decay ``b1`` of that momentum, seen from its answer to one gradient of one.

    A transformation does not tell its settings, and a hyperparameter may be traced: what it
    does is the one sure source. Under jit this is a constant.

    Args:
        inner: a transformation for which :func:`inner_momentum` finds a momentum.

    Returns:
        The decay, a scalar.

    Example:
        >>> import optax
        >>> from snrgate.momentum import measured_decay
        >>> inner = optax.with_extra_args_support(optax.scale_by_adam(b1=0.75))
        >>> float(measured_decay(inner))
        0.75
    """
    probe: Any = jnp.zeros((), jnp.result_type(float))
    _, state = inner.update(jnp.ones_like(probe), inner.init(probe), probe)
    return 1 - jnp.asarray(inner_momentum(state), probe.dtype)
