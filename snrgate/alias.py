"""Ready-made optimizers: optax's Adam and AdamW behind the gate, and per-example gradients."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from snrgate.annotations import PyTree, Scalar
from snrgate.block import Block
from snrgate.gate import GateRule
from snrgate.moments.per_example import moments_of_examples
from snrgate.settings import Settings, check_ranges, exact_defaults
from snrgate.transform import Gated
from snrgate.trees import flatten, is_function, is_masked

__all__ = ["adam", "adamw", "from_per_example", "with_sample_size"]


@exact_defaults
def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
    *,
    nesterov: bool = False,
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
    gate_weight_decay: bool = True,
    gate_mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW that moves a parameter only as far as its signal beats its noise.

    .. math::

        \theta \leftarrow \theta - \eta\, q_t \left(
            \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda_{wd}\, \theta \right)

    with the gate :math:`q_t` of :func:`snrgate.snr_gate`. Besides the state of Adam it holds two
    numbers for each block, its noise and its signal. With ``alpha`` it holds only the noise.

    Args:
        learning_rate: as in :func:`optax.adamw`, like all arguments up to ``nesterov``.
        b1: decay of the momentum.
        b2: decay of the second moment.
        eps: added to the root of the second moment; it does not touch the gate.
        eps_root: added under that root.
        mu_dtype: dtype of the momentum.
        weight_decay: decoupled weight decay.
        mask: which parameters *decay*, as in optax; for which are gated see ``gate_mask``.
        nesterov: Nesterov momentum.
        gate: this and the following as in :func:`snrgate.snr_gate`.
        alpha: threshold on signal / noise.
        z: threshold in standard deviations of pure noise, default 1.
        noise: "auto", "exact", "streaming" or "instantaneous".
        noise_decay: decay of the running noise.
        signal_decay: decay of the running squared signal.
        fitted: share of the data set's own noise that may be fitted, default 0.2, of kernels 0.
        softness: softness of the soft and snr gates.
        floor: how far the gate stays open where there is no signal.
        block: parameters that share one gate.
        dataset_size: examples in a finite data set, infinity where every batch is fresh.
        warmup_steps: first steps with an open gate.
        gate_weight_decay: whether the gate multiplies the decay too, so that a parameter whose
            gate is shut stays where it is. Without it, decay pulls what has no signal to zero.
        gate_mask: the ``mask`` of :func:`snrgate.snr_gate`.

    Returns:
        An optax transformation; ``update`` needs ``params``.

    Raises:
        ValueError: as :func:`snrgate.snr_gate`.
        TypeError: as :func:`snrgate.snr_gate`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax, snrgate
        >>> def loss_fn(params, example):
        ...     return (params["w"] @ example["x"] - example["y"]) ** 2
        >>> tx = snrgate.adamw(1e-2, weight_decay=0.0)
        >>> params = {"w": jnp.zeros(3)}
        >>> state = tx.init(params)
        >>> batch = {"x": jnp.ones((4, 3)), "y": jnp.array([1.0, 2.0, 1.5, 1.5])}
        >>> loss, moments = snrgate.value_and_moments(loss_fn)(params, batch)
        >>> updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        >>> params = optax.apply_updates(params, updates)
        >>> bool(params["w"][0] > 0), round(float(optax.tree.get(state, "gate_fraction")), 2)
        (True, 0.98)

    Source: Litman & Guo, arXiv 2605.01172, Algorithm 1: ``noise="streaming",
    block="parameter", alpha=1, gate_weight_decay=False``.
    """
    check_ranges(b1=b1, b2=b2)
    scale = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    decayed = mask if mask is None or is_function(mask) else lambda _: mask
    decay = optax.add_decayed_weights(weight_decay, decayed)
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
    inner = optax.chain(scale, decay) if gate_weight_decay else scale
    gated = Gated(inner=inner, settings=settings, mask=gate_mask, inner_b1=b1).transformation
    rate = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(gated, rate) if gate_weight_decay else optax.chain(gated, decay, rate)


