"""The refusals of an update. Each names the offending thing and the way out."""

import inspect
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snrgate.annotations import Scalar
from snrgate.evidence import Reading
from snrgate.gate import is_fresh
from snrgate.kernel import Kernel
from snrgate.moments.origin import is_noted_mean, mean_of, same_numbers
from snrgate.settings import Settings, known, said
from snrgate.trees import Leaves, Selection, is_masked

__all__ = [
    "check_kernels",
    "check_origin",
    "check_shapes",
    "check_state",
    "check_statistics",
    "microbatches",
]

_ROUNDING = 2.0**-7  # of a mean that was bfloat16 on its way

_PASS = (
    "call tx.update(moments.mean, state, params, **moments.extra_args()) with the moments of "
    "snrgate.value_and_moments"
)


def check_statistics(
    noise: str, sum_sq_diff_grads: Any, sample_size: Any, dataset_size: Any
) -> None:
    """Refuse an update whose batch statistics are missing or cannot be right.

    Args:
        noise: the kind of noise of this update, with "auto" resolved.
        sum_sq_diff_grads: the argument of ``update``.
        sample_size: the argument of ``update``.
        dataset_size: the setting of the gate, ``None`` where the threshold does not depend on it.

    Raises:
        ValueError: the size is no number, or is negative; exact noise has no statistics, comes
            from one example, or is used inside ``optax.MultiSteps``; a data set has no batch size,
            or is smaller than the batch.
    """
    if sample_size is not None:
        if jnp.ndim(sample_size):
            raise ValueError(
                f"sample_size has shape {jnp.shape(sample_size)}; it must be one number"
            )
        if known(sample_size) and not float(sample_size) >= 0:
            raise ValueError(f"{said('sample_size', sample_size)} must be a number >= 0")
    if noise != "streaming":
        if sum_sq_diff_grads is None:
            raise ValueError(
                f"noise={noise!r} needs sum_sq_diff_grads; {_PASS}. A wrapper around the gate that "
                "does not hand extra arguments on loses them; put the gate around it, or choose "
                "noise='streaming' (within optax.lookahead, which takes no gate around it, nothing "
                "else works)"
            )
        if sample_size is None:
            raise ValueError("sum_sq_diff_grads needs sample_size= beside it, the batch's size")
        if known(sample_size) and 0 < float(sample_size) < 2:
            raise ValueError(
                f"{said('sample_size', sample_size)}: one example shows no noise; use batches of "
                "at least two (drop a last batch of one, or make it part of another), or "
                "noise='streaming'"
            )
        if _accumulating() is not None:
            raise ValueError(
                "optax.MultiSteps averages the gradients of several microbatches but hands on the "
                "sum_sq_diff_grads of the last one only; accumulate both with "
                "snrgate.value_and_moments(..., microbatch_size=...), or use noise='streaming'"
            )
    if dataset_size is not None and not is_fresh(dataset_size):
        if sample_size is None:
            raise ValueError(
                "dataset_size needs the size of the batch too, and update was given none: "
                f"{_PASS}; with plain gradients pass sample_size= to update, or state it once with "
                "snrgate.with_sample_size(tx, size)"
            )
        if known(sample_size) and known(dataset_size):
            if float(sample_size) > float(dataset_size):
                raise ValueError(
                    f"{said('sample_size', sample_size)} is more than "
                    f"{said('dataset_size', dataset_size)}"
                )
            if noise == "streaming" and float(sample_size) == float(dataset_size):
                raise ValueError(
                    "streaming noise is the difference between batches, and here every batch is "
                    "the whole data set; use exact noise (snrgate.value_and_moments)"
                )


def microbatches() -> Scalar:
    """Number of microbatches in the gradient of this update.

    ``optax.MultiSteps`` hands on the ``sample_size`` of the last microbatch, but the mean of all
    microbatches.
    """
    frame = _accumulating()
    return 1 if frame is None else frame.f_locals["k_steps"]


