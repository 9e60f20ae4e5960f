"""A learning problem: groups of examples, the loss of one example, a measure of success."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, PyTree
from snrgate.lab.errors import InputError

__all__ = ["Group", "Supervised", "Task", "from_arrays", "of_data", "require"]


class Group(NamedTuple):
    """One kind of examples, with the loss of one of them.

    Attributes:
        loss: ``(params, example) -> scalar``.
        sample: ``(key, number) -> examples``, independent draws with a leading axis.
        dataset_size: number of different examples, ``None`` where every draw is new.
        tilt: temperature of the mean over a batch, in units of the loss
            (:func:`snrgate.preferences.tilted_mean`); ``None`` is the plain mean.
    """

    loss: Callable[[PyTree, PyTree], Array]
    sample: Callable[[Array, int], PyTree]
    dataset_size: int | None
    tilt: float | None = None


class Supervised(NamedTuple):
    """The parts of supervised learning on one data set.

    Attributes:
        predict: ``(params, input) -> output``, of one input.
        loss: ``(output, target) -> scalar``, of one example: the squared error, or the
            cross-entropy of a class.
        inputs: with a leading axis of examples.
        targets: numbers, or the indices of classes.
    """

    predict: Callable[[PyTree, Array], Array]
    loss: Callable[[Array, Array], Array]
    inputs: np.ndarray
    targets: np.ndarray

    @property
    def kind(self) -> str:
        """Kind of the targets, as :mod:`snrgate.risk` names it."""
        return "classes" if np.issubdtype(self.targets.dtype, np.integer) else "regression"

    def group(self, targets: np.ndarray | Array, *, repeats: bool = True) -> Group:
        """The examples, with these targets.

        Args:
            targets: in place of the own ones.
            repeats: as in :func:`of_data`.
        """

        def of_example(params: PyTree, example: tuple[Array, Array]) -> Array:
            x, y = example
            return self.loss(self.predict(params, x), y)

        return of_data(of_example, (self.inputs, targets), repeats=repeats)


class Task(NamedTuple):
    """A learning problem. The training loss is the sum of the groups' mean losses.

    Attributes:
        params: initial parameters.
        groups: groups of examples in a batch; physics-informed networks have several.
        evaluate: ``params -> {name: scalar}``, on data that training never sees.
        metric: name of the scalar that counts.
        higher_is_better: whether a higher metric is better.
        supervised: the parts of the last group where that is a data set with targets.
        large: whether the losses use arrays that are too large to be constants of a program.
    """

    params: PyTree
    groups: tuple[Group, ...]
    evaluate: Callable[[PyTree], dict[str, Array]]
    metric: str
    higher_is_better: bool
    supervised: Supervised | None = None
    large: bool = False


def of_data(
    loss: Callable[[PyTree, PyTree], Array], examples: PyTree, *, repeats: bool = True
) -> Group:
    """A finite data set.

    Args:
        loss: ``(params, example) -> scalar``.
        examples: a tree of arrays with a leading example axis.
        repeats: whether an example may come twice in a batch.
    """
    arrays = jax.tree.map(jnp.asarray, examples)
    count = jax.tree.leaves(arrays)[0].shape[0]

    def sample(key: Array, number: int) -> PyTree:
        if repeats:
            index = jax.random.randint(key, (number,), 0, count)
        elif number <= count:
            index = jax.random.choice(key, count, (number,), replace=False)
        else:
            raise InputError(
                f"a batch of {number} without repeats cannot be drawn from {count} examples; give "
                f"a batch_size of at most {count}"
            )
        return jax.tree.map(lambda x: x[index], arrays)

    return Group(loss, sample, count)


def from_arrays(
    params: PyTree,
    predict: Callable[[PyTree, Array], Array],
    loss: Callable[[Array, Array], Array],
    train: tuple[np.ndarray, np.ndarray],
    evaluate: Callable[[PyTree], dict[str, Array]],
    metric: str,
    *,
    higher_is_better: bool,
    repeats: bool = True,
) -> Task:
    """The task of supervised learning on one data set.

    Args:
        params: initial parameters.
        predict: ``(params, input) -> output``, of one input.
        loss: ``(output, target) -> scalar``, of one example.
        train: inputs and targets.
        evaluate: as in :class:`Task`; compiled here.
        metric: as in :class:`Task`.
        higher_is_better: as in :class:`Task`.
        repeats: as in :func:`of_data`.
    """
    data = Supervised(predict, loss, *train)
    groups = (data.group(data.targets, repeats=repeats),)
    return Task(params, groups, jax.jit(evaluate), metric, higher_is_better, data)


def require(settings: object, **conditions: tuple[bool, str]) -> None:
    """Refuse settings that cannot be used.

    Args:
        settings: settings that have the fields.
        **conditions: for each field, whether its value is good, and which values are good.

    Raises:
        InputError: a value is not good; the error names the first such field.
    """
    for name, (holds, what) in conditions.items():
        value = getattr(settings, name)
        if not holds or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{name} = {value} must be {what}")
