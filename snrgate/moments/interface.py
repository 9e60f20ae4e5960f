"""``value_and_moments``: the loss of a batch and the moments of its per-example gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, ArrayLike, Float, PyTree
from snrgate.block import BLOCKS, KRONECKER, Block
from snrgate.moments.factored import factored_moments, formed_moments
from snrgate.moments.origin import note
from snrgate.moments.per_example import each_once
from snrgate.moments.sharded import axes_of_examples, on_own_examples
from snrgate.moments.statistics import Moments, merge, merge_across
from snrgate.moments.varying import vary, varying_axes_of, zeros_varying_like
from snrgate.trees import check_floating, flatten

__all__ = ["batch_size", "value_and_moments"]

METHODS = {
    "auto": factored_moments,
    "factored": factored_moments,
    "one_pass": functools.partial(factored_moments, one_pass=True),
    "vmap": formed_moments,
}


_ONE_EXAMPLE = (
    "the batch has one example, which shows no noise; use at least two. Pad a ragged last batch to "
    "the size of the others and give weights= that are 0 for padding, or drop it; give "
    "weights=jnp.ones(1) to merge one example with others yourself, and axis_name= if the batch "
    "is spread over devices"
)


def value_and_moments(
    loss_fn: Callable[..., Any],
    *,
    method: str = "auto",
    block: Block = "unit",
    microbatch_size: int | np.integer | None = None,
    axis_name: Any = None,
    has_aux: bool = False,
) -> Callable[..., tuple[Any, Moments]]:
    r"""Turn the loss of one example into the loss and the gradient moments of a batch.

    .. math::

        \mu = \frac1n \sum_i g_i, \qquad M = \sum_i (g_i - \mu)^2, \qquad
        g_i = \nabla_\theta\, \ell(\theta, x_i)

    Args:
        loss_fn: ``(params, example) -> loss`` with a scalar loss, written for ONE example: every
            leaf of ``example`` comes without its batch axis. With ``has_aux`` it returns
            ``(loss, aux)``. Random keys (dropout) are part of the example.
        method: "vmap" materialises per-example gradients; "factored" takes the moments from the
            factors of the gradients, at nearly the price of one backward pass, and materialises
            only what it does not understand (:func:`~snrgate.explain_moments` shows what); its
            sums of squared differences have a rounding error of about ``eps`` times the sum of
            squares. "one_pass" is "factored" with one kernel for all matrices that are not pooled,
            for GPU and TPU; it has not been measured on either. "auto" chooses for you: factored,
            with each parameter's rule by its cost. A batch of symbolic size (``jax.export``) always
            takes "vmap".
        block: what to sum the squared differences over: "unit" (everything that feeds one output
            unit), "parameter" (nothing), "tensor" or ``(path, shape) -> axes``; see
            :func:`snrgate.block.block_axes`. It is the block of the gate, or "parameter", which
            serves every gate but "kronecker" and costs more. "kronecker" keeps the products of
            differences along both sides of every kernel,
            :class:`~snrgate.moments.kronecker.SideSums`, and plain sums for vectors and scalars.
        microbatch_size: examples handled at once; memory for per-example gradients is bounded by
            it. Any size will do, the last microbatch may be ragged. ``None`` takes all at once.
        axis_name: name of the mapped axis (pmap, shard_map) over which the batch is spread;
            the moments are merged over it in one round of communication, with a rounding error of
            about ``eps`` times the sum of squares. Under jit a sharded batch needs no name.
        has_aux: whether ``loss_fn`` returns an auxiliary output besides the loss.

    Returns:
        A function ``(params, batch, *, weights=None, measure=True) -> (loss, moments)``, or
        ``((loss, aux), moments)``. ``batch`` is the tree of examples with a leading axis ``b``.
        ``weights``, shape ``(b,)``, says how often each example counts: 0 for padding (whose
        content, NaN included, is ignored), 1 for an example, 2 for one that stands for two. They
        are counts, not importance weights. ``measure``, a bool or a traced one, says whether to
        compute the squared differences; where it is false, they cost nothing, -1 stands in their
        place, and all else is the same. A gate that is given them where it needs sums sits the
        step out. ``loss`` is the weighted mean, ``aux`` has the leading axis
        ``b``, ``moments`` are :class:`~snrgate.Moments`, float32 or wider.

    Raises:
        ValueError: an unknown method or block; leading axes that differ; an empty batch, or one
            of a single example without weights (no noise can be estimated); microbatches of a
            batch of symbolic size; a loss that is not a scalar; weights
            of another shape, or negative.
        TypeError: a parameter that is not a real floating-point array; ``measure`` that is not one
            boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> import snrgate
        >>> def loss_fn(params, example):
        ...     x, y = example
        ...     return (x @ params["w"] - y) ** 2
        >>> grad_fn = snrgate.value_and_moments(loss_fn)
        >>> batch = (jnp.eye(2), jnp.array([1.0, 3.0]))
        >>> loss, moments = grad_fn({"w": jnp.zeros(2)}, batch)
        >>> print(loss, moments.mean["w"], moments.sum_sq_diff["w"], moments.sample_size)
        5.0 [-1. -3.] [ 2. 18.] 2.0

    Source: the rule's statistics, Litman & Guo, arXiv 2605.01172; merging of groups, Chan, Golub
    & LeVeque, "Algorithms for computing the sample variance", 1983.
    """
    _check_settings(method, block, microbatch_size)
    scalar_loss = _refuse_non_scalar(loss_fn, has_aux)

    def of_device(
        params: PyTree, batch: PyTree, weights: Array | None, measure: Any, axis_name: Any
    ) -> tuple[Array, Any, Moments]:
        size = batch_size(batch)
        known = isinstance(size, int)
        compute = METHODS[method if known else "vmap"]
        if weights is not None:
            batch = _finite_padding(batch, weights)
        params, weights = _vary_like((params, weights), batch)

        def run(chunk_of_batch: PyTree, chunk_weights: Any) -> tuple[Array, Any, Moments]:
            return compute(
                scalar_loss,
                params,
                chunk_of_batch,
                chunk_weights,
                block=block,
                has_aux=has_aux,
                measure=measure,
            )

        chunk = _chunk(microbatch_size, size)
        if chunk is None:
            loss, aux, moments = run(batch, weights)
        else:
            counts = each_once(batch) if weights is None else weights
            loss, aux, moments = _in_microbatches(run, batch, counts, measure, chunk)
        if axis_name is not None:
            loss, moments = _over_devices(loss, moments, measure, axis_name)
        return loss, aux, moments

    def grad_fn(
        params: PyTree, batch: PyTree, *, weights: ArrayLike | None = None, measure: Any = True
    ) -> tuple[Any, Moments]:
        measure = _check_measure(measure)
        check_floating(flatten(params), "parameter")
        size = batch_size(batch)
        if size == 1 and axis_name is None and weights is None:
            raise ValueError(_ONE_EXAMPLE)
        counted_once = weights is None and axis_name is None and isinstance(size, int)
        if weights is not None:
            weights = _check_weights(weights, size)
        axes = axes_of_examples(batch) if axis_name is None else ()
        if axes:
            run = functools.partial(of_device, axis_name=axes)
            loss, aux, moments = on_own_examples(run, params, batch, weights, measure, axes)
        else:
            loss, aux, moments = of_device(params, batch, weights, measure, axis_name)
        if counted_once:
            # Known now, under jit too: the gate can check it against the size of the data set.
            moments = moments._replace(sample_size=np.asarray(size, jnp.result_type(float)))
        moments = note(_marked(moments, measure))
        return ((loss, aux) if has_aux else loss), moments

    return grad_fn


def _marked(moments: Moments, measure: Any) -> Moments:
    """The moments, with -1 in the place of sums that were not measured, as no sum can be."""
    if measure is True:
        return moments
    sums = jax.tree.map(lambda x: jnp.where(measure, x, -1), moments.sum_sq_diff)
    return moments._replace(sum_sq_diff=sums)


def _over_devices(
    loss: Array, moments: Moments, measure: Any, axis_name: Any
) -> tuple[Array, Moments]:
    """Loss and moments of the examples of all devices, the same on each of them."""
    own = loss * jnp.asarray(moments.sample_size, loss.dtype)
    moments = merge_across(moments, axis_name, measure=measure)
    n = jnp.asarray(moments.sample_size, loss.dtype)
    # It rides with the moments: XLA makes one reduction of all that are independent.
    return jax.lax.psum(own, axis_name) / jnp.where(n > 0, n, 1), moments


def _check_settings(method: Any, block: Any, microbatch_size: Any) -> None:
    """Refuse unknown settings; what is no name and no number is told by its type alone."""

    def told(x: Any) -> str:
        return repr(x) if isinstance(x, str | int | float) else f"a {type(x).__name__}"

    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method={told(method)} is unknown; use one of {sorted(METHODS)}")
    names = sorted([*BLOCKS, KRONECKER])
    if not callable(block) and not (isinstance(block, str) and block in names):
        raise ValueError(f"block={told(block)} is unknown; use one of {names} or a function")
    size = microbatch_size
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if size is not None and not (whole and size >= 1):
        raise ValueError(f"microbatch_size={told(size)} must be a whole number of examples")


def _chunk(microbatch_size: Any, size: Any) -> int | None:
    """The number of examples of a microbatch; ``None`` where the batch is taken at once."""
    if microbatch_size is None:
        return None
    if not isinstance(size, int):
        raise ValueError(
            f"microbatch_size={microbatch_size} with a batch of symbolic size {size}; export "
            "without microbatches, or with a size that is known"
        )
    return int(microbatch_size) if microbatch_size < size else None


def _in_microbatches(
    run: Callable[..., Any], batch: PyTree, weights: Float[Array, " b"], measure: Any, chunk: int
) -> tuple[Array, Any, Moments]:
    """Scan over microbatches of ``chunk`` examples, merging as they come."""
    size = weights.shape[0]
    count = -(-size // chunk)
    # The last microbatch is filled with repetitions of the last example, of weight zero.
    index = np.minimum(np.arange(count * chunk), size - 1).reshape(count, chunk)
    kept = (np.arange(count * chunk) < size).reshape(count, chunk)
    chunks = jax.tree.map(lambda x: x[index], batch)
    chunk_weights = jnp.where(kept, weights[index], 0)

    def body(carry: Any, xs: Any) -> tuple[Any, Any]:
        loss_sum, moments = carry
        loss, aux, new = run(*xs)
        loss_sum = loss_sum + loss * new.sample_size.astype(loss.dtype)
        return (loss_sum, merge(moments, new, measure=measure)), aux

    first = jax.tree.map(lambda x: x[0], (chunks, chunk_weights))
    shapes = jax.eval_shape(run, *first)
    zeros = jax.tree.map(lambda s: zeros_varying_like(s, chunk_weights), (shapes[0], shapes[2]))
    (loss_sum, moments), aux = jax.lax.scan(body, zeros, (chunks, chunk_weights))
    total = jnp.where(moments.sample_size > 0, moments.sample_size, 1)
    aux = jax.tree.map(lambda x: x.reshape(count * chunk, *x.shape[2:])[:size], aux)
    return loss_sum / total.astype(loss_sum.dtype), aux, moments


def _finite_padding(batch: PyTree, weights: Float[Array, " b"]) -> PyTree:
    """The batch with zeros for what is not finite in examples of weight 0.

    XLA computes some operations that are batched over examples (convolutions in float64 on CPU)
    as a product with zeros across examples, which a NaN of one of them survives.
    """

    def finite(x: ArrayLike) -> ArrayLike:
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        ignored = jnp.expand_dims(weights == 0, range(1, jnp.ndim(x)))
        return jnp.where(ignored & ~jnp.isfinite(x), 0, x)

    return jax.tree.map(finite, batch)


def _vary_like(tree: PyTree, batch: PyTree) -> PyTree:
    """Let parameters and weights vary over the devices over which the batch does.

    Inside ``jax.shard_map`` with ``check_vma=True`` the gradient with respect to a *replicated*
    parameter is summed over devices without saying so; per-example gradients must not be.
    """
    axes = varying_axes_of(batch)
    return jax.tree.map(lambda x: vary(x, axes), tree) if axes else tree


def batch_size(batch: PyTree) -> Any:
    """The number of examples, an int or a symbol, which every leaf must agree on.

    Args:
        batch: the examples.

    Raises:
        ValueError: a leaf without an example axis, leaves of different lengths, or no example.
    """
    leaves = flatten(batch)
    sizes = {}
    for path, x in zip(leaves.paths, leaves.values, strict=True):
        if jnp.ndim(x) == 0:
            raise ValueError(
                f"batch leaf {path!r} is a scalar; every leaf needs a leading example axis "
                "(close over what all examples share)"
            )
        sizes[path] = jnp.shape(x)[0]
    if len(set(sizes.values())) != 1:
        raise ValueError(
            f"batch leaves disagree on the number of examples: {sizes or 'there are no leaves'}; "
            "every leaf needs the same leading axis"
        )
    size = next(iter(sizes.values()))
    if size == 0:
        raise ValueError("the batch is empty; skip the step, or pad it and give weights=")
    return size


def _refuse_non_scalar(loss_fn: Callable[..., Any], has_aux: bool) -> Callable[..., Any]:
    """``loss_fn``, checked while it is traced."""

    @functools.wraps(loss_fn)
    def scalar_loss(params: PyTree, example: PyTree) -> Any:
        out = loss_fn(params, example)
        if has_aux and not (isinstance(out, tuple) and len(out) == 2):
            raise ValueError("with has_aux=True the loss must return (loss, aux)")
        loss = out[0] if has_aux else out
        if isinstance(loss, tuple) or jnp.shape(loss) != ():
            got = f"a {type(loss).__name__}" if isinstance(loss, tuple) else jnp.shape(loss)
            raise ValueError(
                f"the loss of one example must be a scalar, not {got}; sum or average it inside "
                "loss_fn, which sees one example without its batch axis"
                + ("" if has_aux else ", or set has_aux=True if it returns (loss, aux)")
            )
        return out

    return scalar_loss


def _check_weights(weights: Any, size: int) -> Float[Array, " b"]:
    if jnp.shape(weights) != (size,):
        raise ValueError(
            f"weights have shape {jnp.shape(weights)} for a batch of {size} examples; "
            f"give one weight an example, shape ({size},)"
        )
    if not isinstance(weights, jax.core.Tracer) and np.any(~(np.asarray(weights) >= 0)):
        raise ValueError("weights count examples: they must be numbers >= 0")
    weights = jnp.asarray(weights, jnp.result_type(float))
    return jnp.where(weights > 0, weights, 0)  # a traced weight could not be looked at


def _check_measure(measure: Any) -> Any:
    """A bool where it is known now, and otherwise a traced boolean."""
    dtype = getattr(measure, "dtype", type(measure))
    if dtype not in (bool, np.dtype(bool)) or jnp.shape(measure) != ():
        raise TypeError(
            f"measure has shape {jnp.shape(measure) if hasattr(measure, 'shape') else ()} and type "
            f"{getattr(dtype, '__name__', dtype)}; give one boolean, such as step % 10 == 0"
        )
    return measure if isinstance(measure, jax.core.Tracer) else bool(measure)
