"""The momentum that an inner transformation keeps, so that the gate need not keep one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval

from snrgate.annotations import Array, Float, PyTree, Scalar

__all__ = ["first_state", "inner_momentum", "is_plain_average", "observed_decay"]

# States whose ``mu`` is an exponential average of the gradients they are given.
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
    state = first_state(state)
    if not isinstance(state, _WITH_MOMENTUM):
        return None
    trees = state.mu, params
    same = jax.tree.structure(trees[0]) == jax.tree.structure(trees[1]) and all(
        jnp.shape(m) == jnp.shape(p) for m, p in zip(*map(jax.tree.leaves, trees), strict=True)
    )
    return state.mu if same else None


def first_state(state: optax.OptState) -> Any:
    """The state of the transformation that sees the gradients as they come.

    Args:
        state: state of any optax transformation.
    """
    while type(state) is tuple and state:
        state = state[0]
    return state


def _memory(state: optax.OptState) -> tuple[PyTree, ...]:
    """The momentum and the second moment."""
    first = first_state(state)
    return first.mu, getattr(first, "nu", ())


def is_plain_average(
    inner: optax.GradientTransformation,
    state: optax.OptState,
    params: PyTree,
    memory: Callable[[optax.OptState], tuple[PyTree, ...]] = _memory,
) -> bool:
    r"""Whether a step adds to the momentum a fixed share of the gradient, whatever came before.

    .. math:: \partial m_t / \partial g_t = 1 - b_1

    The momentum is then in the units of the gradient. That of ``optax.contrib.adopt`` is not: it
    stands in the state of Adam too, and averages gradients that are divided by the root of the
    second moment and clipped. The derivative is traced and not computed: it must not need what
    the state remembers.

    Args:
        inner: the transformation.
        state: its state.
        params: the parameters, or a tree of their structure and shapes.
        memory: what a state remembers of the gradients before, the average first; by default that
            of the state in which :func:`inner_momentum` finds a momentum.

    Returns:
        Whether it is; also true where ``inner`` cannot be traced without further arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from snrgate.momentum import is_plain_average
        >>> w = jnp.zeros(3)
        >>> for tx in (optax.scale_by_adam(), optax.contrib.scale_by_adopt()):
        ...     print(is_plain_average(tx, tx.init(w), w))
        True
        False
    """
    update = optax.with_extra_args_support(inner).update

    def answer(grads: PyTree, moved: PyTree, state: optax.OptState) -> PyTree:
        def momentum(g: PyTree) -> PyTree:
            return memory(update(g, state, params)[1])[0]

        return jax.jvp(momentum, (grads,), (moved,))[1]

    try:
        traced = jax.make_jaxpr(answer)(params, params, state).jaxpr
    except (TypeError, ValueError, KeyError, NameError):  # it wants a value, or a mapped axis
        return True
    _, used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    remembered = {id(x) for x in jax.tree.leaves(memory(state))}
    in_state = [id(x) in remembered for x in jax.tree.leaves(state)]
    count = len(jax.tree.leaves(params))
    return not any(u and past for u, past in zip(used[2 * count :], in_state, strict=True))


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