def _accumulating() -> FrameType | None:
    """The frame of ``optax.MultiSteps``, where this update runs inside it.

    MultiSteps leaves no trace in its results. Only the call itself can be seen.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not optax.MultiSteps.update.__code__:
        frame = frame.f_back
    return frame


def check_origin(updates: Leaves, sum_sq_diff_grads: Any, noise: str) -> None:
    """Refuse a mean and a noise that are known not to belong together.

    Only the arrays of :func:`snrgate.value_and_moments` in the same trace are known.

    Raises:
        ValueError: a transformation has changed the mean on its way to the gate, or has lost its
            sums of squared differences.
    """
    if sum_sq_diff_grads is None:
        frame = _accumulating()
        handed_on = [] if frame is None else jax.tree.leaves(frame.f_locals["updates"])
        if noise == "auto" and any(map(is_noted_mean, updates.values + handed_on)):
            raise ValueError(
                "update was given the mean of value_and_moments, but not its other statistics, "
                f"and would estimate the noise from batch to batch instead; {_PASS}. If they were "
                "passed, a wrapper around the gate does not hand them on (optax.MultiSteps in a "
                "chain, or optax.lookahead, which takes no gate around it); put the gate around "
                "the wrapper. Say noise='streaming' if that is what is meant, and always within "
                "optax.lookahead"
            )
        return
    if noise == "streaming":
        return
    sums = updates.match(sum_sq_diff_grads, "sum_sq_diff_grads")
    for path, update, squares in zip(updates.paths, updates.values, sums, strict=True):
        mean = mean_of(squares)
        if mean is not None and not is_masked(update) and not _same_numbers(update, mean):
            raise ValueError(
                f"the update of {path!r} is not the mean that its sum_sq_diff_grads belong to: "
                "something in front of the gate has changed it (a clip, a scale, an average over "
                "batches), and signal and noise would be in different units. Put it inside the "
                "gate: snrgate.snr_gate(optax.chain(clip, optax.scale_by_adam())), or give the "
                "gate moments.mean as it is"
            )


def _same_numbers(update: Any, mean: Any) -> bool:
    """Whether an update is, or may be, this mean. A cast of it counts as the mean."""
    if jnp.shape(update) != jnp.shape(mean) or jnp.result_type(update) != mean.dtype:
        return True  # check_shapes refuses other shapes
    if known(update) and known(mean):
        pair = np.asarray(update), np.asarray(mean)
        return np.allclose(*pair, rtol=_ROUNDING, atol=0, equal_nan=True)
    return any(x is mean for x in same_numbers(update))


def check_kernels(settings: Settings, readings: list[Reading]) -> None:
    """Refuse settings that know no averages, where evidence has two sides.

    Raises:
        ValueError: a threshold for single steps, instantaneous noise, or no memory of the signal.
    """
    if not any(isinstance(reading, Kernel) for reading in readings):
        return
    for name, wrong, instead in (
        ("alpha", settings.alpha is not None, "z"),
        ("noise='instantaneous'", not settings.averaged, "noise='exact'"),
        ("signal_decay=0", not settings.remembers, "a memory of the signal"),
    ):
        if wrong:
            raise ValueError(
                f"block='kronecker' does not go with {name}: evidence by rows and columns is "
                f"averaged over steps; give {instead}, or another block"
            )


def check_state(settings: Settings, chosen: Selection, readings: list[Reading], state: Any) -> None:
    """Refuse the state of a gate with other settings.

    Raises:
        ValueError: the running averages are missing, too many, or of other blocks.
    """
    for name, wanted in (("noise", settings.averaged), ("signal", settings.remembers)):
        tree = getattr(state, name)
        if wanted == (isinstance(tree, tuple) and tree == ()):
            raise ValueError(
                f"the state {'lacks' if wanted else 'holds'} a running {name}, which this gate "
                f"{'needs' if wanted else 'does not keep'}; it was made by a gate with another "
                "noise=, alpha=, z= or signal_decay=. Give the gate the settings that the state "
                "was made with, or begin again with tx.init(params)"
            )
    if not settings.averaged:
        return
    kept = chosen.pick(state.noise, "state.noise")
    for path, reading, sums in zip(chosen.paths, readings, kept, strict=True):
        shapes = [jnp.shape(sums)]
        if shapes != reading.shapes:
            raise ValueError(
                f"the state holds the noise of {path!r} in the shapes {shapes}, but "
                f"block={_name(settings.block)} sums it in the shapes {reading.shapes}; the state "
                "was made with another block. Give the gate that block, or begin again with "
                "tx.init(params)"
            )


def _name(block: Any) -> str:
    return repr(block) if isinstance(block, str) else getattr(block, "__name__", "(a function)")


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
