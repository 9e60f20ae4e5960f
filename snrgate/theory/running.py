"""The running sum of gradients that an optimizer keeps, and how a step has changed it."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from snrgate.annotations import Array, PyTree
from snrgate.momentum import first_state, is_plain_average, observed_decay
from snrgate.state import SnrGateState

__all__ = ["check_followed", "check_plain", "running_sum", "second_decay", "shifted", "step_of_sum"]

_NAMES = {optax.ScaleByAdamState: "mu", optax.TraceState: "trace"}

# Wrappers that hand the gradients on as they are.
_WRAPPERS = (
    optax.InjectHyperparamsState,
    optax.schedules.InjectStatefulHyperparamsState,
    optax.ApplyIfFiniteState,
)
# States of which the step is a multiple of the gradient of this step, and numbers of the run.
_FORGETFUL = (
    optax.ScaleByRmsState,
    optax.ScaleByRssState,
    optax.FactoredState,
    optax.contrib.ReduceLROnPlateauState,
)


def running_sum(state: Any) -> PyTree | None:
    """The momentum of an optimizer that sees the gradients as they come, or ``None``.

    Args:
        state: state of an optax transformation, with a gate around it or without.
    """
    state = _keeper(state)
    return None if state is None else getattr(state, _NAMES[type(state)])


def shifted(state: Any, by: PyTree, weights: Array) -> Any:
    """The state that an optimizer would have if all its gradients had been larger.

    A second moment that averages longer than the momentum is moved as if its gradients had the
    mean that the momentum shows.

    Args:
        state: state of an optimizer that keeps a momentum.
        by: what is added to every gradient.
        weights: the sum of the weights of all gradients in the momentum, and in the second moment.
    """
    keeper, momentum = _keeper(state), running_sum(state)
    first, second = weights
    new = {_NAMES[type(keeper)]: jax.tree.map(lambda m, a: m + first * a, momentum, by)}
    if isinstance(keeper, optax.ScaleByAdamState):

        def square(v: Array, m: Array, a: Array) -> Array:
            mean = m / jnp.where(first > 0, first, 1)
            return jnp.maximum(v - second * jnp.square(mean), 0) + second * jnp.square(mean + a)

        new["nu"] = jax.tree.map(square, keeper.nu, momentum, by)
    cast = {name: optax.tree.cast_like(x, getattr(keeper, name)) for name, x in new.items()}
    return optax.tree.set(state, **cast)


def second_decay(before: Any, after: Any, grads: PyTree, last: Array) -> Array:
    """The decay of the second moment of Adam, as a step shows it; 1 where there is none.

    Args:
        before: state of the optimizer before the step.
        after: state after it.
        grads: gradients of the step.
        last: the decay where this step does not show it.
    """
    old, new = _keeper(before), _keeper(after)
    if not isinstance(old, optax.ScaleByAdamState):
        return jnp.ones_like(last)
    squares = jax.tree.map(jnp.square, grads)
    leaves = [jax.tree.leaves(t) for t in (old.nu, new.nu, squares)]
    return observed_decay(leaves[0], leaves[1], leaves[2], last).astype(last.dtype)


def step_of_sum(before: Any, after: Any, grads: PyTree, last: Array) -> tuple[Array, Array, PyTree]:
    """How a step has made the sum: the decay of the old sum, the share of the gradient, the sum.

    Args:
        before: state of the optimizer before the step.
        after: state after it.
        grads: gradients of the step.
        last: the decay where this step does not show it.

    Returns:
        Decay and share, so that ``sum = decay * old + share * gradient``; the new sum. Without a
        momentum the sum is the gradient itself.
    """
    old, new = running_sum(before), running_sum(after)
    one = jnp.ones_like(last)
    if old is None:
        return jnp.zeros_like(last), one, grads
    if isinstance(_keeper(before), optax.TraceState):
        m, m_old, g = (ravel_pytree(t)[0] for t in (new, old, grads))
        length = jnp.vdot(m_old, m_old)
        decay = jnp.where(length > 0, jnp.vdot(m - g, m_old) / jnp.where(length > 0, length, 1), 0)
        return decay.astype(last.dtype), one, new
    leaves = [jax.tree.leaves(t) for t in (old, new, grads)]
    decay = observed_decay(leaves[0], leaves[1], leaves[2], last).astype(last.dtype)
    return decay, 1 - decay, new


def check_plain(tx: optax.GradientTransformation, state: Any, params: PyTree) -> None:
    """Refuse an optimizer whose momentum is no plain average of its gradients.

    Args:
        tx: the optimizer.
        state: its state.
        params: the parameters.

    Raises:
        ValueError: it has such a momentum.
    """
    keeper = _keeper(state)
    if keeper is not None and not _is_plain(tx, state, params, _NAMES[type(keeper)]):
        raise ValueError(
            "the momentum of this optimizer is no plain average of its gradients, as that of "
            "optax.contrib.adopt, which divides them first; take optax.sgd, optax.adam, or a gate "
            "around them"
        )


def check_followed(tx: optax.GradientTransformation, state: Any, params: PyTree) -> None:
    """Refuse an optimizer that remembers gradients in another way than :func:`running_sum` sees.

    Args:
        tx: the optimizer.
        state: its state.
        params: the parameters.

    Raises:
        ValueError: something stands before the momentum, around it or behind it, it is no plain
            average of the gradients, or the second moment none of their squares.
    """
    check_plain(tx, state, params)
    if hasattr(_keeper(state), "nu") and not _is_plain(tx, state, params, "nu"):
        raise ValueError(
            "the second moment of this optimizer is no plain average of squared gradients, as that "
            "of optax.yogi or optax.adamax; take optax.adam, or a gate around it"
        )
    shapes = {jnp.shape(p) for p in jax.tree.leaves(params)}
    for name in _unseen(state, _keeper(state), shapes):
        raise ValueError(
            f"the gradients that {name} remembers cannot be followed. The momentum of an optimizer "
            "is followed where it is given the gradients as they come, as in optax.sgd, "
            "optax.adam or a gate around them: leave out what stands before it or around it, or "
            "take another optimizer"
        )


def _is_plain(tx: optax.GradientTransformation, state: Any, params: PyTree, field: str) -> bool:
    """Whether a field of the state that keeps the momentum is a plain average."""

    def memory(state: Any) -> tuple[PyTree, ...]:
        keeper = _keeper(state)
        return getattr(keeper, field), keeper

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        sums = jax.tree.map(jnp.ones_like, updates)  # those of most gates may have this shape
        return optax.with_extra_args_support(tx).update(
            updates, state, params, sum_sq_diff_grads=sums, sample_size=2.0
        )

    return is_plain_average(optax.GradientTransformation(tx.init, update), state, params, memory)


def _unseen(node: Any, keeper: Any, shapes: set[tuple[int, ...]]) -> Iterator[str]:
    """The names of states that remember gradients, beside the one that keeps the momentum."""
    if node is keeper or isinstance(node, _FORGETFUL):
        return
    if isinstance(node, (*_WRAPPERS, SnrGateState)):
        yield from _unseen(node.inner_state, keeper, shapes)
    elif type(node) in (tuple, list, dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _unseen(child, keeper, shapes)
    elif any(
        jnp.shape(x) in shapes and jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        for x in jax.tree.leaves(node)
    ):
        yield type(node).__name__


def _keeper(state: Any) -> Any:
    """The state that keeps the momentum, or ``None``."""
    state = first_state(state)
    if isinstance(state, SnrGateState):
        found = _keeper(state.inner_state)
        # A gate that keeps its own momentum found that of Adam's state to be no plain average.
        own = bool(jax.tree.leaves(state.momentum))
        return None if own and isinstance(found, optax.ScaleByAdamState) else found
    if isinstance(state, _WRAPPERS):
        return _keeper(state.inner_state)
    return state if type(state) in _NAMES else None
