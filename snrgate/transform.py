"""The gate around an optax transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from snrgate.annotations import Array, Float, Int, PyTree, Scalar
from snrgate.block import Block, block_axes
from snrgate.checks import check_settings, check_shapes, check_statistics, pooled_sums
from snrgate.gate import GATES, null_level, pool
from snrgate.moments.statistics import accumulator_dtype, noise_of_mean
from snrgate.momentum import inner_momentum, measured_decay
from snrgate.trees import Selection, check_floating, flatten, select

__all__ = ["SnrGateState", "snr_gate"]

_B1 = 0.9  # decay of the gate's own momentum, where the inner transformation keeps none


class SnrGateState(NamedTuple):
    """State of :func:`snr_gate`; read it with ``optax.tree.get(state, "gate_fraction")``.

    Attributes:
        count: steps taken, int32.
        noise: running variance of the batch mean, not bias-corrected; float32, a tree like the
            parameters with size 1 on the pooled axes. ``()`` for instantaneous noise.
        momentum: running mean gradient, not bias-corrected; a tree like the parameters, or ``()``
            where the inner transformation keeps it.
        gate_fraction: mean gate over all gated parameters in the last step, float32.
        gate_fractions: the same for each parameter tensor, in the order of its leaves.
        inner_state: state of the inner transformation.
    """

    count: Int[Array, ""]
    noise: PyTree
    momentum: PyTree
    gate_fraction: Float[Array, ""]
    gate_fractions: Float[Array, " leaves"]
    inner_state: optax.OptState


def snr_gate(
    inner: optax.GradientTransformation,
    *,
    gate: str = "soft",
    alpha: Scalar | None = None,
    z: Scalar | None = None,
    noise: str = "auto",
    noise_decay: Scalar = 0.99,
    softness: Scalar | None = None,
    floor: Scalar = 0.0,
    block: Block = "unit",
    dataset_size: Scalar | None = None,
    warmup_steps: Scalar = 0,
    b1: Scalar | None = None,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Let through only that part of an update whose signal beats its noise.

    .. math::

        s_t &= \rho\, s_{t-1} + (1 - \rho)\, n_t \\
        q_t &= \phi + (1 - \phi)\, \mathrm{gate}\!\left(
            \sum\nolimits_k \hat m_t^2,\; \sum\nolimits_k \hat s_t\right) \\
        u_t &= q_t \cdot \mathrm{inner}(g_t)

    with :math:`\hat m` the bias-corrected momentum of the gradient, :math:`\hat s` the
    bias-corrected noise and the sums over the block of a parameter. What :math:`n_t` is depends
    on ``noise``:

    ============= =============================================== ==============================
    noise         :math:`n_t`                                     signal
    ============= =============================================== ==============================
    exact         :math:`\sigma^2/(b-1)` of this batch            momentum squared
    streaming     :math:`(g_t - m_{t-1})^2`                       momentum squared
    instantaneous :math:`\sigma^2/(b-1)` of this batch, not       mean gradient of this batch
                  averaged                                        squared
    auto          exact where ``sum_sq_diff_grads`` is given, else streaming
    ============= ==============================================================================

    Args:
        inner: the transformation whose update is gated. Its momentum is read where the first
            thing it does is Adam's or Lion's (``optax.scale_by_adam``, ``optax.adamw``, ...);
            otherwise the gate keeps a momentum of its own. The gate compares with the gradients
            *it* is given: what rescales them, clipping say, belongs inside ``inner``.
        gate: "hard", "soft" or "snr"; see :mod:`snrgate.gate`.
        alpha: threshold on signal / noise. Give either ``alpha`` or ``z``.
        z: threshold in standard deviations of what pure noise does, ``alpha = z**2 * level`` with
            :func:`snrgate.gate.null_level`; the same for every ``b1``. Default 1.
        noise: "auto", "exact", "streaming" or "instantaneous".
        noise_decay: :math:`\rho`, decay of the running noise, in [0, 1).
        softness: :math:`\lambda` of the soft and snr gates; ``None`` is the threshold itself.
        floor: :math:`\phi`, how far the gate stays open where there is no signal, in [0, 1]: for
            what has to be learned by heart before it is understood, among wrong answers, with
            decay outside the gate. Noise gets through at that rate.
        block: what shares one gate: "parameter", "unit" (everything that feeds one output unit),
            "tensor", or ``(path, shape) -> axes``; see :func:`snrgate.block.block_axes`.
        dataset_size: examples in a finite data set, for the threshold of ``z``; ``None`` for
            fresh data. With streaming noise pass ``sample_size=`` to ``update`` besides.
        warmup_steps: first steps with an open gate.
        b1: decay of the gate's own momentum where ``inner`` keeps none, default 0.9.
        mask: tree of booleans like the parameters (or a prefix, or a function of the parameters);
            ``False`` leaves a parameter ungated.

    Returns:
        An optax transformation. ``update`` takes ``sum_sq_diff_grads=`` and ``sample_size=``
        (``moments.extra_args()``) for exact noise, passes every extra argument on to ``inner``,
        and keeps the dtypes of the updates. Its state is a :class:`SnrGateState`.

    Raises:
        ValueError: unknown ``gate``, ``noise`` or ``block``; both ``alpha`` and ``z``; a number
            out of range; ``sum_sq_diff_grads`` missing or of a wrong shape; a batch of one
            example; use inside ``optax.MultiSteps`` with exact noise.
        TypeError: a parameter that is not a real floating-point array.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, snrgate
        >>> tx = optax.chain(snrgate.snr_gate(optax.scale_by_lion()),
        ...                  optax.scale_by_learning_rate(1e-2))
        >>> params = {"w": jnp.ones(3)}
        >>> state = tx.init(params)
        >>> updates, state = tx.update({"w": jnp.array([1.0, -2.0, 3.0])}, state, params)
        >>> params = optax.apply_updates(params, updates)

    Source: Litman & Guo, arXiv 2605.01172. With ``noise="streaming"``, ``block="parameter"``,
    ``alpha=1`` and Adam inside it is Algorithm 1; exact noise, blocks and the null level are
    this package's.
    """
    check_settings(
        gate=gate,
        alpha=alpha,
        z=z,
        noise=noise,
        noise_decay=noise_decay,
        softness=softness,
        floor=floor,
        block=block,
        dataset_size=dataset_size,
        warmup_steps=warmup_steps,
        b1=b1,
    )
    inner = optax.with_extra_args_support(inner)
    averaged = noise != "instantaneous"

    def init_fn(params: PyTree) -> SnrGateState:
        check_floating(flatten(params), "parameter")
        gated = select(params, mask)
        inner_state = inner.init(params)
        shared = inner_momentum(inner_state) is not None
        if shared and b1 is not None:
            raise ValueError(
                "b1 is the decay of the gate's own momentum, but the inner transformation keeps "
                "one already; set the decay there and leave b1 out"
            )
        return SnrGateState(
            count=jnp.zeros((), jnp.int32),
            noise=_zeros(gated, params, block) if averaged else (),
            momentum=_zeros(gated, params, "parameter") if averaged and not shared else (),
            gate_fraction=jnp.ones((), jnp.float32),
            gate_fractions=jnp.ones(len(gated.chosen), jnp.float32),
            inner_state=inner_state,
        )

    def open_gate(
        kind: str, momentum: Array, noise: Array, axes: tuple[int, ...], level: Scalar
    ) -> Array:
        signal_sq = pool(jnp.square(momentum.astype(noise.dtype)), axes)
        # At the first step streaming noise and squared signal are one number: rounding must not
        # open the gate.
        tie = 8 * jnp.finfo(noise.dtype).eps if kind == "streaming" else 0
        lam = level if softness is None else softness
        value = GATES[gate](signal_sq, noise, level * (1 + tie), lam)
        return jnp.asarray(floor + (1 - floor) * value, value.dtype)

    def update_fn(
        updates: PyTree,
        state: SnrGateState,
        params: PyTree | None = None,
        *,
        sum_sq_diff_grads: PyTree | None = None,
        sample_size: Scalar | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, SnrGateState]:
        kind = noise
        if noise == "auto":
            kind = "streaming" if sum_sq_diff_grads is None else "exact"
        check_statistics(
            kind, sum_sq_diff_grads, sample_size, dataset_size if alpha is None else None
        )
        check_shapes(flatten(updates), params)
        statistics = {"sum_sq_diff_grads": sum_sq_diff_grads, "sample_size": sample_size}
        extra_args |= {name: x for name, x in statistics.items() if x is not None}

        # Moments are float32 where the parameters have 16 bits; Adam's state must not become so.
        narrow = updates if params is None else optax.tree.cast_like(updates, params)
        new_updates, inner_state = inner.update(narrow, state.inner_state, params, **extra_args)
        count = jnp.asarray(optax.safe_increment(state.count))

        # From here on: lists over the gated leaves.
        gated = select(updates, mask, params)
        grads = [g.astype(accumulator_dtype(g.dtype)) for g in gated.pick(updates, "updates")]
        axes = [
            block_axes(block, path, g.shape) for path, g in zip(gated.paths, grads, strict=True)
        ]

        own: list[Array] = []
        decay: Scalar = 0.0
        previous = momentum = grads
        if averaged and (shared := inner_momentum(state.inner_state)) is not None:
            decay = measured_decay(inner, updates, **extra_args)
            previous = gated.pick(shared, "the inner momentum")
            momentum = gated.pick(inner_momentum(inner_state), "the inner momentum")
        elif averaged:
            decay = _B1 if b1 is None else b1
            previous = gated.pick(state.momentum, "state.momentum")
            own = momentum = _average(previous, grads, decay)

        if kind == "streaming":
            noises = [
                pool(jnp.square(g - m), a) for g, m, a in zip(grads, previous, axes, strict=True)
            ]
        else:
            noises = _exact_noise(gated, grads, axes, sum_sq_diff_grads, sample_size)
        # Statistics that overflow must not shut a gate for good: their blocks sit out this step.
        finite = [jnp.isfinite(s) for s in noises]
        running: list[Array] = []
        if averaged:
            before = gated.pick(state.noise, "state.noise")
            running = [
                jnp.where(ok, new, old)
                for ok, new, old in zip(
                    finite, _average(before, noises, noise_decay), before, strict=True
                )
            ]
            noises = optax.tree.bias_correction(running, noise_decay, count)
            momentum = optax.tree.bias_correction(momentum, decay, count)

        level = alpha
        if level is None:
            level = null_level(kind, decay, count, sample_size, dataset_size)
            level = level if z is None else jnp.square(z) * level
        values = [
            jnp.where(ok, jnp.where(count <= warmup_steps, 1, open_gate(kind, m, s, a, level)), 0)
            for m, s, a, ok in zip(momentum, noises, axes, finite, strict=True)
        ]
        through = [
            (u * q).astype(u.dtype)
            for u, q in zip(gated.pick(new_updates, "the inner update"), values, strict=True)
        ]
        fractions, overall = _fractions(values, grads, gated)
        return gated.put(through, new_updates), SnrGateState(
            count=count,
            noise=gated.put(running) if averaged else (),
            momentum=gated.put(own) if own else state.momentum,
            gate_fraction=overall,
            gate_fractions=fractions,
            inner_state=inner_state,
        )

    # pyrefly: ignore [bad-argument-type]  the extra arguments that update_fn names are optional
    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _exact_noise(
    gated: Selection,
    grads: list[Array],
    axes: list[tuple[int, ...]],
    sum_sq_diff_grads: PyTree,
    sample_size: Scalar | None,
) -> list[Array]:
    """The variance of the batch mean in every block, from the batch's own examples."""
    assert sample_size is not None  # check_statistics
    sums = gated.pick(sum_sq_diff_grads, "sum_sq_diff_grads")
    return [
        noise_of_mean(g, pooled_sums(path, ssd, g, a), sample_size)
        for path, ssd, g, a in zip(gated.paths, sums, grads, axes, strict=True)
    ]


