"""The twin of a training, which tells its population risk without held-out data."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate import risk
from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.task import Supervised, Task
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Metrics, Training, fit

__all__ = ["Twin", "chosen", "learned_law", "risk_of", "twin_of"]

_STRICT = 1.2  # threshold of the run whose labels a twin gets, which memorises little


class Twin(NamedTuple):
    """A twin of a training, and what tells the risk from both.

    Attributes:
        task: the task with the targets of the twin.
        targets: those of the training and of the twin.
        data: inputs and network of the task.
    """

    task: Task
    targets: risk.Twins
    data: Supervised


def twin_of(task: Task, seed: int, law: Float[Array, "..."] | None = None) -> Twin:
    """The twin of a training.

    Args:
        task: of the training.
        seed: of the training, from which the moves of the targets are drawn.
        law: of the labels, see :func:`learned_law`; ``None`` for regression.

    Raises:
        InputError: the task has no data set with targets.
    """
    data = _supervised(task)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    targets = risk.perturb(key, data.targets, data.kind, law=law)
    moved = data.group(np.asarray(targets.targets[1]))
    return Twin(task._replace(groups=(*task.groups[:-1], moved)), targets, data)


def learned_law(settings: Training, task: Task) -> Float[Array, "..."] | None:
    """The law of the labels, from a gated run with a strict threshold.

    Args:
        settings: of the training; another optimizer is put into them.
        task: of the training.

    Returns:
        Probabilities of the classes; ``None`` where the targets are numbers, which need none.

    Raises:
        InputError: the task has no data set with targets.
    """
    data = _supervised(task)
    if data.kind == "regression":
        return None
    rate = settings.optimizer.learning_rate
    strict = Gated(rate, block="kronecker", fitted=0.0, z=_STRICT)
    *_, (state, _) = fit(dataclasses.replace(settings, optimizer=strict, until=None), task)
    return risk.law_of(_outputs(data, state.params), data.targets, data.kind)


def risk_of(twin: Twin, params: PyTree, others: PyTree) -> Metrics:
    """The estimated risk as metrics.

    Args:
        twin: of the training.
        params: of the training.
        others: of its twin, at the same step.

    Returns:
        ``twin_risk``, ``twin_risk_error`` (its standard error) and ``degrees_of_freedom``. The
        risk is NaN where it cannot be told.
    """
    outputs = jnp.stack([_outputs(twin.data, p) for p in (params, others)])
    found = risk.estimate(outputs, twin.targets, twin.data.kind)
    return {
        "twin_risk": float(found.risk),
        "twin_risk_error": float(found.standard_error),
        "degrees_of_freedom": float(found.degrees_of_freedom),
    }


def chosen(rows: list[Metrics]) -> Metrics:
    """The row with the least estimated risk; the first one where none has an estimate."""
    known = [row for row in rows if math.isfinite(row["twin_risk"])]
    return min(known or rows[:1], key=lambda row: row["twin_risk"])


def _outputs(data: Supervised, params: PyTree) -> Array:
    inputs = jnp.asarray(data.inputs)
    return jax.lax.map(lambda x: data.predict(params, x), inputs, batch_size=2**14)


def _supervised(task: Task) -> Supervised:
    if task.supervised is None:
        raise InputError(
            "twin moves the targets of a data set, and this task has none: leave out --twin"
        )
    return task.supervised
