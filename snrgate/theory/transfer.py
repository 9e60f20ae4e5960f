r"""What a stretch of training did to the outputs, as linear maps of the gradient at its start.

Training from :math:`s` to :math:`T` moves the outputs of the training examples and of the queries,
and lowers the training loss :math:`\Phi`:

.. math::

    U_S(T) - U_S(s) = -D\, g(s), \qquad U_Q(T) - U_Q(s) = -G\, g(s), \qquad
    \Phi(s) - \Phi(T) = g(s)^T W_S\, g(s)

with :math:`g = \nabla\Phi`. For gradient flow these are integrals along the path
(:mod:`snrgate.theory.flow`). Here they are sums over the steps of a real training run. A step
:math:`\Delta w = -A\,m`, where :math:`m = M g(s)` is the gradient or its running sum and :math:`A`
a positive diagonal, gives with the averages of :mod:`snrgate.theory.average`

.. math::

    X = \bar J_S A M, \qquad P \leftarrow P - \bar B X, \qquad D \leftarrow D + X, \qquad
    G \leftarrow G + \bar J_Q A M .

Nothing is frozen or expanded, so the three equations hold to rounding, for large steps too. Two
matrices share the role of :math:`W_S`. The *dissipation* accounts for the loss exactly,
:math:`\Phi(s) - \Phi(T) = g^T W g`, but need not be positive. The *Gramian*
:math:`\sum M^T A M` is positive semidefinite, its null space lies in that of :math:`G`, and it
bounds what a query can see. Both tend to :math:`W_S` as the steps become small.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Float
from snrgate.theory.average import average_curvature, average_jacobian, relative
from snrgate.theory.ntk import rows
from snrgate.theory.problem import Problem

__all__ = ["Moved", "Record", "advance", "first_record"]


class Record(NamedTuple):
    r"""The linear maps of a stretch of training, with ``N = n * k`` training outputs.

    Attributes:
        gradient: gradient of the training loss with respect to the outputs at the start.
        propagator: ``P``, which carries that gradient to the gradient now, ``(N, N)``.
        dissipation: ``W`` of the exact balance of the loss, symmetric, ``(N, N)``.
        gramian: ``W_S``, symmetric and positive semidefinite, ``(N, N)``.
        training: ``D``, transfer to the training outputs, ``(N, N)``.
        test: ``G``, transfer to the outputs of the queries, ``(M, N)``.
        reach: :math:`\int \|K_{QQ}\|`, the factor of the bound on what a query sees.
        momentum: transfer to the running sum of gradients, ``(p, N)``; without one ``(0, N)``.
        kernel: the kernel of the training examples at the start.
        drift: largest distance of the kernel from that at the start, as a share of its norm.
        defect: largest share of a step that the quadrature missed, before it was corrected.
    """

    gradient: Float[Array, " N"]
    propagator: Float[Array, "N N"]
    dissipation: Float[Array, "N N"]
    gramian: Float[Array, "N N"]
    training: Float[Array, "N N"]
    test: Float[Array, "M N"]
    reach: Float[Array, ""]
    momentum: Float[Array, "p N"]
    kernel: Float[Array, "N N"]
    drift: Float[Array, ""]
    defect: Float[Array, ""]


class Moved(NamedTuple):
    """One step of a training run.

    Attributes:
        before: the parameters before the step.
        after: those after it.
        gain: ``A``, the step per unit of ``m``, for each parameter.
        decay: how much of the running sum before is left in it.
        share: how much of the gradient is added to it.
        counts: how often each training example counts in the gradient; 1 for a full batch.
    """

    before: Float[Array, " p"]
    after: Float[Array, " p"]
    gain: Float[Array, " p"]
    decay: Float[Array, ""]
    share: Float[Array, ""]
    counts: Float[Array, " n"]


def first_record(problem: Problem, w: Float[Array, " p"], with_momentum: bool) -> Record:
    """The record of no step.

    Args:
        problem: what is learned.
        w: the parameters at the start.
        with_momentum: whether the optimizer keeps a running sum of the gradients.
    """
    size, zero = problem.n * problem.k, jnp.zeros((), w.dtype)
    count = jax.tree.leaves(problem.queries)[0].shape[0] * problem.k
    nothing = jnp.zeros((size, size), w.dtype)
    start = rows(problem.g, w, problem.x)
    return Record(
        gradient=problem.slope(problem.outputs(w, problem.x)),
        propagator=jnp.eye(size, dtype=w.dtype),
        dissipation=nothing,
        gramian=nothing,
        training=nothing,
        test=jnp.zeros((count, size), w.dtype),
        reach=zero,
        momentum=jnp.zeros((w.size if with_momentum else 0, size), w.dtype),
        kernel=start @ start.T,
        drift=zero,
        defect=zero,
    )


def advance(problem: Problem, record: Record, moved: Moved, nodes: int) -> Record:
    r"""Add one step of training to a record.

    It costs ``nodes + 1`` Jacobians of the training examples and ``nodes`` of the queries, some
    products of matrices of ``N * N * p`` operations, and the eigenvalues of one of size ``M``.

    Args:
        problem: what is learned.
        record: of the steps before.
        moved: the step.
        nodes: number of nodes of the quadrature for the Jacobians.
    """
    # The gradient of this batch, as a map of the gradient at the start.
    jac = rows(problem.g, moved.before, problem.x)
    counts = jnp.repeat(moved.counts, problem.k)
    transfer = moved.share * jac.T @ (counts[:, None] * record.propagator)
    if record.momentum.size:
        transfer = transfer + moved.decay * record.momentum
    step = moved.gain[:, None] * transfer

    # What it does to the outputs.
    ends = moved.before, moved.after
    mean, missed = average_jacobian(problem.g, *ends, problem.x, nodes)
    seen, missed_by_queries = average_jacobian(problem.g, *ends, problem.queries, nodes)
    displaced = mean @ step
    before, after = (problem.outputs(w, problem.x) for w in ends)
    curvature, early = average_curvature(problem.curvature, before, after)
    bent = problem.slope(after) - problem.slope(before)
    change = (after - before)[:, None]
    unbent = relative(bent - jnp.ravel(problem.curved(curvature, change)), record.gradient)

    # What it does to the loss: the average gradient along the step, times the step.
    slope = record.propagator - problem.curved(early, displaced)
    lost = slope.T @ displaced
    reached = jnp.linalg.eigvalsh((seen * moved.gain[None]) @ seen.T)[-1]
    kernel = jac @ jac.T
    return Record(
        gradient=record.gradient,
        propagator=record.propagator - problem.curved(curvature, displaced),
        dissipation=record.dissipation + (lost + lost.T) / 2,
        gramian=record.gramian + transfer.T @ step,
        training=record.training + displaced,
        test=record.test + seen @ step,
        reach=record.reach + reached,
        momentum=transfer if record.momentum.size else record.momentum,
        kernel=record.kernel,
        drift=jnp.maximum(record.drift, relative(kernel - record.kernel, record.kernel)),
        defect=jnp.max(jnp.stack([record.defect, missed, missed_by_queries, unbent])),
    )
