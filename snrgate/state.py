"""What a gate remembers between two steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Bool, Float, Int, PyTree
from snrgate.kernel import is_due

__all__ = ["SnrGateState", "measures_next", "of_jax"]


class SnrGateState(NamedTuple):
    """State of :func:`snr_gate`; read it with ``optax.tree.get(state, "gate_fraction")``.

    Attributes:
        count: steps taken, int32.
        noise: running noise, not bias-corrected: the variance of one example's gradient (of the
            batch mean where the threshold is ``alpha``); float32, a tree like the parameters with
            size 1 on the pooled axes. ``()`` for instantaneous noise.
        signal: running squared signal in the same units, not bias-corrected; a tree like the
            noise. ``()`` where the signal of every step counts by itself.
        momentum: running mean gradient, not bias-corrected; a tree like the parameters, or ``()``
            where the inner transformation keeps it.
        momentum_decay: decay of that momentum, as it was last seen or told.
        spread: variance of the momentum that is new in the batches, for each parameter tensor in
            the order of its leaves, in units of the variance of one example.
        age: steps that the running averages of each parameter tensor stand for, int32.
        skipped_steps: steps that each parameter tensor has sat out, because its gradient or its
            statistics were not finite or the batch held no example, int32.
        views: how every kernel was seen last (:class:`snrgate.kernel.View`, in one vector); a tree
            like the parameters, with one zero for what is no kernel. ``()`` where none is.
        gate_fraction: mean gate over all gated parameters in the last step, float32.
        gate_fractions: the same for each parameter tensor.
        inner_state: state of the inner transformation.
    """

    count: Int[Array, ""]
    noise: PyTree
    signal: PyTree
    momentum: PyTree
    momentum_decay: Float[Array, ""]
    spread: Float[Array, " leaves"]
    age: Int[Array, " leaves"]
    skipped_steps: Int[Array, " leaves"]
    views: PyTree
    gate_fraction: Float[Array, ""]
    gate_fractions: Float[Array, " leaves"]
    inner_state: optax.OptState


def measures_next(state: optax.OptState) -> Bool[Array, ""] | bool:
    """Whether the next update will use the statistics of its batch.

    A gate with ``block="kronecker"`` measures evidence at its first 40 steps, and then at every
    tenth. The other updates need the mean gradient alone:
    ``grad_fn(params, batch, measure=snrgate.measures_next(state))`` leaves the rest out.

    Args:
        state: state of an optimizer with one gate in it.

    Returns:
        A boolean scalar; ``True`` for other blocks.

    Raises:
        ValueError: the state holds no gate.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> state = snrgate.adamw(1e-3, block="kronecker").init({"kernel": jnp.ones((2, 3))})
        >>> bool(snrgate.measures_next(state))
        True
    """
    gate = optax.tree.get(state, "SnrGateState")
    if gate is None:
        raise ValueError("the state holds no gate; pass the state of a snrgate optimizer")
    return True if isinstance(gate.views, tuple) and gate.views == () else is_due(gate.count + 1)


def of_jax(state: SnrGateState) -> SnrGateState:
    """The state with arrays of JAX in it; a checkpoint may give those of numpy back."""
    own = jax.tree.map(jnp.asarray, state._replace(inner_state=()))
    return own._replace(inner_state=state.inner_state)
