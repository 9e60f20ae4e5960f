r"""Signal channel and reservoir: which directions of the outputs training can move.

The eigenvectors of the Gramian :math:`W_S` with large eigenvalues span the *signal channel*. What
lies in its null space, the *reservoir*, moves no test prediction. Real spectra have no gap, so
the split is soft: a direction with the eigenvalue :math:`\lambda` belongs to the channel with the
weight :math:`\lambda / (\lambda + \tau)`.
"""

from typing import NamedTuple

import jax.numpy as jnp

from snrgate.annotations import Array, ArrayLike, Float
from snrgate.theory.transfer import Record

__all__ = [
    "Cells",
    "Split",
    "effective_rank",
    "four_cells",
    "predictor",
    "split",
    "visibility",
]


def effective_rank(values: Float[Array, " N"]) -> Float[Array, ""]:
    r"""How many eigenvalues carry a spectrum, :math:`(\sum\lambda)^2 / \sum\lambda^2`.

    Args:
        values: eigenvalues; those below zero, which are rounding, count as zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> print(theory.effective_rank(jnp.array([2.0, 2.0, 0.0])))
        2.0
    """
    kept = jnp.maximum(values, 0)
    squares = jnp.sum(jnp.square(kept))
    return jnp.square(jnp.sum(kept)) / jnp.where(squares > 0, squares, 1)


class Split(NamedTuple):
    """The soft split of output space into channel and reservoir.

    Attributes:
        values: eigenvalues of the Gramian, the largest first.
        vectors: its eigenvectors, a column each.
        weights: how far each of them belongs to the channel, in [0, 1].
    """

    values: Float[Array, " N"]
    vectors: Float[Array, "N N"]
    weights: Float[Array, " N"]

    def channel(self, v: Float[ArrayLike, "N ..."]) -> Float[Array, "N ..."]:
        """The part of a vector, or of the columns of a matrix, in the signal channel."""
        along = self.vectors.T @ jnp.asarray(v)
        return self.vectors @ (self.weights.reshape(-1, *[1] * (along.ndim - 1)) * along)

    def reservoir(self, v: Float[ArrayLike, "N ..."]) -> Float[Array, "N ..."]:
        """The rest of it, in the reservoir."""
        return jnp.asarray(v) - self.channel(v)


def split(gramian: Float[Array, "N N"], threshold: float | Array | None = None) -> Split:
    """Split output space by the eigenvalues of a Gramian.

    Args:
        gramian: symmetric and positive semidefinite.
        threshold: eigenvalue that belongs to the channel by half. By default the geometric mean of
            the two eigenvalues on both sides of the effective rank. Where all eigenvalues are
            within that rank, the next one counts as 0, and every direction with evidence is in
            the channel.

    Returns:
        The split. An eigenvalue below zero, which is rounding, has the weight 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> parts = theory.split(jnp.diag(jnp.array([4.0, 1.0, 0.0])), threshold=1.0)
        >>> print(parts.channel(jnp.ones(3)), parts.reservoir(jnp.ones(3)))
        [0.8 0.5 0. ] [0.19999999 0.5        1.        ]
    """
    values, vectors = jnp.linalg.eigh(gramian)
    values, vectors = jnp.maximum(values[::-1], 0), vectors[:, ::-1]
    if threshold is None:
        last = jnp.clip(jnp.ceil(effective_rank(values)).astype(int), 1, values.size)
        beyond = jnp.append(values, 0)[last]
        threshold = jnp.sqrt(values[last - 1] * beyond)
    total = values + threshold
    weights = jnp.where(values > 0, values / jnp.where(total > 0, total, 1), 0)
    return Split(values, vectors, weights)


def visibility(test: Float[Array, "M N"]) -> Float[Array, "N N"]:
    r"""What the queries see of the gradient at the start, :math:`\Gamma_Q = G^T G`.

    Each of its eigenvalues is at most ``record.reach`` times that of ``record.gramian`` in the
    same place of the order.

    Args:
        test: ``G``, the test transfer of a record.
    """
    return test.T @ test


def predictor(
    training: Float[Array, "N N"], test: Float[Array, "M N"], cut: float = 1e-6
) -> Float[Array, "M N"]:
    """The linear map from training displacements to test displacements, ``A = G D^+``.

    Args:
        training: ``D``, the training transfer of a record.
        test: ``G``, its test transfer.
        cut: singular values of ``D`` below this share of the largest one count as zero.

    Returns:
        ``A``. Applied to the change of the training outputs it predicts that of the queries, and
        misses what the cut leaves out.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import theory
        >>> print(theory.predictor(jnp.diag(jnp.array([2.0, 4.0])), jnp.array([[1.0, 1.0]])))
        [[0.5  0.25]]
    """
    return test @ jnp.linalg.pinv(training, rtol=cut)


class Cells(NamedTuple):
    """The test error ``U_Q(T) - f*(Q)`` in four parts, which add up to it.

    Attributes:
        signal_channel: what of the truth the channel shows the queries is not learned yet.
        signal_reservoir: the truth that the training outputs do not show the queries.
        noise_channel: label noise that the queries see.
        noise_reservoir: label noise that the reservoir keeps from them.
    """

    signal_channel: Float[Array, " M"]
    signal_reservoir: Float[Array, " M"]
    noise_channel: Float[Array, " M"]
    noise_reservoir: Float[Array, " M"]

    @property
    def total(self) -> Float[Array, " M"]:
        """The test error."""
        return jnp.sum(jnp.stack(self), axis=0)


def four_cells(
    record: Record,
    parts: Split,
    *,
    clean_gradient: Float[Array, " N"],
    missing: Float[Array, " N"],
    missing_at_queries: Float[Array, " M"],
    cut: float = 1e-6,
) -> Cells:
    r"""Split the test error by signal and noise, and by channel and reservoir.

    The gradient at the start is that with clean labels and a rest, :math:`g = g_0 + g_\epsilon`.
    With the parts :math:`\Pi` and :math:`1 - \Pi` of a split, the test error is the sum of

    .. math::

        -A \Delta_S - G \Pi g_0, \qquad (A \Delta_S - \Delta_Q) - G (1 - \Pi) g_0, \qquad
        -G \Pi g_\epsilon, \qquad -G (1 - \Pi) g_\epsilon ,

    where :math:`\Delta = f^* - U(s)` is what is missing at the start and :math:`A = G D^+` is the
    :func:`predictor`. The labels enter a gradient of the squared loss or of the cross-entropy
    linearly, so that :math:`g_\epsilon` is the label noise itself, divided by the number of
    examples.

    Args:
        record: of the run on the noisy labels.
        parts: the split of its Gramian.
        clean_gradient: gradient of the loss with clean labels, at the start of the run.
        missing: clean values minus the outputs at the start, for the training examples.
        missing_at_queries: the same for the queries.
        cut: of the :func:`predictor`.
    """
    noise = record.gradient - clean_gradient
    shown = predictor(record.training, record.test, cut) @ missing
    return Cells(
        signal_channel=-shown - record.test @ parts.channel(clean_gradient),
        signal_reservoir=shown - missing_at_queries - record.test @ parts.reservoir(clean_gradient),
        noise_channel=-record.test @ parts.channel(noise),
        noise_reservoir=-record.test @ parts.reservoir(noise),
    )
