"""The momentum that an inner transformation keeps, so that the gate need not keep one."""

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Float, PyTree, Scalar

__all__ = ["inner_momentum", "observed_decay"]

# States whose ``mu`` is the plain exponential average of the gradients they are given.
_WITH_MOMENTUM = (optax.ScaleByAdamState, optax.ScaleByLionState)

_FAR = 0.1  # gradients that differ from the momentum by less than this share show no decay


def inner_momentum(state: optax.OptState, params: PyTree) -> PyTree | None:
    """The running mean of the incoming gradients in an optimizer state, if it is there.

    Only the first transformation of a chain sees the gradients as they come. A momentum behind it
    (behind clipping, for example) is in other units than the noise, and is not used. A momentum
    of another structure than the parameters, as ``optax.flatten`` makes it, is not used either.

    Args:
        state: state of any optax transformation.
        params: the parameters, or a tree of their structure and shapes.

    Returns:
        The momentum, not bias-corrected, or ``None``.
    """
    while type(state) is tuple and state:
        state = state[0]
    if not isinstance(state, _WITH_MOMENTUM):
        return None
    trees = state.mu, params
    same = jax.tree.structure(trees[0]) == jax.tree.structure(trees[1]) and all(
        jnp.shape(m) == jnp.shape(p) for m, p in zip(*map(jax.tree.leaves, trees), strict=True)
    )
    return state.mu if same else None


def observed_decay(
    before: list[Array], after: list[Array], grads: list[Array], otherwise: Scalar
) -> Float[Array, ""]:
    r"""The decay of a momentum, measured by the distance that a step has moved it.

    .. math:: 1 - b_1 = \frac{\sum |m_t - m_{t-1}|}{\sum |g_t - m_{t-1}|}

    A transformation does not show its settings, and a hyperparameter may be traced. The step that
    it has taken is the only sure source.

    Args:
        before: the momentum before the step, a list of arrays.
        after: the momentum after it.
        grads: the gradients of the step.
        otherwise: the result where the decay cannot be measured, because the gradients hardly
            differ from the momentum, or are not finite.

    Returns:
        The decay, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.momentum import observed_decay
        >>> g = [jnp.array([1.0, -2.0])]
        >>> print(observed_decay([0.0 * g[0]], [0.25 * g[0]], g, 0.9))
        0.75
    """
    dtype = jnp.result_type(float)

    def total(xs: list[Array]) -> Array:
        return sum((jnp.sum(jnp.abs(x.astype(dtype))) for x in xs), jnp.zeros((), dtype))

    moved = total([a.astype(dtype) - b.astype(dtype) for a, b in zip(after, before, strict=True)])
    away = total([g.astype(dtype) - b.astype(dtype) for g, b in zip(grads, before, strict=True)])
    seen = jnp.isfinite(moved) & jnp.isfinite(away) & (away > 0) & (away >= _FAR * total(grads))
    return jnp.where(seen, 1 - moved / jnp.where(seen, away, 1), jnp.asarray(otherwise, dtype))