def _average(old: list[Array], new: list[Array], decay: Scalar) -> list[Array]:
    """One step of an exponential moving average, in the dtype of the average."""
    return [
        jnp.asarray(decay * a + (1 - decay) * x, a.dtype) for a, x in zip(old, new, strict=True)
    ]


def _zeros(gated: Selection, params: PyTree, block: Block) -> PyTree:
    """A zero for every block of the gated parameters, float32 or wider."""
    return gated.put(
        [
            # Made of the parameter, so that it is sharded as the parameter is.
            pool(jnp.zeros_like(p, accumulator_dtype(p.dtype)), block_axes(block, path, p.shape))
            for path, p in zip(gated.paths, gated.pick(params, "params"), strict=True)
        ]
    )


def _fractions(
    values: list[Array], grads: list[Array], gated: Selection
) -> tuple[Float[Array, " leaves"], Float[Array, ""]]:
    """The mean gate of every leaf (1 where ungated), and of all gated parameters together."""
    per_leaf = jnp.ones(len(gated.chosen), jnp.float32)
    if not values:
        return per_leaf, jnp.ones((), jnp.float32)
    means = jnp.stack([jnp.mean(q).astype(jnp.float32) for q in values])
    sizes = np.array([g.size for g in grads], np.float32)
    return per_leaf.at[np.flatnonzero(gated.chosen)].set(means), means @ (sizes / sizes.sum())
