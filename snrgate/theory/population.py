r"""Population risk from one training run, without validation data.

A step :math:`\Delta w` changes the population risk by :math:`\nabla R \cdot \Delta w` to first
order. The gradient :math:`\mu` of the batch that made the step overstates this: a part of its
product with the step is what every example does to its own loss. That part is

.. math:: \sum_k \frac{\partial \Delta w_k}{\partial \mu_k}\, \frac{\sigma_k^2}{b - 1} ,

and is left out. The answer of the step to the gradient is that of the optimizer itself, so
momentum, second moment and gate enter as far as this batch moves them. For ``-eta * p * mu`` the
estimate is the paper's :math:`-\eta \sum_k p_k (\mu_k^2 - \sigma_k^2 / (b - 1))`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Float, Int, PyTree, Scalar
from snrgate.measure import are_measured
from snrgate.moments.kronecker import SideSums, trace
from snrgate.moments.statistics import noise_of_mean, pool_like
from snrgate.settings import known
from snrgate.theory.running import check_followed, running_sum, second_decay, shifted, step_of_sum
from snrgate.trees import flatten

__all__ = ["MonitorState", "PopulationRisk", "monitored", "population_risk"]

_BAND = 1.96  # deviations on either side that hold 95 % of a normal distribution
_LOSS_DECAY = 0.95  # of the running loss
_APART = 0.5  # deviations of the noise on either side at which an update is compared


class MonitorState(NamedTuple):
    """What the monitor remembers. All numbers but the update are scalars, in units of the loss.

    Attributes:
        inner_state: of the optimizer.
        count: number of steps.
        update: the last step.
        batch: change of the batches' own losses so far.
        change: change of the population risk so far, up to half of the last step.
        gap: what the steps so far have done to the training set beyond the population.
        half: half of the last step's change, which the next batch completes.
        own: what the last measured batch did to its own loss, and all steps to the data set.
        last: the last addition to ``change``.
        squares: sums of squared differences between neighbours, of the changes and of the losses.
        loss: running mean of the losses, not bias-corrected.
        previous: loss of the last batch.
        decay: decays of the optimizer's momentum and second moment, as they were last seen.
        weight: sums of the weights of all gradients in the momentum and in the second moment.
    """

    inner_state: optax.OptState
    count: Int[Array, ""]
    update: PyTree
    batch: Float[Array, ""]
    change: Float[Array, ""]
    gap: Float[Array, ""]
    half: Float[Array, ""]
    own: Float[Array, "2"]
    last: Float[Array, ""]
    squares: Float[Array, "2"]
    loss: Float[Array, ""]
    previous: Float[Array, ""]
    decay: Float[Array, "2"]
    weight: Float[Array, "2"]


class PopulationRisk(NamedTuple):
    """The risk of a run, in units of the loss.

    Attributes:
        training: running mean of the losses of the batches; NaN where no ``value`` is given.
        population: ``training + gap``, the risk on examples that nobody has seen.
        gap: what has been learned of the training set and not of the population. It is 0 where
            every batch is fresh.
        band: half the width of a 95 % interval of ``population``. It has the noise of the batches
            in it, and no bias.
        change: change of the population risk since the start, of first order with the gradients of
            both ends of each step.
        change_band: half the width of a 95 % interval of ``change``.
        batch_change: what ``change`` is if no example is left out. It is too optimistic.
    """

    training: Float[Array, ""]
    population: Float[Array, ""]
    gap: Float[Array, ""]
    band: Float[Array, ""]
    change: Float[Array, ""]
    change_band: Float[Array, ""]
    batch_change: Float[Array, ""]


def monitored(
    tx: optax.GradientTransformation, *, dataset_size: Scalar | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that estimates the population risk on the way.

    Its updates are those of ``tx``. ``update`` takes the moments of the batch and, as ``value``,
    its loss::

        updates, state = tx.update(moments.mean, state, params, value=loss, **moments.extra_args())
        risk = theory.population_risk(state)

    A change is half the step times the gradient at its beginning, without what the batch does to
    itself, and half the step times the gradient of the next batch. This is exact for a quadratic
    risk and unbiased on fresh batches.

    Where ``n`` examples come back in batches of ``b``, all gradients share the chance part of the
    data set, whose variance is :math:`b/n` of that of a batch mean. All gradients that the
    momentum holds then enter the correction with the share :math:`b/n`, and this batch with the
    rest. Without momentum and with batches drawn anew this is the paper's :math:`b/(n-b)` to first
    order. It does not know what earlier passes over the data have done to the parameters. It then
    overstates the gap, several times over in runs of many passes (the page on the theory has
    numbers).

    It costs the memory of one update, and two further updates of ``tx`` at every step, or four
    where the data set is finite.

    Args:
        tx: the whole optimizer, with its learning rate. Its momentum, if it has one, must be a
            plain average or sum of the gradients as they come (``optax.sgd``, ``optax.adam``, a
            gate around them; also within ``optax.inject_hyperparams``).
        dataset_size: number of different examples; by default every batch is fresh.

    Returns:
        An optax transformation with the state :class:`MonitorState`. Pooled moments are shared
        out over their block by the squared gradient.

    Raises:
        ValueError: ``dataset_size`` below 2; moments are missing; on ``init``, an optimizer whose
            momentum cannot be followed, because something stands before it or around it.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax, snrgate
        >>> from snrgate import theory
        >>> def loss_fn(w, x):
        ...     return (w - x) ** 2 / 2
        >>> tx = theory.monitored(optax.sgd(0.5))
        >>> w, batch = jnp.array(1.0), jnp.array([-1.0, 1.0])
        >>> loss, moments = snrgate.value_and_moments(loss_fn)(w, batch)
        >>> updates, state = tx.update(
        ...     moments.mean, tx.init(w), w, value=loss, **moments.extra_args())
        >>> risk = theory.population_risk(state)
        >>> print(updates, risk.training.round(3), risk.gap)
        -0.5 1.0 0.0

    Source: Litman & Guo, arXiv 2605.01172, the population-risk objective. For normal batch means
    an exact derivative would be right for every optimizer (Stein's lemma).
    """
    if dataset_size is not None and known(dataset_size) and not dataset_size >= 2:
        raise ValueError(f"dataset_size = {dataset_size} must be at least 2, or None")
    size = math.inf if dataset_size is None else dataset_size
    inner = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> MonitorState:
        zero, pair = jnp.zeros((), jnp.float32), jnp.zeros(2, jnp.float32)
        inner_state = inner.init(params)
        check_followed(inner, inner_state, params)
        return MonitorState(
            inner_state=inner_state,
            count=jnp.zeros((), jnp.int32),
            update=jax.tree.map(jnp.zeros_like, params),
            batch=zero,
            change=zero,
            gap=zero,
            half=zero,
            own=pair,
            last=zero,
            squares=pair,
            loss=zero,
            previous=zero,
            decay=pair,
            weight=pair,
        )

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, optax.OptState]:
        sums, examples = extra.get("sum_sq_diff_grads"), extra.get("sample_size")
        if sums is None or examples is None:
            raise ValueError(
                "the population risk needs the moments of the batch; call "
                "update(moments.mean, state, params, value=loss, **moments.extra_args())"
            )
        assert isinstance(state, MonitorState)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra)
        at = state.inner_state, inner_state, updates
        first, share, _ = step_of_sum(*at, state.decay[0])
        second = second_decay(*at, state.decay[1])
        decay, share = jnp.stack([first, second]), jnp.stack([share, 1 - second])
        own = _left_out(inner, updates, state, params, extra, dataset_size is not None)
        own = jnp.where(are_measured(sums) & jnp.all(jnp.isfinite(own)), own, state.own)
        value = jnp.asarray(extra.get("value", jnp.nan), jnp.float32)
        now = state._replace(
            inner_state=inner_state,
            update=step,
            own=own,
            decay=decay,
            weight=decay * state.weight + share,
        )
        new = _added(state, now, updates, jnp.minimum(examples / size, 1), value)
        # Statistics may be wider than the state, which a scan carries on as it is.
        names = set(MonitorState._fields) - {"inner_state", "count", "update"}
        kept = {n: jnp.asarray(getattr(new, n), getattr(state, n).dtype) for n in sorted(names)}
        return step, new._replace(**kept)

    return optax.GradientTransformationExtraArgs(init, update)


