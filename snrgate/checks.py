"""What the gate refuses, each with the name of the offending thing and the way out."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array
from snrgate.block import BLOCKS, pooled_shape
from snrgate.gate import GATES, is_fresh, pool
from snrgate.trees import Leaves, is_masked

__all__ = ["check_settings", "check_shapes", "check_statistics", "pooled_sums"]

NOISES = ("auto", "exact", "streaming", "instantaneous")

# The range of every number, as a sentence and a test.
_RANGES = {
    "alpha": ("a number >= 0", lambda x: x >= 0),
    "z": ("a number >= 0", lambda x: x >= 0),
    "fitted": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "softness": ("a number >= 0", lambda x: x >= 0),
    "floor": ("a number in [0, 1]", lambda x: 0 <= x <= 1),
    "noise_decay": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "signal_decay": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "b1": ("a number in [0, 1)", lambda x: 0 <= x < 1),
    "dataset_size": ("a number >= 2", lambda x: x >= 2),
    "warmup_steps": ("a number >= 0", lambda x: x >= 0),
}


def _known(x: Any) -> bool:
    """Whether a value can be looked at now: given, and not traced."""
    return x is not None and not isinstance(x, jax.core.Tracer)


def check_settings(*, gate: str, noise: str, block: Any, **numbers: Any) -> None:
    """Refuse settings of :func:`snrgate.snr_gate` that have no meaning.

    Traced numbers (under ``optax.inject_hyperparams``) are taken as they are.

    Raises:
        ValueError: an unknown name, both ``alpha`` and ``z``, a number out of range, or a memory
            of the signal where every step counts by itself.
    """
    for name, value, known in (("gate", gate, tuple(GATES)), ("noise", noise, NOISES)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; use one of {sorted(known)}")
    if not callable(block) and block not in BLOCKS:
        raise ValueError(
            f"block={block!r} is unknown; use one of {sorted(BLOCKS)} "
            "or a function (path, shape) -> axes"
        )
    if numbers["alpha"] is not None and numbers["z"] is not None:
        raise ValueError("alpha and z are two names for one threshold; give one of them")
    decay = numbers["signal_decay"]
    remembered = decay is not None and not (_known(decay) and float(decay) == 0)
    if remembered and noise == "instantaneous":
        raise ValueError(
            f"signal_decay={decay} does not go with instantaneous noise, which is that of one step"
        )
    if remembered and numbers["alpha"] is not None:
        raise ValueError(
            f"signal_decay={decay} does not go with alpha, a threshold for one step; give z"
        )
    for name, value in numbers.items():
        sentence, holds = _RANGES[name]
        finite = _known(value) and (math.isfinite(float(value)) or name == "dataset_size")
        if _known(value) and not (finite and holds(float(value))):
            raise ValueError(f"{name}={value} must be {sentence}")


def check_statistics(
    noise: str, sum_sq_diff_grads: Any, sample_size: Any, dataset_size: Any
) -> None:
    """Refuse an update whose batch statistics are missing or cannot be right.

    Args:
        noise: the kind of noise of this update, "auto" resolved.
        sum_sq_diff_grads: as given to ``update``.
        sample_size: as given to ``update``.
        dataset_size: as given to the gate, ``None`` where the threshold does not depend on it.

    Raises:
        ValueError: exact noise without its statistics, from one example, or inside
            ``optax.MultiSteps``; a data set without a batch size, or smaller than the batch.
    """
    if noise != "streaming":
        if sum_sq_diff_grads is None:
            raise ValueError(
                f"noise={noise!r} needs sum_sq_diff_grads; call tx.update(moments.mean, state, "
                "params, **moments.extra_args()) with the moments of snrgate.value_and_moments, "
                "or choose noise='streaming'"
            )
        if sample_size is None:
            raise ValueError("sum_sq_diff_grads needs sample_size= beside it, the batch's size")
        if _known(sample_size) and float(sample_size) < 2:
            raise ValueError(
                f"sample_size={sample_size}: one example shows no noise; use a batch of at least "
                "two, or noise='streaming'"
            )
        if _accumulating():
            raise ValueError(
                "optax.MultiSteps averages the gradients of several microbatches but hands on the "
                "sum_sq_diff_grads of the last one only; accumulate both with "
                "snrgate.value_and_moments(..., microbatch_size=...), or use noise='streaming'"
            )
    if dataset_size is not None and not is_fresh(dataset_size):
        if sample_size is None:
            raise ValueError(
                "dataset_size needs the size of the batch too: pass sample_size= to update, or "
                "give the threshold as alpha"
            )
        if _known(sample_size) and _known(dataset_size):
            if float(sample_size) > float(dataset_size):
                raise ValueError(
                    f"sample_size={sample_size} is more than dataset_size={dataset_size}"
                )
            if noise == "streaming" and float(sample_size) == float(dataset_size):
                raise ValueError(
                    "streaming noise is the difference between batches, and here every batch is "
                    "the whole data set; use exact noise (snrgate.value_and_moments)"
                )


def _accumulating() -> bool:
    """Whether this update runs inside ``optax.MultiSteps``.

    MultiSteps leaves no trace in what it hands on; that it is calling is all there is to see.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not optax.MultiSteps.update.__code__:
        frame = frame.f_back
    return frame is not None


def check_shapes(updates: Leaves, params: Any) -> None:
    """Refuse updates that do not have the shapes of their parameters.

    Raises:
        ValueError: a leaf differs; the message names it.
    """
    if params is None:
        return
    for path, g, p in zip(
        updates.paths, updates.values, updates.match(params, "params"), strict=True
    ):
        if not is_masked(g) and not is_masked(p) and jnp.shape(g) != jnp.shape(p):
            per_example = jnp.shape(g)[1:] == jnp.shape(p)
            raise ValueError(
                f"the update of {path!r} has shape {jnp.shape(g)}, its parameter {jnp.shape(p)}; "
                + (
                    "for gradients with a leading example axis use snrgate.from_per_example"
                    if per_example
                    else "pass the gradient of the batch"
                )
            )


def pooled_sums(path: str, sums: Any, grad: Array, axes: tuple[int, ...]) -> Array:
    """``sum_sq_diff_grads`` of one leaf, summed over its block if it is not yet.

    Raises:
        ValueError: the shape is neither that of the parameter nor that of its blocks.
    """
    sums = jnp.asarray(sums, grad.dtype)
    blocks = pooled_shape(grad.shape, axes)
    if sums.shape == blocks:
        return sums
    if sums.shape == grad.shape:
        return pool(sums, axes)
    hint = (
        "for gradients with a leading example axis use snrgate.from_per_example"
        if sums.shape[1:] == grad.shape
        else "give value_and_moments the block= of the gate"
    )
    raise ValueError(
        f"sum_sq_diff_grads of {path!r} has shape {sums.shape}; the gate needs {grad.shape}"
        + (f" or, pooled, {blocks}" if axes else "")
        + f" ({hint})"
    )
