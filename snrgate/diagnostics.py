"""Diagnostics: gate fractions, steps sat out, the gradient noise scale, the risk of a step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Float, PyTree
from snrgate.measure import are_measured
from snrgate.moments.kronecker import SideSums, trace
from snrgate.moments.statistics import Moments, pool_like
from snrgate.spectrum import Spectrum, evidence_spectra
from snrgate.trees import flatten

__all__ = [
    "RiskDecrease",
    "Spectrum",
    "evidence_spectra",
    "gate_fraction_per_layer",
    "noise_scale",
    "risk_decrease",
    "skipped_steps_per_layer",
]


def gate_fraction_per_layer(state: optax.OptState, params: PyTree) -> dict[str, Array]:
    """Mean gate of the last step for each parameter tensor.

    Args:
        state: state of an optimizer with one gate in it.
        params: the parameters it was initialised with (only their structure is used).

    Returns:
        ``path -> fraction``, float32 scalars in [0, 1]. A tensor that is not gated has 1.

    Raises:
        ValueError: the state holds no gate, or the gate of another parameter tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
        >>> state = snrgate.adamw(1e-3).init(params)
        >>> sorted(snrgate.diagnostics.gate_fraction_per_layer(state, params))
        ['dense/bias', 'dense/kernel']
    """
    return _per_layer(state, params, "gate_fractions")


def skipped_steps_per_layer(state: optax.OptState, params: PyTree) -> dict[str, Array]:
    """Number of steps that each parameter tensor has sat out.

    A tensor sits out a step where its gradient or its statistics are not finite, or where the batch
    holds no example. Such a step does not enter the running averages of the tensor.

    Args:
        state: state of an optimizer with one gate in it.
        params: the parameters it was initialised with (only their structure is used).

    Returns:
        ``path -> steps``, int32 scalars. A tensor that is not gated has 0.

    Raises:
        ValueError: the state holds no gate, or the gate of another parameter tree.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, snrgate
        >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
        >>> tx = snrgate.snr_gate(optax.zero_nans())
        >>> grads = {"kernel": jnp.full((2, 3), jnp.nan), "bias": jnp.ones(3)}
        >>> _, state = tx.update(grads, tx.init(params), params)
        >>> steps = snrgate.diagnostics.skipped_steps_per_layer(state, params)
        >>> int(steps["kernel"]), int(steps["bias"])
        (1, 0)
    """
    return _per_layer(state, params, "skipped_steps")


def _per_layer(state: optax.OptState, params: PyTree, name: str) -> dict[str, Array]:
    gate = optax.tree.get(state, "SnrGateState")
    if gate is None:
        raise ValueError("the state holds no gate; pass the state of a snrgate optimizer")
    values, paths = getattr(gate, name), flatten(params).paths
    if values.shape != (len(paths),):
        raise ValueError(
            f"the gate was initialised with {values.size} parameter tensors, params has "
            f"{len(paths)}; pass the tree that tx.init was given"
        )
    # Where the gate remembers nothing, its state does not hold the names of its parameters.
    if other := set(flatten(gate.noise).paths) - set(paths):
        raise ValueError(
            f"the gate was initialised with {min(other)!r}, which params lacks; pass the tree that "
            "tx.init was given"
        )
    return dict(zip(paths, values, strict=True))


def _total(tree: PyTree) -> Array:
    """The sum of all numbers; of sums by the sides of a kernel, that of all squared differences."""
    sums = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, SideSums))
    totals = (trace(x) if isinstance(x, SideSums) else jnp.sum(x) for x in sums)
    return sum(totals, jnp.zeros((), jnp.float32))


def noise_scale(moments: Moments) -> Float[Array, ""]:
    r"""The gradient noise scale: the batch size at which signal and noise are equal.

    .. math:: B = \frac{\operatorname{tr} \Sigma}{|G|^2}
              \approx \frac{n \sum_k s_k}{\sum_k (\mu_k^2 - s_k)},
              \qquad s = \frac{\sigma^2}{n - 1}

    The numerator and the denominator are both unbiased.

    Args:
        moments: moments of one batch, pooled or not.

    Returns:
        The scale in examples. It is infinite where the batch shows no signal at all, and NaN where
        its squared differences were not measured.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> moments = snrgate.Moments(jnp.array([2.0]), jnp.array([6.0]), 3.0)
        >>> print(snrgate.diagnostics.noise_scale(moments))
        1.0

    Source: McCandlish et al., arXiv 1812.06162, the simple noise scale.
    """
    noise = _total(moments.noise)
    signal = _total(jax.tree.map(jnp.square, moments.mean)) - noise
    n = jnp.asarray(moments.sample_size, noise.dtype)
    scale = jnp.where(signal > 0, n * noise / jnp.where(signal > 0, signal, 1), jnp.inf)
    return jnp.where(are_measured(moments.sum_sq_diff), scale, jnp.nan)


class RiskDecrease(NamedTuple):
    """First-order decrease of the loss by one preconditioned gradient step.

    Attributes:
        training: decrease of the loss on this batch, ``sum p * mu**2``. It is too optimistic.
        population: decrease of the expected loss, ``sum p * (mu**2 - sigma2 / (b - 1))``. It is
            unbiased on fresh examples.
    """

    training: Float[Array, ""]
    population: Float[Array, ""]


def risk_decrease(moments: Moments, preconditioner: PyTree | float = 1.0) -> RiskDecrease:
    r"""Decrease of the training risk and of the population risk by a step.

    .. math::

        \Delta_{train} = \sum_k p_k\, \mu_k^2, \qquad
        \Delta_{pop} = \sum_k p_k \left(\mu_k^2 - \frac{\sigma_k^2}{b - 1}\right)

    for the step :math:`-p_k \mu_k`. The population decrease leaves out the effect of each example
    on its own loss. It is the unbiased U-statistic of :math:`\sum p_k (E g_k)^2` when the examples
    are fresh and :math:`p` does not depend on them.

    Args:
        moments: moments of one batch.
        preconditioner: the step per unit of gradient, a scalar or a tree like the parameters. For
            Adam it is ``learning_rate * (1 - b1) / (sqrt(v) + eps)``, the part of the step that
            this batch decides. With pooled moments it must be constant on each block, and have
            the shape of the sums. Where these are by the sides of a kernel, it is one number.

    Returns:
        Both decreases, in units of the loss. That of the population is NaN where the squared
        differences were not measured.

    Raises:
        ValueError: the preconditioner varies inside a pooled block.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> moments = snrgate.Moments(jnp.array([2.0]), jnp.array([6.0]), 3.0)
        >>> decrease = snrgate.diagnostics.risk_decrease(moments, 0.5)
        >>> print(decrease.training, decrease.population)
        2.0 1.5

    Source: Litman & Guo, arXiv 2605.01172, the population-risk objective.
    """
    leaves = flatten(moments.mean)
    noises = leaves.match(moments.noise, "moments.sum_sq_diff")
    steps = leaves.match(jax.tree.broadcast(preconditioner, moments.mean), "preconditioner")
    training = population = jnp.zeros((), jnp.float32)
    for path, mean, noise, p in zip(leaves.paths, leaves.values, noises, steps, strict=True):
        signal_sq = jnp.square(mean)
        if isinstance(noise, SideSums):  # the whole tensor is one block
            noise, signal_sq = trace(noise), jnp.sum(signal_sq)
        if jnp.ndim(p) and jnp.shape(p) != noise.shape:
            raise ValueError(
                f"the preconditioner of {path!r} has shape {jnp.shape(p)}, the noise "
                f"{noise.shape}; use moments with block='parameter', or one number a block"
            )
        signal_sq = pool_like(signal_sq, noise)
        training += jnp.sum(p * signal_sq)
        population += jnp.sum(p * (signal_sq - noise))
    measured = are_measured(moments.sum_sq_diff)
    return RiskDecrease(training, jnp.where(measured, population, jnp.nan))