def _left_out(
    inner: optax.GradientTransformationExtraArgs,
    grads: PyTree,
    state: MonitorState,
    params: PyTree,
    extra: dict[str, Any],
    finite: bool,
) -> Float[Array, "2"]:
    """What the noise of the gradient adds to the product of gradient and update.

    The first number is for the noise of this gradient, the second one for the same noise in all
    gradients that the momentum holds. The answer of each number of the update to its own gradient
    is a difference between two gradients on both sides, half a deviation of the noise away, with
    a random sign for each number. It is exact for updates that are linear in the gradient.
    """
    sums = extra["sum_sq_diff_grads"]
    noise = _shared_out(grads, sums, extra["sample_size"])
    key = jax.random.fold_in(jax.random.key(0), state.count)
    keys = optax.tree.split_key_like(key, grads)
    apart = jax.tree.map(
        lambda k, n: _APART * jnp.sqrt(n) * jax.random.rademacher(k, n.shape, n.dtype), keys, noise
    )
    # A gradient that is moved is not the mean of the moments, so copies without a record are given.
    copied = extra | {"sum_sq_diff_grads": jax.tree.map(lambda s: 1 * s, sums)}

    def along(everywhere: bool) -> Array:
        """The sum over all numbers, where this gradient moves, or every gradient there has been."""

        def moved(sign: int) -> PyTree:
            at, by = state.inner_state, jax.tree.map(lambda a: sign * a, apart)
            if everywhere and running_sum(at) is not None:
                at = shifted(at, by, state.weight)
            return inner.update(optax.tree.add(grads, by), at, params, **copied)[0]

        return _inner(apart, optax.tree.sub(moved(1), moved(-1))) / (2 * _APART**2)

    own = along(False)
    return jnp.stack([own, along(True) if finite else own])