@exact_defaults
def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: Any | None = None,
    *,
    nesterov: bool = False,
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
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam behind the gate: :func:`snrgate.adamw` without weight decay.

    Args:
        learning_rate: as in :func:`optax.adam`, like all arguments up to ``nesterov``.
        b1: decay of the momentum.
        b2: decay of the second moment.
        eps: added to the root of the second moment; it does not touch the gate.
        eps_root: added under that root.
        mu_dtype: dtype of the momentum.
        nesterov: Nesterov momentum.
        gate: this and the following as in :func:`snrgate.snr_gate`.
        alpha: threshold on signal / noise.
        z: threshold in standard deviations of pure noise, default 1.
        noise: "auto", "exact", "streaming" or "instantaneous".
        noise_decay: decay of the running noise.
        signal_decay: decay of the running squared signal.
        fitted: share of the data set's own noise that may be fitted, default 0.2, of kernels 0.
        softness: softness of the soft and snr gates.
        floor: how far the gate stays open where there is no signal.
        block: parameters that share one gate.
        dataset_size: examples in a finite data set, infinity where every batch is fresh.
        warmup_steps: first steps with an open gate.
        mask: which parameters are gated.

    Returns:
        An optax transformation.

    Raises:
        ValueError: as :func:`snrgate.snr_gate`.
        TypeError: as :func:`snrgate.snr_gate`.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> tx = snrgate.adam(1e-3, noise="streaming", block="parameter", alpha=1.0)
        >>> state = tx.init({"w": jnp.ones(3)})
    """
    check_ranges(b1=b1, b2=b2)
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
    inner = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    gated = Gated(inner=inner, settings=settings, mask=mask, inner_b1=b1).transformation
    return optax.chain(gated, optax.scale_by_learning_rate(learning_rate))


def from_per_example(
    tx: optax.GradientTransformation, *, block: Block = "parameter"
) -> optax.GradientTransformationExtraArgs:
    """Drive a gated optimizer by per-example gradients with a leading axis.

    The moments over the leading axis replace the gradients, as
    ``optax.contrib.differentially_private_aggregate`` takes them.

    Args:
        tx: a transformation with a gate in it, of the whole parameter tree.
        block: what to sum the squared differences over, as in :func:`snrgate.value_and_moments`.
            "parameter" serves every gate but "kronecker", which needs "kronecker" here too.

    Returns:
        A transformation whose ``update`` takes gradients of shape ``(b, *param.shape)`` and
        needs ``params``. Put masks and partitions inside ``tx``, not around this.

    Raises:
        ValueError: ``params`` missing; a leaf without the example axis, or with another number of
            examples; a single example; use inside ``optax.masked`` or ``optax.partition``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import snrgate
        >>> tx = snrgate.from_per_example(snrgate.adamw(1e-3))
        >>> params = {"w": jnp.zeros(3)}
        >>> state = tx.init(params)
        >>> per_example_grads = {"w": jnp.ones((8, 3))}
        >>> updates, state = tx.update(per_example_grads, state, params)
        >>> updates["w"].shape
        (3,)
    """
    tx = optax.with_extra_args_support(tx)

    def update_fn(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        size = _example_count(updates, params)
        moments = moments_of_examples(updates, jnp.ones(size), block)
        return tx.update(
            moments.mean,
            state,
            params,
            sum_sq_diff_grads=moments.sum_sq_diff,
            sample_size=size,
            **extra_args,
        )

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def with_sample_size(
    tx: optax.GradientTransformation, sample_size: Scalar
) -> optax.GradientTransformationExtraArgs:
    """State the size of the batches once, for a trainer that passes no extra arguments.

    A gate with ``dataset_size`` needs the size of the batch, which plain gradients do not tell.
    This gives it to every update that is given none.

    Args:
        tx: a transformation with a gate in it.
        sample_size: examples whose mean gradient an update is given, on all devices together;
            inside ``optax.MultiSteps`` those of one microbatch. Every batch must have this size.

    Returns:
        A transformation with the state of ``tx``. A ``sample_size=`` that ``update`` is given
        goes first.

    Raises:
        ValueError: the size is not one number above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> tx = snrgate.with_sample_size(snrgate.adamw(1e-3, dataset_size=1000), 32)
        >>> params = {"w": jnp.zeros(3)}
        >>> updates, state = tx.update({"w": jnp.ones(3)}, tx.init(params), params)
    """
    check_ranges(sample_size=sample_size)
    tx = optax.with_extra_args_support(tx)

    def update_fn(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        return tx.update(updates, state, params, **{"sample_size": sample_size} | extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def _example_count(updates: PyTree, params: PyTree | None) -> int:
    """The length of the leading axis that every leaf has over its parameter."""
    if params is None:
        raise ValueError(
            "from_per_example needs params, to tell the example axis; call "
            "update(per_example_grads, state, params)"
        )
    leaves = flatten(updates)
    sizes = {}
    for path, g, p in zip(leaves.paths, leaves.values, leaves.match(params, "params"), strict=True):
        if is_masked(g):
            raise ValueError(
                f"from_per_example is inside optax.masked or optax.partition, which hides {path!r} "
                "and would let it through with its example axis; put the mask inside: "
                "from_per_example(optax.masked(...))"
            )
        if jnp.ndim(g) != jnp.ndim(p) + 1 or jnp.shape(g)[1:] != jnp.shape(p):
            raise ValueError(
                f"the gradient of {path!r} has shape {jnp.shape(g)}; per example it must be "
                f"(b, *{jnp.shape(p)})"
            )
        sizes[path] = jnp.shape(g)[0]
    if len(set(sizes.values())) != 1:
        raise ValueError(f"the leaves disagree on the number of examples: {sizes}")
    size = next(iter(sizes.values()))
    if size < 2:
        raise ValueError(f"a batch of {size} shows no noise; use at least two examples")
    return size
