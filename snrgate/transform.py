"""The gate around an optax transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from snrgate.annotations import Array, Float, Int, PyTree, Scalar
from snrgate.block import Block, block_axes
from snrgate.checks import check_settings, check_shapes, check_statistics, pooled_sums
from snrgate.gate import GATES, dataset_share, null_level, pool
from snrgate.moments.statistics import accumulator_dtype, noise_of_mean
from snrgate.momentum import inner_momentum, measured_decay
from snrgate.trees import Selection, check_floating, flatten, select

__all__ = ["SnrGateState", "snr_gate"]

_SIGNAL_DECAY = 0.98  # of the squared signal, where the threshold is z
_B1 = 0.9  # decay of the gate's own momentum, where the inner transformation keeps none


class SnrGateState(NamedTuple):
    """State of :func:`snr_gate`; read it with ``optax.tree.get(state, "gate_fraction")``.

    Attributes:
        count: steps taken, int32.
        noise: running variance of the batch mean, not bias-corrected; float32, a tree like the
            parameters with size 1 on the pooled axes. ``()`` for instantaneous noise.
        signal: running squared signal, in units of the null level, not bias-corrected; a tree
            like the noise. ``()`` where the signal of every step counts by itself.
        momentum: running mean gradient, not bias-corrected; a tree like the parameters, or ``()``
            where the inner transformation keeps it.
        gate_fraction: mean gate over all gated parameters in the last step, float32.
        gate_fractions: the same for each parameter tensor, in the order of its leaves.
        inner_state: state of the inner transformation.
    """

    count: Int[Array, ""]
    noise: PyTree
    signal: PyTree
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
    signal_decay: Scalar | None = None,
    fitted: Scalar = 0.2,
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

        s_t &= \rho\, s_{t-1} + (1 - \rho) \sum\nolimits_k n_t \\
        S_t &= \rho_S\, S_{t-1} + (1 - \rho_S) \sum\nolimits_k \hat m_t^2 \,/\, \alpha_0 \\
        q_t &= \phi + (1 - \phi)\, \mathrm{gate}(\hat S_t,\; \hat s_t) \\
        u_t &= q_t \cdot \mathrm{inner}(g_t)

    with hats for bias correction, :math:`\hat m` the momentum of the gradient, the sums over the
    block of a parameter and :math:`\alpha_0` the level that pure noise has
    (:func:`snrgate.gate.null_level`; 1 where the threshold is given as ``alpha``). What
    :math:`n_t` is depends on ``noise``:

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
        z: threshold in standard deviations of what pure noise does at one step, ``alpha = z**2 *
            level`` with :func:`snrgate.gate.null_level`, less what may be ``fitted``; the same
            for every ``b1``. Averaged over steps and a block, pure noise comes close to its mean,
            which is 1. Default 1.
        noise: "auto", "exact", "streaming" or "instantaneous".
        noise_decay: :math:`\rho`, decay of the running noise, in [0, 1).
        signal_decay: :math:`\rho_S`, decay of the running squared signal, in [0, 1). ``None`` is
            0.98 with ``z``, and 0 (every step by itself) with ``alpha``, as in Algorithm 1, and
            with instantaneous noise.
        fitted: :math:`\varphi`, share of the data set's own noise that may be fitted, in [0, 1):
            what has been fitted is missing in the gradient of the training set, which would shut
            the gate too early. Until so much is fitted, a part of pure noise gets through,
            :math:`1 - (1 - \varphi)^2` of it. It matters with ``z`` and ``dataset_size``.
        softness: :math:`\lambda` of the soft and snr gates on signal / noise. ``None`` is the
            threshold; for the soft gate with ``z``, averaged noise and ``dataset_size`` only that
            part of it which no number of batches averages out, so that (with ``fitted`` 0) what
            gets through is the population's share of the training set's gradient. Where every
            batch is fresh that part is 0 and the gate a hard one at the mean of pure noise.
        floor: :math:`\phi`, how far the gate stays open where there is no signal, in [0, 1]: for
            what has to be learned by heart before it is understood, among wrong answers, with
            decay outside the gate. Noise gets through at that rate.
        block: what shares one gate: "parameter", "unit" (everything that feeds one output unit),
            "tensor", or ``(path, shape) -> axes``; see :func:`snrgate.block.block_axes`.
        dataset_size: examples in a finite data set, for the threshold of ``z``; infinity where
            every batch is fresh; ``None`` where nothing is known: then only what differs from
            batch to batch counts as noise. With streaming noise and a finite size pass
            ``sample_size=`` to ``update`` besides.
        warmup_steps: first steps with an open gate.
        b1: decay of the gate's own momentum where ``inner`` keeps none, default 0.9.
        mask: tree of booleans like the parameters (or a prefix, or a function of the parameters);
            ``False`` leaves a parameter ungated.

    Returns:
        An optax transformation. ``update`` takes ``sum_sq_diff_grads=`` and ``sample_size=``
        (``moments.extra_args()``) for exact noise, passes every extra argument on to ``inner``,
        and keeps the dtypes of the updates. Its state is a :class:`SnrGateState`.

    Raises:
        ValueError: unknown ``gate``, ``noise`` or ``block``; ``alpha`` beside ``z`` or
            ``signal_decay``; a number out of range; ``sum_sq_diff_grads`` missing or of a wrong
            shape; a batch of one example; use inside ``optax.MultiSteps`` with exact noise.
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
        signal_decay=signal_decay,
        fitted=fitted,
        softness=softness,
        floor=floor,
        block=block,
        dataset_size=dataset_size,
        warmup_steps=warmup_steps,
        b1=b1,
    )
    inner = optax.with_extra_args_support(inner)
    averaged = noise != "instantaneous"
    if signal_decay is None:
        signal_decay = _SIGNAL_DECAY if averaged and alpha is None else 0.0
    # An array is remembered whatever its value: an injected or scheduled one may change.
    remembered = not isinstance(signal_decay, (int, float)) or signal_decay > 0

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
            signal=_zeros(gated, params, block) if remembered else (),
            momentum=_zeros(gated, params, "parameter") if averaged and not shared else (),
            gate_fraction=jnp.ones((), jnp.float32),
            gate_fractions=jnp.ones(len(gated.chosen), jnp.float32),
            inner_state=inner_state,
        )

    def thresholds(
        kind: str, decay: Scalar, count: Array, sample_size: Scalar | None
    ) -> tuple[Scalar, Scalar, Scalar]:
        """What the signal is measured in, and threshold and softness in these units."""
        if alpha is not None:
            return 1.0, alpha, alpha if softness is None else softness
        unit = null_level(kind, decay, count, sample_size, dataset_size)
        squared = 1.0 if z is None else jnp.square(z)
        if not averaged or dataset_size is None:
            threshold = soft = squared
        else:
            # A share of the examples' own noise may be fitted; of what gets through, the data
            # set's part alone is held back: that of single batches averages out.
            own = dataset_share(decay, count, sample_size, dataset_size)
            left = own * jnp.square(1 - fitted)
            threshold = squared * (1 - own + left)
            soft = squared * left if gate == "soft" else threshold
        return unit, threshold, soft if softness is None else softness / unit

    def open_gate(
        kind: str, signal_sq: Array, noise: Array, threshold: Scalar, lam: Scalar
    ) -> Array:
        # At the first step streaming noise and squared signal are one number: rounding must not
        # open the gate.
        tie = 8 * jnp.finfo(noise.dtype).eps if kind == "streaming" else 0
        value = GATES[gate](signal_sq, noise, threshold * (1 + tie), lam)
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
        unit, threshold, lam = thresholds(kind, decay, count, sample_size)
        if averaged:
            momentum = optax.tree.bias_correction(momentum, decay, count)
        signals = [
            pool(jnp.square(m.astype(s.dtype)), a) / unit
            for m, s, a in zip(momentum, noises, axes, strict=True)
        ]
        # Statistics that overflow must not shut a gate for good: their blocks sit out this step.
        finite = [jnp.isfinite(s) for s in noises]
        running: list[Array] = []
        if averaged:
            before = gated.pick(state.noise, "state.noise")
            running, noises = _running(before, noises, finite, noise_decay, count)
        evidence: list[Array] = []
        if remembered:
            before = gated.pick(state.signal, "state.signal")
            both = [ok & jnp.isfinite(x) for ok, x in zip(finite, signals, strict=True)]
            evidence, signals = _running(before, signals, both, signal_decay, count)

        values = [
            jnp.where(
                ok, jnp.where(count <= warmup_steps, 1, open_gate(kind, x, s, threshold, lam)), 0
            )
            for x, s, ok in zip(signals, noises, finite, strict=True)
        ]
        through = [
            (u * q).astype(u.dtype)
            for u, q in zip(gated.pick(new_updates, "the inner update"), values, strict=True)
        ]
        fractions, overall = _fractions(values, grads, gated)
        return gated.put(through, new_updates), SnrGateState(
            count=count,
            noise=gated.put(running) if averaged else (),
            signal=gated.put(evidence) if remembered else (),
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


def _running(
    before: list[Array], now: list[Array], finite: list[Array], decay: Scalar, count: Array
) -> tuple[list[Array], list[Array]]:
    """A running average where the new values are finite, and the same bias-corrected."""
    after = zip(finite, _average(before, now, decay), before, strict=True)
    running = [jnp.where(ok, new, old) for ok, new, old in after]
    return running, optax.tree.bias_correction(running, decay, count)


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