def _shared_out(grads: PyTree, sums: PyTree, examples: Scalar) -> PyTree:
    """The noise of each number. That of a block is shared out by the squared gradient."""

    def of_leaf(g: Array, of_examples: Any) -> Array:
        noise = noise_of_mean(g, of_examples, examples)
        if isinstance(noise, SideSums):  # the whole tensor is one block
            noise = trace(noise).reshape([1] * g.ndim)
        noise = jnp.maximum(noise, 0)  # where the sums were left out a negative number stands
        if noise.shape == g.shape:
            return noise
        squares = jnp.square(g)
        whole = pool_like(squares, noise)
        return squares * (noise / jnp.where(whole > 0, whole, 1))

    leaves = flatten(grads)
    given = leaves.match(sums, "sum_sq_diff_grads")
    return leaves.unflatten([of_leaf(g, s) for g, s in zip(leaves.values, given, strict=True)])


def _added(
    state: MonitorState, now: MonitorState, grads: PyTree, share: Scalar, value: Array
) -> MonitorState:
    """The sums of the monitor after a step, whose batch is a share of the data set."""
    first = state.count == 0
    ahead = _inner(grads, now.update)
    behind = _inner(grads, state.update)
    of_batch, of_all = now.own
    half = (ahead - (1 - share) * of_batch - 2 * share * of_all) / 2
    added = half + behind / 2
    difference = jnp.where(first, 0, jnp.square(added - state.last) / 2)
    apart = jnp.where(first, 0, jnp.square(value - state.previous) / 2)
    lost = _LOSS_DECAY * state.squares[1] + (1 - _LOSS_DECAY) * apart
    return now._replace(
        count=state.count + 1,
        batch=state.batch + ahead,
        change=state.change + state.half + behind / 2,
        gap=state.gap - share * of_all,
        half=half,
        last=added,
        squares=jnp.stack([state.squares[0] + difference, lost]),
        loss=_LOSS_DECAY * state.loss + (1 - _LOSS_DECAY) * value,
        previous=value,
    )


def _inner(a: PyTree, b: PyTree) -> Float[Array, ""]:
    """The inner product of two trees."""
    return jnp.asarray(optax.tree.vdot(a, b), jnp.float32)


def population_risk(state: optax.OptState) -> PopulationRisk:
    """The risk of a run so far.

    Args:
        state: state of an optimizer with a :func:`monitored` one in it.

    Returns:
        The estimates, float32 scalars.

    Raises:
        ValueError: the state has no monitor in it.

    Example:
        >>> import optax, jax.numpy as jnp
        >>> from snrgate import theory
        >>> state = theory.monitored(optax.sgd(0.1)).init(jnp.zeros(2))
        >>> print(theory.population_risk(state).gap)
        0.0
    """
    monitor = optax.tree.get(state, "MonitorState")
    if monitor is None:
        raise ValueError("the state has no monitor; train with theory.monitored(tx)")
    seen = 1 - _LOSS_DECAY**monitor.count
    training = jnp.where(monitor.count > 0, monitor.loss / jnp.where(seen > 0, seen, 1), jnp.nan)
    # The variance of a running mean, and that of what one batch shows of the changes.
    spread = (1 - _LOSS_DECAY) / (1 + _LOSS_DECAY) * (2 - seen) / jnp.where(seen > 0, seen, 1)
    variance = monitor.squares[1] / jnp.where(seen > 0, seen, 1)
    return PopulationRisk(
        training=training,
        population=training + monitor.gap,
        gap=monitor.gap,
        band=_BAND * jnp.sqrt(variance * spread),
        change=monitor.change,
        change_band=_BAND * jnp.sqrt(monitor.squares[0]),
        batch_change=monitor.batch,
    )
