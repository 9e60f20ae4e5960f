"""Optimizers that estimate the population risk while they train."""

from typing import Any

import optax

from snrgate.annotations import Array, PyTree
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.loop import Batches, exact_moments
from snrgate.lab.training.optimizers import OPTIMIZERS, Built, Gated, Optimizer, Soap
from snrgate.theory.population import monitored, population_risk

__all__ = ["risk_columns", "watched"]


def watched(optimizer: Optimizer, task: Task) -> Built:
    """The optimizer of a task with a monitor around it, and moments for both.

    Args:
        optimizer: settings of an optimizer that a config may name.
        task: the task, with one group of examples.

    Raises:
        InputError: the task has several groups, or the optimizer other gradients.
    """
    followed = {name: kind for name, kind in OPTIMIZERS.items() if kind is not Soap}
    if len(task.groups) != 1 or type(optimizer) not in followed.values():
        raise InputError(
            "risk = True needs one kind of examples and one of the optimizers "
            f"{', '.join(followed)}; leave it out here"
        )
    built, (group,) = optimizer.build(task), task.groups
    if isinstance(optimizer, Gated):
        moments = built.gradients
    else:
        moments = exact_moments(task.groups, [group.dataset_size], "parameter", b1=0.0)

    def gradients(
        params: PyTree, batches: Batches, measure: Any = True
    ) -> tuple[Array, PyTree, dict[str, Any]]:
        value, grads, extra = moments(params, batches, measure)
        return value, grads, extra | {"value": value}

    return Built(monitored(built.tx, dataset_size=group.dataset_size), gradients)


def risk_columns(state: optax.OptState) -> dict[str, float]:
    """The population risk of a run so far, as columns of its metrics.

    Args:
        state: state of a :func:`watched` optimizer.

    Returns:
        ``risk``, its ``risk_gap`` to the training loss and ``risk_band``, half the width of its
        95 % interval.
    """
    found = population_risk(state)
    return {
        "risk": float(found.population),
        "risk_gap": float(found.gap),
        "risk_band": float(found.band),
    }
