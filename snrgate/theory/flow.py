r"""The gradient flow of a model, and what it does to the outputs.

.. math::

    \dot w = -J_S^T g, \quad \dot P = -B K_{SS} P, \quad \dot W_S = P^T K_{SS} P, \quad
    \dot D = K_{SS} P, \quad \dot G = K_{QS} P

along the path that the flow really takes. All of them are integrated together by the classical
Runge-Kutta method of fourth order, so that the equations of :mod:`snrgate.theory.transfer`
hold up to an error of the fourth power of the step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float, PyTree
from snrgate.theory.average import relative
from snrgate.theory.limits import MEMORY
from snrgate.theory.ntk import Model, rows
from snrgate.theory.problem import Loss, Problem, pose
from snrgate.theory.transfer import Record, first_record

__all__ = ["Flow", "gradient_flow"]


class Flow(NamedTuple):
    """Where a gradient flow has led, and its record.

    Attributes:
        params: the parameters at the end.
        record: what the flow did to the outputs.
        losses: the training loss at the start of each step.
    """

    params: PyTree
    record: Record
    losses: Float[Array, " steps"]


class _Moving(NamedTuple):
    """All that the flow moves, or how fast it moves."""

    w: Array
    propagator: Array
    gramian: Array
    training: Array
    test: Array
    reach: Array


def gradient_flow(
    f: Model,
    loss: Loss,
    params: PyTree,
    data: tuple[PyTree, PyTree],
    queries: PyTree,
    *,
    time: float,
    steps: int,
    memory: int = MEMORY,
) -> Flow:
    """Follow the gradient flow of the mean loss, and record it.

    Every step takes four Jacobians of the training examples and of the queries.

    Args:
        f: ``(params, x) -> outputs`` of one example.
        loss: ``(outputs, target) -> scalar`` of one example.
        params: the parameters at the start.
        data: inputs and targets, each with a leading axis of ``n`` examples.
        queries: inputs of the test examples, with a leading axis.
        time: how long the flow lasts.
        steps: number of steps of the integrator.
        memory: bytes that the matrices may take together.

    Returns:
        The end of the flow and its record. In it the dissipation is the Gramian.

    Raises:
        ValueError: the matrices would take more memory, inputs have no common leading axis, or
            ``time`` or ``steps`` cannot be used.
        TypeError: a parameter is not a real floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> def f(params, x):
        ...     return params["w"] * x
        >>> def loss(u, y):
        ...     return (u - y) ** 2 / 2
        >>> one = jnp.ones(1)
        >>> flow = theory.gradient_flow(
        ...     f, loss, {"w": jnp.zeros(())}, (one, one), 2 * one, time=1.0, steps=10)
        >>> print(flow.params["w"].round(4), flow.record.test.round(4))  # 1 - exp(-1), twice
        0.6321 [[1.2642]]
    """
    if not isinstance(steps, int) or steps < 1 or not time > 0:
        raise ValueError(f"time={time} must be above 0, and steps={steps} a whole number above 0")
    problem, w = pose(f, loss, params, data, queries, memory, copies=6)
    first = first_record(problem, w, with_momentum=False)
    parts = first.propagator, first.gramian, first.training, first.test, first.reach
    step = jnp.asarray(time / steps, w.dtype)

    def along(at: _Moving, by: Array, rates: _Moving) -> _Moving:
        return jax.tree.map(lambda x, rate: x + by * rate, at, rates)

    def one_step(carry: tuple[_Moving, Array], _: None) -> tuple[tuple[_Moving, Array], Array]:
        at, drift = carry
        k1, loss, kernel = _rates(problem, at)
        k2 = _rates(problem, along(at, step / 2, k1))[0]
        k3 = _rates(problem, along(at, step / 2, k2))[0]
        k4 = _rates(problem, along(at, step, k3))[0]
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        drift = jnp.maximum(drift, relative(kernel - first.kernel, first.kernel))
        return (along(at, step, mean), drift), loss

    start = (_Moving(w, *parts), first.drift)
    (end, drift), losses = jax.jit(lambda s: jax.lax.scan(one_step, s, length=steps))(start)
    record = first._replace(
        propagator=end.propagator,
        dissipation=end.gramian,
        gramian=end.gramian,
        training=end.training,
        test=end.test,
        reach=end.reach,
        drift=drift,
    )
    return Flow(problem.restore(end.w), record, losses)


def _rates(problem: Problem, at: _Moving) -> tuple[_Moving, Array, Array]:
    """How fast everything moves; the loss; the kernel of the training examples."""
    jac, seen = (rows(problem.g, at.w, x) for x in (problem.x, problem.queries))
    u = problem.outputs(at.w, problem.x)
    kernel = jac @ jac.T
    fed = kernel @ at.propagator
    rates = _Moving(
        w=-(jac.T @ problem.slope(u)),
        propagator=-problem.curved(problem.curvature(u), fed),
        gramian=at.propagator.T @ fed,
        training=fed,
        test=seen @ (jac.T @ at.propagator),
        reach=jnp.linalg.eigvalsh(seen @ seen.T)[-1],
    )
    return rates, problem.loss(u), kernel
