"""Train with an optax optimizer, and record what the run does to the outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from snrgate.annotations import Array, Bool, Float, PyTree
from snrgate.moments import value_and_moments
from snrgate.theory.limits import MEMORY
from snrgate.theory.ntk import Model
from snrgate.theory.problem import Loss, Problem, pose
from snrgate.theory.running import check_plain, running_sum, step_of_sum
from snrgate.theory.transfer import Moved, Record, advance, first_record

__all__ = ["Recorded", "record"]

_ROUNDING = 1e-6  # of the largest step; a schedule that falls to zero may end just below it


class Recorded(NamedTuple):
    """A recorded training run.

    Attributes:
        params: the parameters at the end.
        opt_state: the state of the optimizer.
        record: what the run did to the outputs.
        losses: the training loss of all examples before each step.
    """

    params: PyTree
    opt_state: optax.OptState
    record: Record
    losses: Float[Array, " steps"]


class _Carry(NamedTuple):
    params: PyTree
    opt_state: optax.OptState
    record: Record
    decay: Array
    largest: Float[Array, ""]  # step per unit of the momentum so far
    mapped: Bool[Array, ""]


def record(
    f: Model,
    loss: Loss,
    tx: optax.GradientTransformation,
    params: PyTree,
    data: tuple[PyTree, PyTree],
    queries: PyTree,
    *,
    steps: int,
    batch_size: int | None = None,
    key: Array | None = None,
    block: str | None = None,
    nodes: int = 3,
    memory: int = MEMORY,
    start: Recorded | None = None,
) -> Recorded:
    r"""Train, and record the linear maps from the gradient at the start to all that was done.

    A step of the optimizer is seen as :math:`\Delta w = -A\,m` with the gradient or the momentum
    :math:`m` and the diagonal :math:`A = -\Delta w / m` that the step really had. This is exact for
    SGD, with momentum too, for RMSProp, AdaGrad and Adam, and for any of them behind the gate.
    Their second moments and gates are part of :math:`A`, as the learning rate is. Optimizers whose
    steps are no positive multiple of ``m`` for each parameter are refused: with weight decay,
    with Nesterov's momentum, or with anything before the momentum.

    A step costs ``nodes + 1`` Jacobians of the training examples and ``nodes`` of the queries, and
    some products of ``N * N * p`` operations, for ``N`` training outputs and ``p`` parameters.
    The memory is about ``5 * N * p`` numbers.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        loss: ``(outputs, target) -> scalar`` of one example. The mean over all is the loss.
        tx: the optimizer.
        params: the parameters at the start.
        data: inputs and targets, each with a leading axis of ``n`` examples.
        queries: inputs of the test examples, with a leading axis.
        steps: number of steps.
        batch_size: number of examples in a batch, drawn anew at every step; by default all of
            them, each once.
        key: random key of the batches, where there is a ``batch_size``.
        block: block of the moments that a gate is given, as of
            :func:`snrgate.value_and_moments`; by default the optimizer gets plain gradients.
        nodes: number of nodes of the quadrature along each step.
        memory: bytes that the matrices may take together.
        start: the run to go on with; ``params`` are then those of its start.

    Returns:
        The end of the run and its record.

    Raises:
        ValueError: the matrices would take more memory; a batch without a key; inputs without a
            common leading axis; a step that is no positive multiple of the gradient or momentum; a
            momentum that is no plain average of the gradients.
        TypeError: a parameter is not a real floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from snrgate import theory
        >>> def f(params, x):
        ...     return params["w"] * x
        >>> def loss(u, y):
        ...     return (u - y) ** 2 / 2
        >>> one = jnp.ones(1)
        >>> run = theory.record(
        ...     f, loss, optax.sgd(0.5), {"w": jnp.zeros(())}, (one, one), 2 * one, steps=2)
        >>> print(run.params["w"], -run.record.training @ run.record.gradient)
        0.75 [0.75]

    Source: the maps are those of Litman & Guo, arXiv 2605.01172, for single steps.
    """
    if batch_size is not None and key is None:
        raise ValueError("batches are drawn at random; give key=jax.random.key(...)")
    problem, w = pose(f, loss, params, data, queries, memory, copies=5)
    if start is None:
        state = tx.init(params)
        check_plain(tx, state, params)
        first = first_record(problem, w, running_sum(state) is not None)
        start = Recorded(params, state, first, jnp.zeros(0, w.dtype))
    step = _stepper(problem, f, loss, optax.with_extra_args_support(tx), block, nodes)
    zero = jnp.zeros((), w.dtype)
    carry = _Carry(start.params, start.opt_state, start.record, zero, zero, jnp.array(True))
    batches = _batches(problem.n, steps, batch_size, key)
    carry, losses = jax.jit(lambda c, b: jax.lax.scan(step, c, b))(carry, batches)
    if not bool(carry.mapped):
        raise ValueError(
            "a step of the optimizer is no positive multiple of its gradient or momentum for each "
            "parameter; leave out weight decay, Nesterov's momentum, and what comes before the "
            "momentum, or record optax.sgd, optax.rmsprop, optax.adam or a gate around them"
        )
    return Recorded(
        carry.params, carry.opt_state, carry.record, jnp.concatenate([start.losses, losses])
    )


def _batches(n: int, steps: int, size: int | None, key: Array | None) -> Array:
    """The places of the examples of every batch."""
    if size is None or key is None:
        return jnp.broadcast_to(jnp.arange(n), (steps, n))
    return jax.random.randint(key, (steps, size), 0, n)


def _stepper(
    problem: Problem,
    f: Model,
    loss: Loss,
    tx: optax.GradientTransformationExtraArgs,
    block: str | None,
    nodes: int,
) -> Callable[[_Carry, Array], tuple[_Carry, Array]]:
    """One step of training and of the record, for ``scan``."""
    data = problem.x, problem.targets

    def of_example(params: PyTree, example: tuple[PyTree, PyTree]) -> Array:
        return loss(f(params, example[0]), example[1])

    def gradients(params: PyTree, batch: Any) -> tuple[PyTree, dict[str, Any]]:
        if block is not None:
            _, moments = value_and_moments(of_example, block=block)(params, batch)
            return moments.mean, moments.extra_args()
        mean = lambda params: jnp.mean(jax.vmap(of_example, (None, 0))(params, batch))  # noqa: E731
        return jax.grad(mean)(params), {}

    def step(carry: _Carry, places: Array) -> tuple[_Carry, Array]:
        params, state = carry.params, carry.opt_state
        grads, extra = gradients(params, jax.tree.map(lambda leaf: leaf[places], data))
        updates, new_state = tx.update(grads, state, params, **extra)
        after = optax.apply_updates(params, updates)
        decay, share, running = step_of_sum(state, new_state, grads, carry.decay)

        # The diagonal that the step really had.
        u, m = ravel_pytree(updates)[0], ravel_pytree(running)[0]
        gain = jnp.where(m == 0, 0, -u / jnp.where(m == 0, 1, m))
        largest = jnp.maximum(carry.largest, jnp.max(gain))
        mapped = jnp.all(gain >= -_ROUNDING * largest) & jnp.all((m != 0) | (u == 0))
        w = ravel_pytree(params)[0]
        counts = jnp.bincount(places, length=problem.n).astype(w.dtype) * (problem.n / places.size)
        moved = Moved(w, ravel_pytree(after)[0], gain, decay, share, counts)
        value = problem.loss(problem.outputs(w, problem.x))
        new = advance(problem, carry.record, moved, nodes)
        return _Carry(after, new_state, new, decay, largest, carry.mapped & mapped), value

    return step
