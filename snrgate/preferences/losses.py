r"""Losses of a pair of replies, from the log-probabilities of the policy and the reference.

The margin of a pair is how much more the policy prefers the chosen reply than the reference does,

.. math::

    h = \log\frac{\pi(y_w \mid x)}{\pi_\mathrm{ref}(y_w \mid x)}
        - \log\frac{\pi(y_l \mid x)}{\pi_\mathrm{ref}(y_l \mid x)},
    \qquad \ell(h) = -\log \sigma(\beta h) .

All losses but one are functions of the margin of one pair. :func:`dr_dpo` couples the pairs of a
batch; :func:`snrgate.preferences.tilted_value_and_moments` has its moments.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, Float, Scalar
from snrgate.moments.statistics import accumulator_dtype
from snrgate.preferences.shapes import same_shape
from snrgate.settings import known

__all__ = ["cdpo", "dpo", "dr_dpo", "ipo", "margin", "rdpo", "tilted_mean"]


def margin(
    chosen: Float[Array, "*b"],
    rejected: Float[Array, "*b"],
    reference_chosen: Float[Array, "*b"],
    reference_rejected: Float[Array, "*b"],
) -> Float[Array, "*b"]:
    r"""How much more the policy prefers the chosen reply than the reference does, in nats.

    Args:
        chosen: log-probabilities of the chosen replies under the policy, any shape.
        rejected: those of the rejected replies, the same shape.
        reference_chosen: those of the chosen replies under the reference.
        reference_rejected: those of the rejected replies under the reference.

    Returns:
        :math:`h`, the same shape.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import margin
        >>> float(margin(*(jnp.array(x) for x in (-3.0, -5.0, -4.0, -4.5))))
        1.5
    """
    same_shape(
        chosen=chosen,
        rejected=rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    return (chosen - reference_chosen) - (rejected - reference_rejected)


def dpo(margin: Float[Array, "*b"], beta: Scalar = 0.1) -> Float[Array, "*b"]:
    r"""The loss of direct preference optimisation.

    .. math:: \ell(h) = -\log \sigma(\beta h)

    Args:
        margin: :math:`h` of :func:`margin`, in nats, any shape.
        beta: strength of the pull to the reference.

    Returns:
        The loss of each pair, the same shape.

    Raises:
        ValueError: ``beta`` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import dpo
        >>> print(f"{dpo(jnp.array(0.0)):.4f}, {dpo(jnp.array(20.0)):.4f}")
        0.6931, 0.1269

    Source: Rafailov et al., "Direct Preference Optimization", arXiv 2305.18290.
    """
    _check_positive(beta=beta)
    return jax.nn.softplus(-beta * margin)


def cdpo(
    margin: Float[Array, "*b"], beta: Scalar = 0.1, *, flip_rate: Scalar
) -> Float[Array, "*b"]:
    r"""Conservative DPO: the cross-entropy with smoothed labels.

    .. math:: (1 - \varepsilon)\, \ell(h) + \varepsilon\, \ell(-h)

    It is least where :math:`\sigma(\beta h) = 1 - \varepsilon`, so that no margin grows without
    end.

    Args:
        margin: :math:`h` of :func:`margin`, in nats, any shape.
        beta: strength of the pull to the reference.
        flip_rate: :math:`\varepsilon`, the share of wrong labels, at most one half.

    Returns:
        The loss of each pair, the same shape.

    Raises:
        ValueError: ``beta`` is not positive, or ``flip_rate`` is not in [0, 0.5].

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import cdpo
        >>> print(f"{cdpo(jnp.array(20.0), flip_rate=0.3):.4f}")
        0.7269

    Source: Mitchell, "A note on DPO with noisy preferences and relationship to IPO", 2023.
    """
    _check_flip_rate(flip_rate, "at most 0.5", flip_rate <= 0.5)
    return (1 - flip_rate) * dpo(margin, beta) + flip_rate * dpo(-margin, beta)


def rdpo(
    margin: Float[Array, "*b"], beta: Scalar = 0.1, *, flip_rate: Scalar
) -> Float[Array, "*b"]:
    r"""Robust DPO: the estimate of the loss on right labels that is without bias.

    .. math:: \frac{(1 - \varepsilon)\, \ell(h) - \varepsilon\, \ell(-h)}{1 - 2 \varepsilon}

    With labels that are wrong at the rate :math:`\varepsilon` its expectation is the loss on right
    labels. It has no lower bound. TRL has it as ``loss_type="robust"``.

    Args:
        margin: :math:`h` of :func:`margin`, in nats, any shape.
        beta: strength of the pull to the reference.
        flip_rate: :math:`\varepsilon`, the share of wrong labels, below one half.

    Returns:
        The loss of each pair, the same shape.

    Raises:
        ValueError: ``beta`` is not positive, or ``flip_rate`` is not in [0, 0.5).

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import dpo, rdpo
        >>> h = jnp.array(20.0)
        >>> expected = 0.7 * rdpo(h, flip_rate=0.3) + 0.3 * rdpo(-h, flip_rate=0.3)
        >>> print(f"{expected:.4f}, {dpo(h):.4f}")
        0.1269, 0.1269

    Source: Chowdhury et al., "Provably Robust DPO", arXiv 2403.00409.
    """
    _check_flip_rate(flip_rate, "below 0.5", flip_rate < 0.5)
    right, wrong = dpo(margin, beta), dpo(-margin, beta)
    return ((1 - flip_rate) * right - flip_rate * wrong) / (1 - 2 * flip_rate)


def ipo(margin: Float[Array, "*b"], beta: Scalar = 0.1) -> Float[Array, "*b"]:
    r"""Identity preference optimisation: the squared distance from a finite margin.

    .. math:: \left(h - \frac{1}{2 \beta}\right)^2

    TRL divides the log-probability of each reply by its number of tokens before it takes the
    margin, as the authors of IPO did. Do so too where replies differ in length.

    Args:
        margin: :math:`h` of :func:`margin`, in nats, any shape.
        beta: strength of the pull to the reference.

    Returns:
        The loss of each pair, the same shape.

    Raises:
        ValueError: ``beta`` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import ipo
        >>> float(ipo(jnp.array(3.0), beta=0.25))
        1.0

    Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human
    Preferences", arXiv 2310.12036, equation 17.
    """
    _check_positive(beta=beta)
    return jnp.square(margin - 1 / (2 * beta))


def tilted_mean(losses: Float[Array, " b"], temperature: Scalar) -> Float[Array, ""]:
    r"""A mean of losses in which large ones count less.

    .. math::

        -\beta' \log \frac1b \sum_i \exp\left(-\frac{\ell_i}{\beta'}\right),
        \qquad \text{with the gradient} \quad \sum_i w_i \nabla \ell_i,
        \quad w = \mathrm{softmax}(-\ell / \beta')

    Args:
        losses: the loss of each example of a batch, shape ``(b,)``.
        temperature: :math:`\beta'`, in units of the loss. A large one gives the plain mean.

    Returns:
        The loss of the batch, a scalar.

    Raises:
        ValueError: ``temperature`` is not positive, or the losses have more than one axis or none.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import tilted_mean
        >>> losses = jnp.array([0.5, 3.0])
        >>> print(f"{tilted_mean(losses, 1.0):.3f}, {tilted_mean(losses, 1e4):.3f}")
        1.114, 1.750
    """
    _check_positive(temperature=temperature)
    if jnp.ndim(losses) != 1:
        raise ValueError(f"losses have shape {jnp.shape(losses)}; give one for each example, (b,)")
    if not len(losses):
        raise ValueError("there are no losses; give one for each example of a batch")
    wide = losses.astype(accumulator_dtype(losses.dtype))  # float16 ends at 65,504
    tilted = math.log(losses.shape[0]) - jax.nn.logsumexp(-wide / temperature)
    return (temperature * tilted).astype(losses.dtype)


def dr_dpo(
    margins: Float[Array, " b"], beta: Scalar = 0.1, *, temperature: Scalar = 1.0
) -> Float[Array, ""]:
    r"""Distributionally robust DPO: the :func:`tilted_mean` of the losses of a batch.

    .. math:: -\beta' \log \frac1b \sum_i \exp\left(-\frac{\ell(h_i)}{\beta'}\right)

    Args:
        margins: :math:`h` of :func:`margin` of each pair of a batch, in nats, shape ``(b,)``.
        beta: strength of the pull to the reference.
        temperature: :math:`\beta'`; a pair with a large loss, which may be wrong, counts less the
            smaller it is.

    Returns:
        The loss of the batch, a scalar.

    Raises:
        ValueError: ``beta`` or ``temperature`` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate.preferences import dr_dpo
        >>> print(f"{dr_dpo(jnp.array([0.0, 0.0])):.4f}")
        0.6931

    Source: Wu et al., "Towards Robust Alignment of Language Models: Distributionally Robustifying
    Direct Preference Optimization", arXiv 2407.07880.
    """
    return tilted_mean(dpo(margins, beta), temperature)


def _check_positive(**numbers: Scalar) -> None:
    for name, value in numbers.items():
        if known(value) and not np.all((np.asarray(value) > 0) & np.isfinite(value)):
            raise ValueError(f"{name} = {value} must be positive and finite")


def _check_flip_rate(rate: Scalar, most: str, allowed: Any) -> None:
    if known(rate) and not np.all((np.asarray(rate) >= 0) & np.asarray(allowed)):
        raise ValueError(f"flip_rate = {rate} must be at least 0 and {most}")
