"""Training steps, compiled in stretches: one loop for all optimizers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, Float, Int, PyTree
from snrgate.branch import where_due
from snrgate.lab.tasks.task import Group
from snrgate.lab.training.constants import with_large_arguments
from snrgate.moments import add_groups, value_and_moments
from snrgate.preferences import tilted_mean, tilted_value_and_moments
from snrgate.state import measures_next

__all__ = [
    "Gradients",
    "TrainState",
    "exact_moments",
    "init",
    "make_stretch",
    "mean_gradient",
    "mean_loss",
]

Batches = tuple[PyTree, ...]
"""A batch of every group."""

Gradients = Callable[[PyTree, Batches, Any], tuple[Array, PyTree, dict[str, Any]]]
"""``(params, batches, measure) -> (loss, gradients, extra arguments of the optimizer's update)``.

``measure`` says whether the optimizer will use the statistics of the single examples.
"""


class TrainState(NamedTuple):
    """The state of one training.

    Attributes:
        step: number of batches seen.
        params: parameters.
        opt_state: state of the optimizer, with its noise.
        skipped: number of batches left out because their loss or gradient was not finite.
        in_a_row: number of batches left out since the last one that was not.
    """

    step: Int[Array, ""]
    params: PyTree
    opt_state: optax.OptState
    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]


def mean_loss(groups: Sequence[Group]) -> Callable[[PyTree, Batches], Array]:
    """The training loss of a batch: the sum of the groups' mean losses.

    Args:
        groups: what a batch is made of.
    """

    def loss(params: PyTree, batches: Batches) -> Array:
        losses = [
            _mean(jax.vmap(group.loss, (None, 0))(params, batch), group.tilt)
            for group, batch in zip(groups, batches, strict=True)
        ]
        return jnp.sum(jnp.stack(losses))

    return loss


def _mean(losses: Float[Array, " b"], tilt: float | None) -> Float[Array, ""]:
    return jnp.mean(losses) if tilt is None else tilted_mean(losses, tilt)


def mean_gradient(groups: Sequence[Group]) -> Gradients:
    """The ordinary gradient of a batch.

    Args:
        groups: what a batch is made of.
    """
    value_and_grad = jax.value_and_grad(mean_loss(groups))

    def gradients(
        params: PyTree, batches: Batches, measure: Any = True
    ) -> tuple[Array, PyTree, dict[str, Any]]:
        value, grads = value_and_grad(params, batches)
        return value, grads, {"sample_size": jax.tree.leaves(batches[0])[0].shape[0]}

    return gradients


def exact_moments(
    groups: Sequence[Group], sizes: Sequence[int | None], block: str, b1: float
) -> Gradients:
    """The same gradient, with the noise that the examples of the batch show, for the gate.

    Args:
        groups: what a batch is made of.
        sizes: the number of different examples in each group, ``None`` for fresh draws.
        block: the block of the gate.
        b1: decay of the momentum.
    """
    functions = [
        value_and_moments(group.loss, block=block)
        if group.tilt is None
        else tilted_value_and_moments(group.loss, group.tilt, block=block)
        for group in groups
    ]

    def gradients(
        params: PyTree, batches: Batches, measure: Any = True
    ) -> tuple[Array, PyTree, dict[str, Any]]:
        results = [
            f(params, batch, measure=measure) for f, batch in zip(functions, batches, strict=True)
        ]
        values, moments = zip(*results, strict=True)
        # With one group the gate itself knows the size of its data set.
        total = moments[0] if len(groups) == 1 else add_groups(moments, sizes, b1=b1)
        return jnp.sum(jnp.stack(values)), total.mean, total.extra_args()

    return gradients


def init(params: PyTree, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, tx.init(params), zero, zero)


def make_stretch(
    gradients: Gradients,
    tx: optax.GradientTransformation,
    groups: Sequence[Group],
    *,
    batch_size: int,
    seed: int,
    mesh: jax.sharding.Mesh | None = None,
    large: bool = False,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Compile some steps of training into one call.

    The batch of a step depends only on the seed and on the number of the step. Every optimizer
    therefore sees the same batches, and a resumed run sees the batches that are still due. A
    batch whose loss or gradient is not finite is counted, and changes neither the parameters nor
    the optimizer.

    Args:
        gradients: :func:`mean_gradient` or :func:`exact_moments` of the groups.
        tx: the optimizer.
        groups: what a batch is made of.
        batch_size: number of examples of each group in a step.
        seed: seed of the batches.
        mesh: devices over which every batch is split, along the only axis of the mesh. The state
            is on all of them.
        large: whether the groups use arrays that are too large to be constants of the program.

    Returns:
        ``(state, length=steps) -> (state, metrics)``. The metrics are ``loss``, and
        ``gate_fraction`` where the optimizer has a gate. Each is a mean over the batches of the
        stretch that were not skipped, and NaN where all of them were.
    """
    tx = optax.with_extra_args_support(tx)
    stream = jax.random.key(seed)

    def step(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
        # Draw the batch of this step, a part on each device.
        key = jax.random.fold_in(stream, state.step)
        keys = [key] if len(groups) == 1 else jax.random.split(key, len(groups))
        batches = tuple(g.sample(k, batch_size) for g, k in zip(groups, keys, strict=True))
        if mesh is not None:
            split = jax.NamedSharding(mesh, jax.P(*mesh.axis_names))
            batches = jax.lax.with_sharding_constraint(batches, split)
        # Measure its gradient.
        gated = optax.tree.get(state.opt_state, "gate_fraction") is not None
        measure = measures_next(state.opt_state) if gated else True
        value, grads, extra_args = gradients(state.params, batches, measure)
        # Take the step where it is finite, so that one bad batch does not end the run.
        finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((value, grads))]
        ok = jnp.all(jnp.stack(finite))

        def taken(before: tuple[PyTree, optax.OptState]) -> tuple[PyTree, optax.OptState]:
            params, opt_state = before
            updates, opt_state = tx.update(grads, opt_state, params, **extra_args)
            return optax.apply_updates(params, updates), opt_state

        params, opt_state = where_due(ok, taken, (state.params, state.opt_state))
        metrics = {"loss": value}
        if gated:
            metrics["gate_fraction"] = optax.tree.get(opt_state, "gate_fraction")
        state = TrainState(
            state.step + 1,
            params,
            opt_state,
            skipped=state.skipped + ~ok,
            in_a_row=jnp.where(ok, 0, state.in_a_row + 1),
        )
        return state, jax.tree.map(lambda x: jnp.where(ok, x, jnp.nan), metrics)

    def stretch(state: TrainState, *, length: int) -> tuple[TrainState, dict[str, Array]]:
        state, metrics = jax.lax.scan(step, state, length=length)
        return state, jax.tree.map(jnp.nanmean, metrics)

    if large:
        return with_large_arguments(stretch)
    return jax.jit(stretch, static_argnames="length")
