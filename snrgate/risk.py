r"""Population risk of a run without held-out data, from a twin of the run.

A twin is the same training once more, with the same weights, batches and random keys, on targets
that were moved in a known way. How far the outputs follow the targets says how much of the noise
in its targets a run has fitted, and so by how much its training loss is too small.

For squared loss all targets are moved a little, :math:`y' = y + \epsilon b` with signs :math:`b`.
The degrees of freedom that the run has spent, and the generalised cross-validation, are

.. math::

    df = \frac{1}{\epsilon} \sum_i b_i\, (f'_i - f_i), \qquad
    \hat R = \frac{R_{train}}{(1 - df / n)^2}

For classes, binary targets and counts a share :math:`s` of the targets is drawn anew, from a law
:math:`p(y \mid x)` that no run has memorised. With the natural parameters :math:`\eta` (logits, or
the logarithm of the rate) and the sufficient statistic :math:`t(y)` of a target the covariance of
both is that of exchangeable pairs:

.. math::

    \hat R = R_{train} + \frac{1}{n} \sum_i \operatorname{cov}(t_i, \eta_i), \qquad
    \operatorname{cov}(t_i, \eta_i) \approx
        \frac{1}{2 s} \langle t'_i - t_i,\, \eta'_i - \eta_i \rangle

Such a change is as large as the noise itself. Small changes of a label do not show what a network
does with a wrong one, because its logits are far from linear in its labels.

Source: Efron, "The estimation of prediction error: covariance penalties and cross-validation",
2004; Ye, "On measuring and correcting the effects of data mining and model selection", 1998;
Ramani, Blu & Unser, "Monte-Carlo SURE", 2008; Craven & Wahba, "Smoothing noisy data with spline
functions", 1979.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, ArrayLike, Float, PyTree
from snrgate.moments.statistics import accumulator_dtype
from snrgate.settings import known
from snrgate.targets import check_kind, check_targets, checked_law, checked_outputs

__all__ = ["Risk", "Twins", "estimate", "law_of", "perturb", "stacked"]

_MOST = 0.9  # of the examples; a run that has spent more degrees of freedom shows no risk
_SIZE = 0.1  # of a move, in standard deviations of the targets
_SHARE = 0.2  # of the targets that are drawn anew
_COLDEST, _HOTTEST = 1e-3, 1e3  # inverse temperatures


class Twins(NamedTuple):
    """The targets of a run and of its twins.

    Attributes:
        targets: those of the run first, ``(1 + copies, n, ...)``.
        scale: of regression the size of the move, a scalar or of the shape of one target; of the
            other kinds the share of the targets that were drawn anew.
    """

    targets: Array
    scale: Float[Array, "..."]


class Risk(NamedTuple):
    """The population risk that a run and its twins show. Losses are means over the targets.

    Attributes:
        train: training loss: the squared error, or the negative log-likelihood in nats.
        degrees_of_freedom: how many numbers the run has fitted to its targets.
        optimism: how much smaller the training loss is than the risk.
        risk: the estimated loss on new examples with the same noise. NaN where more than nine
            tenths of the degrees of freedom of squared loss are spent: nothing is then left to
            tell the risk from.
        standard_error: of ``risk``, for the chance of the perturbation. With one twin it is an
            upper bound, because it counts the differences between the examples as chance, too.
    """

    train: Float[Array, ""]
    degrees_of_freedom: Float[Array, ""]
    optimism: Float[Array, ""]
    risk: Float[Array, ""]
    standard_error: Float[Array, ""]


def perturb(
    key: Array,
    targets: ArrayLike,
    kind: str,
    *,
    law: ArrayLike | None = None,
    copies: int = 1,
    size: ArrayLike | None = None,
    share: float = _SHARE,
) -> Twins:
    r"""The targets of a run and of its twins.

    .. math:: y' = y + \epsilon b, \quad b_i = \pm 1 \qquad \text{or} \qquad y'_i \sim p(y \mid x_i)

    Args:
        key: random key of the perturbation.
        targets: ``(n, ...)``. Numbers for "regression", whole numbers for "classes" and "counts",
            zeros and ones for "binary" (multi-label: ``(n, labels)``).
        kind: of the targets.
        law: from which targets are drawn anew, of a run that has memorised little, see
            :func:`law_of`. Probabilities for "classes", ``(n, ..., classes)``, and for "binary", of
            the shape of the targets; rates for "counts". None for "regression".
        copies: number of twins. One is enough for a curve; more make the estimate more exact.
        size: of the move of "regression", in the unit of the targets, a scalar or of the shape of
            one target; by default a tenth of the standard deviation of each output.
        share: of the targets of the other kinds that are drawn anew, in (0, 1].

    Returns:
        The targets, those of the run first. They keep their dtype, so that the loss stays the same.

    Raises:
        ValueError: an unknown kind, targets of another kind or not finite, a law of another shape
            or none, a number out of range, or targets whose dtype cannot hold the moved ones.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from snrgate import risk
        >>> twins = risk.perturb(jax.random.key(0), jnp.zeros(3), "regression", size=0.1, copies=2)
        >>> print(twins.targets.shape, f"{abs(twins.targets[1:]).max():.1f}")
        (3, 3) 0.1

    Source: the perturbation, Ramani, Blu & Unser, 2008; new targets, Ye, 1998.
    """
    check_kind(kind, copies, share, size)
    given = jnp.asarray(targets)
    check_targets(given, kind)
    repeated = jnp.broadcast_to(given, (copies, *given.shape))
    sides, draws = jax.random.split(key)
    if kind == "regression":
        if law is not None:
            raise ValueError("kind='regression' moves its targets and needs no law; leave it out")
        scale = jnp.asarray(_tenth(given) if size is None else size, given.dtype)
        if scale.shape not in ((), given.shape[1:]):
            raise ValueError(
                f"size has shape {scale.shape}; give one number, or one for each output, "
                f"{given.shape[1:]}"
            )
        signs = jax.random.rademacher(draws, repeated.shape, given.dtype)
        moved = repeated + jnp.broadcast_to(scale, repeated.shape) * signs
        if known(moved) and bool(jnp.any(moved == repeated)):
            raise ValueError(
                "targets of kind='regression' do not move: they are constant, or too large for "
                f"{given.dtype}; subtract their mean, or give a larger size="
            )
    else:
        if size is not None:
            raise ValueError(f"size is for kind='regression'; kind={kind!r} takes share")
        drawn = _drawn(draws, checked_law(law, given, kind), repeated, kind)
        chosen = jax.random.bernoulli(sides, share, repeated.shape)
        moved, scale = jnp.where(chosen, drawn, repeated), jnp.asarray(share, float)
    return Twins(jnp.concatenate([given[None], moved]), scale)


def estimate(
    outputs: ArrayLike,
    twins: Twins,
    kind: str,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Risk:
    r"""The population risk of a run at the moment, from its outputs and those of its twins.

    .. math::

        \hat R = \frac{R_{train}}{(1 - df / n)^2} \qquad \text{or} \qquad
        \hat R = R_{train} + \frac{df}{n}

    Args:
        outputs: on the training inputs, those of the run first, ``(1 + copies, n, ...)``: numbers
            of the shape of the targets, logits ``(..., classes)`` for "classes", one logit a
            target for "binary", the logarithm of the rate for "counts".
        twins: what :func:`perturb` returned.
        kind: of the targets.
        where: the examples to take, ``(n,)``, bool, such as those of a group; by default all.
        weights: how much each example counts in the loss of the run, ``(n,)``; by default all
            alike. The noise of the targets is taken to be the same whatever the weight, which
            stands for one measurement. Give equal measurements one by one, each with its own move.

    Returns:
        The estimate, float32 or wider.

    Raises:
        ValueError: an unknown kind; outputs, ``where`` or ``weights`` of another shape; labels
            beyond the classes; negative weights; or no example to take.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from snrgate import risk
        >>> y = jnp.array([1.0, 2.0, 4.0, 5.0])
        >>> twins = risk.perturb(jax.random.key(0), y, "regression", size=0.1, copies=500)
        >>> means = jnp.broadcast_to(twins.targets.mean(1, keepdims=True), twins.targets.shape)
        >>> of_mean = risk.estimate(means, twins, "regression")  # one number fitted to four
        >>> print(f"{of_mean.train:.2f} {of_mean.degrees_of_freedom:.1f} {of_mean.risk:.1f}")
        2.50 1.0 4.4

    Source: Efron, 2004; Craven & Wahba, 1979.
    """
    check_kind(kind)
    values = checked_outputs(jnp.asarray(outputs), twins.targets, kind)
    losses, followed = (_of_squares if kind == "regression" else _of_family)(values, twins, kind)
    often = _counted(where, weights, losses)
    used, count = often > 0, jnp.sum(often)
    train = jnp.sum(often * losses, where=used) / count
    df = jnp.sum(often * jnp.mean(followed, 0), where=used)
    chance = jnp.square(often) * _chance(followed, df / count)
    # Pairs of examples that move each other enter twice, which doubles the variance of the sum.
    error = jnp.sqrt(2 * jnp.sum(chance, where=used)) / count
    numbers = df / count * jnp.sum(used)  # also where the weights do not add up to the examples
    if kind != "regression":
        return Risk(train, numbers, df / count, train + df / count, error)
    left = 1 - df / count
    trusted = left >= 1 - _MOST
    left = jnp.where(trusted, left, jnp.nan)
    risk = train / jnp.square(left)
    return Risk(train, numbers, risk - train, risk, 2 * risk / left * error)


def law_of(
    outputs: ArrayLike, targets: ArrayLike, kind: str, *, weights: ArrayLike | None = None
) -> Float[Array, "..."]:
    r"""The law of the targets that a run has learned, calibrated on its own targets.

    .. math:: p(y \mid x) = \operatorname{softmax}(\beta \eta), \qquad
        \beta = \arg\max_\beta \sum_i \log p(y_i \mid x_i)

    A gated run at its last step has memorised little, and so has any run after its first epochs.
    The law of a run that has memorised its targets says that they have no noise.

    Args:
        outputs: on the training inputs, ``(n, ...)``, as :func:`estimate` takes them of one run.
        targets: ``(n, ...)``.
        kind: "classes", "binary" or "counts".
        weights: how often each example counts, ``(n,)``; by default all alike.

    Returns:
        Probabilities, or the rates of counts, which are not calibrated.

    Raises:
        ValueError: another kind, outputs or weights of another shape, or labels beyond the classes.

    Example:
        >>> import jax.numpy as jnp
        >>> from snrgate import risk
        >>> logits = jnp.array([[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
        >>> labels = jnp.array([0, 0, 1, 1])  # one of four is not what the logits say
        >>> print(risk.law_of(logits, labels, "classes")[0].round(2))
        [0.75 0.25]

    Source: Guo, Pleiss, Sun & Weinberger, "On calibration of modern neural networks", 2017.
    """
    check_kind(kind)
    if kind == "regression":
        raise ValueError("kind='regression' needs no law; perturb moves its targets by a sign")
    given = jnp.asarray(targets)
    check_targets(given, kind)
    values = checked_outputs(jnp.asarray(outputs)[None], given[None], kind)[0]
    if kind == "counts":
        return jnp.exp(values)
    logits = values if kind == "classes" else jnp.stack([jnp.zeros_like(values), values], -1)
    often = _counted(None, weights, given.astype(logits.dtype))
    own = jnp.take_along_axis(logits, given.astype(int)[..., None], -1)[..., 0]

    def narrower(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        # The likelihood is concave in the inverse temperature. Its slope says where it rises.
        low, high = ends
        middle = jnp.sqrt(low * high)
        law = jax.nn.softmax(middle * logits)
        mean = jnp.sum(jnp.where(law > 0, law * logits, 0), -1)  # a masked class has minus infinity
        rises = jnp.sum(often * (own - mean)) > 0
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    ends = jnp.asarray(_COLDEST, logits.dtype), jnp.asarray(_HOTTEST, logits.dtype)
    low, high = jax.lax.fori_loop(0, 40, narrower, ends)
    law = jax.nn.softmax(jnp.sqrt(low * high) * logits)
    return law if kind == "classes" else law[..., 1]


def stacked(tree: PyTree, copies: int = 1) -> PyTree:
    """A tree of arrays, such as a training state, once for the run and once for each twin.

    Args:
        tree: of arrays ``(...)``, random keys among them.
        copies: number of twins.

    Returns:
        The tree with arrays ``(1 + copies, ...)``. A step that is vmapped over the first axis, and
        over that of the targets, trains the run and its twins side by side.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from snrgate import risk
        >>> def step(w, x, y):
        ...     return w - 0.1 * jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(w)
        >>> x, y = jnp.eye(3), jnp.array([1.0, 2.0, 4.0])
        >>> twins = risk.perturb(jax.random.key(0), y, "regression")
        >>> steps = jax.vmap(step, in_axes=(0, None, 0))
        >>> w = steps(risk.stacked(jnp.zeros(3)), x, twins.targets)
        >>> print(f"{risk.estimate(w @ x.T, twins, 'regression').degrees_of_freedom:.2f}")
        0.20
    """
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (1 + copies, *jnp.shape(x))), tree)


def _chance(followed: Float[Array, "copies n ..."], mean: Array) -> Float[Array, "n ..."]:
    """Variance of what each target contributes; one twin is compared with the mean of all targets.

    The latter counts as chance, too, that some targets are followed more closely than others.
    """
    copies = len(followed)
    if copies == 1:
        return jnp.square(followed[0] - mean)
    return jnp.var(followed, axis=0, ddof=1) / copies


def _of_squares(
    outputs: Float[Array, "runs n ..."], twins: Twins, kind: str
) -> tuple[Float[Array, "n ..."], Float[Array, "copies n ..."]]:
    """The squared error of every target, and how far its output follows it in each twin."""
    targets = twins.targets.astype(outputs.dtype)
    # By the moves that were made: they are the signs times the size, rounded to the targets' dtype.
    follows = (outputs[1:] - outputs[:1]) / (targets[1:] - targets[:1])
    return jnp.square(outputs[0] - targets[0]), follows


def _of_family(
    outputs: Float[Array, "runs n ..."], twins: Twins, kind: str
) -> tuple[Float[Array, "n ..."], Float[Array, "copies n ..."]]:
    """The negative log-likelihood of every target, and its covariance with its parameter."""
    targets, eta = twins.targets, outputs
    if kind != "classes":
        targets = targets.astype(eta.dtype)  # differences of unsigned numbers would wrap round
    follows = eta[1:] - eta[:1]
    if kind == "classes":
        log_p = jax.nn.log_softmax(eta[0])
        loss = -jnp.take_along_axis(log_p, targets[0][..., None], -1)[..., 0]
        new, old = (
            jnp.take_along_axis(follows, t[..., None], -1)[..., 0]
            for t in (targets[1:], jnp.broadcast_to(targets[0], targets[1:].shape))
        )
        return loss, (new - old) / (2 * twins.scale)
    if kind == "binary":
        loss = jax.nn.softplus(eta[0]) - targets[0] * eta[0]
    else:
        log_factorial = jax.scipy.special.gammaln(targets[0] + 1.0)
        loss = jnp.exp(eta[0]) - targets[0] * eta[0] + log_factorial
    return loss, (targets[1:] - targets[:1]) * follows / (2 * twins.scale)


def _tenth(targets: Float[Array, "n ..."]) -> Float[Array, "..."]:
    """A tenth of the standard deviation of each output, or of all where one is constant."""
    own = jnp.std(targets.astype(accumulator_dtype(targets.dtype)), 0)  # squares may overflow
    return _SIZE * jnp.where(own > 0, own, jnp.sqrt(jnp.mean(jnp.square(own))))


def _drawn(key: Array, law: Float[Array, "..."], like: Array, kind: str) -> Array:
    """Targets of the shape and dtype of ``like``, drawn from a law.

    Raises:
        ValueError: the dtype cannot hold them.
    """
    law = law.astype(accumulator_dtype(law.dtype))  # a rare class needs the digits
    if kind == "classes":
        drawn = jax.random.categorical(key, jnp.log(law), shape=like.shape)
    elif kind == "binary":
        drawn = jax.random.bernoulli(key, jnp.broadcast_to(law, like.shape))
    else:
        drawn = jax.random.poisson(key, jnp.broadcast_to(law, like.shape))
    if known(drawn) and jnp.issubdtype(like.dtype, jnp.integer):
        largest = max(int(jnp.max(drawn)), law.shape[-1] - 1 if kind == "classes" else 0)
        if largest > jnp.iinfo(like.dtype).max:
            raise ValueError(
                f"targets are {like.dtype}, which cannot hold {largest}, a target that the law "
                "draws; give targets of a wider dtype, such as int32"
            )
    return drawn.astype(like.dtype)


def _counted(
    where: ArrayLike | None, weights: ArrayLike | None, losses: Float[Array, "n ..."]
) -> Float[Array, "n ..."]:
    """How often every target counts."""
    count = losses.shape[:1]
    mask = np.ones(count, bool) if where is None else where
    often = np.ones(count) if weights is None else weights
    if jnp.shape(mask) != count or jnp.result_type(mask).kind != "b":
        raise ValueError(
            f"where has shape {jnp.shape(mask)} and dtype {jnp.result_type(mask)}; give one "
            f"boolean for each of the {count[0]} examples"
        )
    if jnp.shape(often) != count:
        raise ValueError(
            f"weights have shape {jnp.shape(often)}; give one for each of the {count[0]} examples"
        )
    if known(often) and np.any(~(np.asarray(often) >= 0)):
        raise ValueError("weights must be numbers of at least 0")
    if known(mask) and known(often) and not np.any(np.asarray(mask) & (np.asarray(often) > 0)):
        raise ValueError("where and weights leave no example to take")
    often = jnp.where(mask, often, 0).astype(losses.dtype)
    return jnp.broadcast_to(often.reshape(-1, *[1] * (losses.ndim - 1)), losses.shape)
