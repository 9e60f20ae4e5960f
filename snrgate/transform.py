"""The gate around an optax transformation: measure, remember, open, apply."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snrgate.annotations import Array, PyTree, Scalar
from snrgate.apply import apply_gates, fractions, open_gates
from snrgate.block import Block
from snrgate.checks import (
    check_kernels,
    check_origin,
    check_shapes,
    check_state,
    check_statistics,
    microbatches,
)
from snrgate.evidence import Reading, read
from snrgate.gate import GateRule
from snrgate.kernel import Kernel
from snrgate.measure import Given, Step
from snrgate.memory import Memory
from snrgate.moments.statistics import accumulator_dtype
from snrgate.momentum import inner_momentum, is_plain_average
from snrgate.observe import Seen, observe
from snrgate.settings import Settings, check_ranges, exact_defaults
from snrgate.state import SnrGateState, of_jax
from snrgate.trees import Selection, check_floating, flatten, select

__all__ = ["Gated", "snr_gate"]

_B1 = 0.9  # decay of the gate's own momentum, where the inner transformation keeps none


@exact_defaults
def snr_gate(
    inner: optax.GradientTransformation,
    *,
    gate: str | GateRule = "soft",
    alpha: Scalar | None = None,
    z: Scalar | None = None,
    noise: str = "auto",
    noise_decay: Scalar = 0.99,
    signal_decay: Scalar | None = None,
    fitted: Scalar | None = None,
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

        s_t &= \rho\, s_{t-1} + (1 - \rho) \sum\nolimits_k n_t \,/\, c_t \\
        S_t &= \rho_S\, S_{t-1} + (1 - \rho_S) \sum\nolimits_k \hat m_t^2 \,/\, u_t \\
        q_t &= \phi + (1 - \phi)\, \mathrm{gate}(\hat S_t,\; \hat s_t) \\
        u_t &= q_t \cdot \mathrm{inner}(g_t)

    with hats for bias correction, :math:`\hat m` the momentum of the gradient and the sums over
    the block of a parameter. The units :math:`u_t, c_t` are what the variance of one example's
    gradient is multiplied by in pure noise (:mod:`snrgate.spread`), so that batches may change
    their size; they are 1 where the threshold is given as ``alpha``. What :math:`n_t` is depends
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
        gate: "hard", "soft" or "snr", see :mod:`snrgate.gate`, or a function ``(signal, noise,
            threshold, softness) -> gate`` of that kind.
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
            :math:`1 - (1 - \varphi)^2` of it. It matters with ``z`` and ``dataset_size``. ``None``
            is 0.2, and 0 with ``block="kronecker"``.
        softness: :math:`\lambda` of the soft and snr gates on signal / noise. ``None`` is the
            threshold; for the soft gate with ``z``, averaged noise and ``dataset_size`` only that
            part of it which no number of batches averages out, so that (with ``fitted`` 0) what
            gets through is the population's share of the training set's gradient. Where every
            batch is fresh that part is 0 and the gate a hard one at the mean of pure noise.
        floor: :math:`\phi`, how far the gate stays open where there is no signal, in [0, 1]: for
            what has to be learned by heart before it is understood, among wrong answers, with
            decay outside the gate. Noise gets through at that rate.
        block: what shares one gate: "parameter", "unit" (everything that feeds one output unit),
            "tensor", "kronecker" (evidence by the rows and columns of a kernel, in the better one
            of two bases, :mod:`snrgate.kronecker`), ``(path, shape) -> axes`` (see
            :func:`snrgate.block.block_axes`), or the moments of a batch, or their shapes, which
            are pooled by the blocks that are meant:
            ``jax.eval_shape(grad_fn, params, batch)[1]``. Where neither the moments nor the
            name of a parameter tell "unit" which axis faces the output, the evidence of every
            axis is taken (:class:`snrgate.evidence.Sided`).
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
    check_ranges(b1=b1)
    settings = Settings(
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
    )
    return Gated(inner=inner, settings=settings, mask=mask, b1=b1).transformation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gated:
    """The transformation of :func:`snr_gate`: measure, remember, open, apply.

    Attributes:
        inner: the transformation whose update is gated.
        settings: of the gate.
        mask: which parameters are gated.
        b1: decay of the gate's own momentum, where ``inner`` keeps none.
        inner_b1: decay of the momentum of ``inner``, where the caller knows it; otherwise it is
            seen from how that momentum moves.
        divides: whether ``inner`` returns the momentum of kernels, to be divided by the root mean
            square of their gradient in the eigenvectors of its noise.
    """

    inner: optax.GradientTransformation
    settings: Settings
    mask: PyTree | Callable[[PyTree], PyTree] | None = None
    b1: Scalar | None = None
    inner_b1: Scalar | None = None
    divides: bool = False

    @property
    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The gate as optax has it."""
        # pyrefly: ignore [bad-argument-type]  the extra arguments of update are optional
        return optax.GradientTransformationExtraArgs(self.init, self.update)

    def init(self, params: PyTree) -> SnrGateState:
        """The state before the first step."""
        check_floating(flatten(params), "parameter")
        chosen = select(params, self.mask, params)
        inner_state = self.inner.init(params)
        shared = inner_momentum(inner_state, params) is not None
        shared = shared and is_plain_average(self.inner, inner_state, params)
        if shared and self.b1 is not None:
            raise ValueError(
                "b1 is the decay of the gate's own momentum, but the inner transformation keeps "
                "one already; set the decay there and leave b1 out"
            )
        readings, gated = self._readings(chosen, params)
        check_kernels(self.settings, readings)

        def zeros() -> PyTree:  # arrays of its own at each call, so that a state can be donated
            return chosen.put([r.zeros(p) for r, p in zip(readings, gated, strict=True)])

        averaged, leaves = self.settings.averaged, len(chosen.chosen)
        wide = jnp.result_type(float)
        first_decay = _B1 if self.b1 is None else self.b1
        return SnrGateState(
            count=jnp.zeros((), jnp.int32),
            noise=zeros() if averaged else (),
            signal=zeros() if self.settings.remembers else (),
            momentum=_zero_momentum(chosen, params) if averaged and not shared else (),
            momentum_decay=jnp.asarray(first_decay, wide),
            spread=jnp.zeros(leaves, wide),
            age=jnp.zeros(leaves, jnp.int32),
            skipped_steps=jnp.zeros(leaves, jnp.int32),
            views=chosen.put(_first_views(readings, gated)) if self._looks(readings) else (),
            gate_fraction=jnp.ones((), jnp.float32),
            gate_fractions=jnp.ones(leaves, jnp.float32),
            inner_state=inner_state,
        )

    def update(
        self,
        updates: PyTree,
        state: SnrGateState,
        params: PyTree | None = None,
        *,
        sum_sq_diff_grads: PyTree | None = None,
        sample_size: Scalar | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, SnrGateState]:
        """One step."""
        settings, kind = self.settings, self.settings.kind(sum_sq_diff_grads)
        state = of_jax(state)
        self._check(kind, updates, params, sum_sq_diff_grads, sample_size)
        statistics = {"sum_sq_diff_grads": sum_sq_diff_grads, "sample_size": sample_size}
        extra_args |= {name: x for name, x in statistics.items() if x is not None}

        # Moments are float32 where the parameters have 16 bits; Adam's state must not become so.
        narrow = updates if params is None else optax.tree.cast_like(updates, params)
        new_updates, inner_state = optax.with_extra_args_support(self.inner).update(
            narrow, state.inner_state, params, **extra_args
        )

        chosen = select(updates, self.mask, params)
        readings, _ = self._readings(chosen, updates)
        check_state(settings, chosen, readings, state)
        given = self._given(
            kind, chosen, updates, state, inner_state, sum_sq_diff_grads, sample_size
        )
        step, seen = observe(settings, readings, given, *self._kept(readings, chosen, state))
        rules = settings.rules(kind, step.units, [isinstance(r, Kernel) for r in readings])
        gates = open_gates(settings, readings, rules, given.count, step.finite, seen)
        passed = chosen.pick(new_updates, "the inner update")
        through = apply_gates(readings, passed, gates, step.finite, seen)
        new_state = self._next(chosen, readings, state, inner_state, given.count, step, seen, gates)
        return chosen.put(through, new_updates), new_state

    def _check(
        self,
        kind: str,
        updates: PyTree,
        params: PyTree | None,
        sum_sq_diff_grads: PyTree | None,
        sample_size: Scalar | None,
    ) -> None:
        """Refuse what cannot be right, before anything is done."""
        size_matters = self.settings.alpha is None
        dataset_size = self.settings.dataset_size if size_matters else None
        leaves = flatten(updates)
        check_statistics(kind, sum_sq_diff_grads, sample_size, dataset_size)
        check_origin(leaves, sum_sq_diff_grads, self.settings.noise)
        check_shapes(leaves, params)

    def _readings(self, chosen: Selection, params: PyTree) -> tuple[list[Reading], list[Array]]:
        """How each gated leaf sums its evidence, and the leaves."""
        leaves = [jnp.asarray(p) for p in chosen.pick(params, "params")]
        shapes = zip(chosen.paths, leaves, strict=True)
        found = [read(self.settings.block, path, p.shape) for path, p in shapes]
        if self.divides:
            found = [r._replace(divides=True) if isinstance(r, Kernel) else r for r in found]
        return found, leaves

    def steps(self, of_kernels: str, of_others: str, params: PyTree) -> PyTree:
        """A label for every parameter, by whether it is a gated kernel with two sides."""
        chosen = select(params, self.mask, params)
        found, _ = self._readings(chosen, params)
        labels = [of_kernels if isinstance(r, Kernel) else of_others for r in found]
        return chosen.put(labels, jax.tree.map(lambda _: of_others, params))

    def _looks(self, readings: list[Reading]) -> bool:
        """Whether the gate looks at kernels, or would if there were any."""
        return self.settings.looks or any(isinstance(r, Kernel) for r in readings)

    def _kept(
        self, readings: list[Reading], chosen: Selection, state: SnrGateState
    ) -> tuple[Memory, list[Any]]:
        """The running averages and the views of the state, as lists over the gated leaves."""
        noise, signal = (
            chosen.pick(getattr(state, name), f"state.{name}") if on else []
            for name, on in (("noise", self.settings.averaged), ("signal", self.settings.remembers))
        )
        memory = Memory(noise, signal, state.age[np.flatnonzero(chosen.chosen)])
        looks = self._looks(readings)
        return memory, chosen.pick(state.views, "state.views") if looks else [()] * len(readings)

    def _given(
        self,
        kind: str,
        chosen: Selection,
        updates: PyTree,
        state: SnrGateState,
        inner_state: optax.OptState,
        sum_sq_diff_grads: PyTree | None,
        sample_size: Scalar | None,
    ) -> Given:
        """What the update is given, as lists over the gated leaves."""
        picked = [jnp.asarray(g) for g in chosen.pick(updates, "updates")]
        places = np.flatnonzero(chosen.chosen)
        own = inner = sums = None
        averaged = self.settings.averaged
        is_shared = isinstance(state.momentum, tuple) and not state.momentum
        if averaged and is_shared:
            both = (inner_momentum(s, updates) for s in (state.inner_state, inner_state))
            trees = jax.tree.map(jnp.asarray, tuple(both))
            before, now = (chosen.pick(m, "the inner momentum") for m in trees)
            inner = before, now
        elif averaged:
            own = chosen.pick(state.momentum, "state.momentum")
        if kind != "streaming":
            sums = chosen.pick(sum_sq_diff_grads, "sum_sq_diff_grads")
        return Given(
            kind=kind,
            grads=[g.astype(accumulator_dtype(g.dtype)) for g in picked],
            sums=sums,
            sample_size=None if sample_size is None else sample_size * microbatches(),
            own=own,
            inner=inner,
            decay=self.inner_b1 if own is None else self.b1,
            last_decay=state.momentum_decay,
            count=jnp.asarray(optax.safe_increment(state.count)),
            spread=state.spread[places],
            skipped=state.skipped_steps[places],
        )

    def _next(
        self,
        chosen: Selection,
        readings: list[Reading],
        state: SnrGateState,
        inner_state: optax.OptState,
        count: Array,
        step: Step,
        seen: Seen,
        gates: list[Array],
    ) -> SnrGateState:
        """The state after the step."""
        places = np.flatnonzero(chosen.chosen)
        per_leaf, overall = fractions(gates, chosen)
        return SnrGateState(
            count=count,
            noise=chosen.put(seen.memory.noise) if self.settings.averaged else (),
            signal=chosen.put(seen.memory.signal) if self.settings.remembers else (),
            momentum=state.momentum if step.momentum is None else chosen.put(step.momentum),
            momentum_decay=jnp.asarray(step.decay, state.momentum_decay.dtype),
            spread=state.spread.at[places].set(step.spread),
            age=state.age.at[places].set(seen.memory.age),
            skipped_steps=state.skipped_steps.at[places].set(step.skipped),
            views=chosen.put(seen.views) if self._looks(readings) else (),
            gate_fraction=overall,
            gate_fractions=per_leaf,
            inner_state=inner_state,
        )


def _first_views(readings: list[Reading], params: list[Array]) -> list[Array]:
    """The view of every kernel before the first step; a zero for other leaves."""
    return [
        reading.first_view(p.dtype) if isinstance(reading, Kernel) else jnp.zeros(1)
        for reading, p in zip(readings, params, strict=True)
    ]


def _zero_momentum(chosen: Selection, params: PyTree) -> PyTree:
    """A zero for every gated parameter, float32 or wider, sharded as the parameter is."""
    leaves = [jnp.asarray(p) for p in chosen.pick(params, "params")]
    return chosen.put([jnp.zeros_like(p, accumulator_dtype(p.dtype)) for p in leaves])
