"""Adam's step in the eigenvectors of the noise, behind a gate in the same eigenvectors."""

import dataclasses
import functools
from collections.abc import Callable

import optax

from snrgate.annotations import PyTree, Scalar
from snrgate.block import Block
from snrgate.gate import GateRule
from snrgate.settings import Settings, check_ranges, exact_defaults
from snrgate.transform import Gated
from snrgate.trees import is_function

__all__ = ["soap"]


@exact_defaults
def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    *,
    gate: str | GateRule = "soft",
    z: Scalar | None = None,
    noise: str = "auto",
    noise_decay: Scalar = 0.99,
    signal_decay: Scalar | None = None,
    fitted: Scalar | None = None,
    softness: Scalar | None = None,
    floor: Scalar = 0.0,
    block: Block = "kronecker",
    dataset_size: Scalar | None = None,
    warmup_steps: Scalar = 0,
    gate_mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the eigenvectors of the noise of each kernel, gated in the better of two bases.

    .. math::

        \theta \leftarrow \theta - \eta\, P \Big( q_t \odot
            \frac{P^T \hat m_t Q}{\sqrt{v_t}} \Big) Q^T - \eta\, \lambda_{wd}\, \theta,
        \qquad v_{ij} = \frac{(P^T V_r P)_{ii}\, (Q^T V_c Q)_{jj}}{\operatorname{tr} V_r}

    with the eigenvectors :math:`P, Q` and the gate :math:`q_t` of ``block="kronecker"``. The mean
    squares :math:`V` of the gradient are the signal and the noise that the gate remembers anyway,
    so that a kernel keeps no second moment of its own. Where the gate looks at the parameters
    themselves, :math:`q_t` multiplies after the turn back. What is no kernel takes Adam's step.

    Directions in which the gradient is small move as far as the others. This helps where inputs
    are collinear (spectra, delays of a series). A small noisy data set is fitted sooner.

    Args:
        learning_rate: as in :func:`optax.adamw`, like all arguments up to ``mask``.
        b1: decay of the momentum.
        b2: decay of the second moment of what is no kernel.
        eps: added to the root of that second moment.
        weight_decay: decoupled weight decay, which is not gated.
        mask: which parameters *decay*; for which are gated see ``gate_mask``.
        gate: this and the following as in :func:`snrgate.snr_gate`. A function that returns ones
            leaves the gate open, which is SOAP alone.
        z: threshold in standard deviations of pure noise, default 1.
        noise: "auto", "exact" or "streaming".
        noise_decay: decay of the running noise, and of its part in the mean squares.
        signal_decay: decay of the running squared signal.
        fitted: share of the data set's own noise that may be fitted, default 0.
        softness: softness of the soft and snr gates.
        floor: how far the gate stays open where there is no signal.
        block: "kronecker", or the moments of a batch by kernels, or their shapes.
        dataset_size: examples in a finite data set, infinity where every batch is fresh.
        warmup_steps: first steps with an open gate.
        gate_mask: the ``mask`` of :func:`snrgate.snr_gate`. What is not gated takes Adam's step.

    Returns:
        An optax transformation; ``update`` needs ``params``, as that of :func:`snrgate.adamw`.

    Raises:
        ValueError: a block without kernels, and as :func:`snrgate.snr_gate`.
        TypeError: as :func:`snrgate.snr_gate`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, snrgate
        >>> def loss_fn(params, example):
        ...     return jnp.square(example["x"] @ params["kernel"] - example["y"]).sum()
        >>> x = jnp.array([[1.0, 0.9], [0.9, 1.0], [-1.0, -1.1], [-1.1, -1.0]])  # collinear
        >>> batch = {"x": x, "y": x[:, :1] - x[:, 1:]}
        >>> tx = snrgate.soap(1e-2)
        >>> params = {"kernel": jnp.zeros((2, 1))}
        >>> state = tx.init(params)
        >>> loss, moments = snrgate.value_and_moments(loss_fn, block="kronecker")(params, batch)
        >>> updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        >>> params = optax.apply_updates(params, updates)

    Source: Vyas et al., "SOAP: improving and stabilizing Shampoo using Adam", arXiv 2409.11321.
    There the eigenvectors are those of the gradient, and the second moment is kept for each
    coordinate. Here they are those of its noise, and the second moment is factored as in
    Adafactor, arXiv 1804.04235.
    """
    check_ranges(b1=b1, b2=b2)
    settings = Settings(
        gate=gate,
        alpha=None,
        z=z,
        noise=noise,
        noise_decay=noise_decay,
        signal_decay=signal_decay,
        fitted=fitted,
        softness=softness,
        floor=floor,
        block=block,
        dataset_size=dataset_size,
        warmup_steps=warmup_steps,
    )
    if not settings.looks:
        raise ValueError(
            f"block={block!r} has no kernels with two sides; soap needs block='kronecker', or "
            "the moments of value_and_moments(..., block='kronecker')"
        )
    gated = Gated(inner=optax.identity(), settings=settings, mask=gate_mask, b1=b1, divides=True)
    inner = optax.partition(
        {"momentum": optax.ema(b1), "adam": optax.scale_by_adam(b1, b2, eps)},
        functools.partial(gated.steps, "momentum", "adam"),
    )
    decayed = mask if mask is None or is_function(mask) else lambda _: mask
    return optax.chain(
        dataclasses.replace(gated, inner=inner).transformation,
        optax.add_decayed_weights(weight_decay, decayed),
        optax.scale_by_learning_rate(learning_rate),
    )
