"""The quality of given labels, from what a gated run thinks of its own training examples."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from snrgate.annotations import Float, Int

__all__ = ["LabelQuality", "label_quality"]

_ROUNDING = 1e-3  # by which the probabilities of an example may miss a sum of one
_ROUNDINGS = 4  # by how many roundings of their type they may miss it besides


class LabelQuality(NamedTuple):
    """What :func:`label_quality` found.

    Attributes:
        scores: quality of every given label, from 0 to 1; lower is more suspicious.
        ranked: indices of all examples, the most suspicious first.
        suggested: the most likely class of every example.
        probabilities: probabilities of the classes, as cleanlab takes them.
    """

    scores: Float[np.ndarray, " n"]
    ranked: Int[np.ndarray, " n"]
    suggested: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]


def label_quality(outputs: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> LabelQuality:
    r"""Rank the given labels of a training set, the most suspicious first.

    .. math::

        s_i = p_\theta(y_i \mid x_i)

    A gated run does not fit the labels that are wrong. Its last step therefore shows them on the
    training examples themselves, and no cross-validation is needed.

    Args:
        outputs: probabilities of the classes, shape ``(n, classes)``, or logits with
            ``logits=True``; of the examples that the network was trained on.
        labels: given labels, shape ``(n,)``, integers from 0 to ``classes - 1``.
        logits: whether ``outputs`` are logits. It is never guessed.

    Returns:
        The scores, all indices ranked, the most likely classes and the probabilities. Scores and
        order are cleanlab's "self confidence". Examples with equal scores stay in their order;
        logits are ranked by log-probabilities, which do not underflow.

    Raises:
        ValueError: shapes that do not fit; no example; fewer than two classes; an output that is
            not finite; a label outside of the classes; probabilities that are negative or do not
            sum to one. The error names the first such example.
        TypeError: labels that are not integers, or outputs that are not real numbers.

    Example:
        >>> import snrgate
        >>> probabilities = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
        >>> found = snrgate.label_quality(probabilities, [0, 0, 1])
        >>> found.ranked.tolist(), found.suggested.tolist(), found.scores.tolist()
        ([1, 2, 0], [0, 1, 0], [0.9, 0.2, 0.4])

    ``cleanlab.filter.find_label_issues(labels, found.probabilities)`` and
    ``CleanLearning().find_label_issues(labels=labels, pred_probs=found.probabilities)`` take the
    result on.

    Source: the score, Northcutt, Jiang & Chuang, "Confident Learning", 2021, and the package
    cleanlab.
    """
    for name, array in (("outputs", outputs), ("labels", labels)):
        if np.ma.is_masked(array):
            raise ValueError(f"{name} are masked; leave the masked examples out, with their row")
    values, given = np.asarray(outputs), np.asarray(labels)
    _check(values, given)
    tolerance = _tolerance(values.dtype)
    values = values.astype(np.float64)
    if logits:
        shifted = values - values.max(1, keepdims=True)
        logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        values = np.exp(logs)
    else:
        _check_probabilities(values, tolerance)
        if tolerance > _ROUNDING:  # of 16 bits, whose sums others would not take for one
            values = values / values.sum(1, keepdims=True)
        logs = values
    of_given = np.arange(len(given)), given
    return LabelQuality(
        scores=np.clip(values[of_given], 0.0, 1.0),
        ranked=np.argsort(logs[of_given], kind="stable"),
        suggested=values.argmax(1),
        probabilities=values,
    )


def _check(values: np.ndarray, given: np.ndarray) -> None:
    """Refuse what are no outputs of examples with labels."""
    if values.dtype.kind not in "fiu" and values.dtype.name != "bfloat16":
        raise TypeError(f"outputs have dtype {values.dtype}; they must be real numbers")
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            f"outputs have shape {values.shape}; they must be (examples, classes) with two classes "
            "or more. Give a binary probability p as [1 - p, p]"
        )
    if given.shape != values.shape[:1]:
        raise ValueError(
            f"labels have shape {given.shape}, and outputs {values.shape}; there must be one label "
            f"for each row of the outputs: ({values.shape[0]},)"
        )
    if not len(given):
        raise ValueError("there are no examples")
    if given.dtype.kind not in "iu":
        raise TypeError(
            f"labels have dtype {given.dtype}; they must be integers from 0 to classes - 1, as "
            "np.unique(names, return_inverse=True)[1] makes them from names"
        )
    _refuse(
        (given < 0) | (given >= values.shape[1]), f"has a label outside 0 ... {values.shape[1] - 1}"
    )
    _refuse(~np.isfinite(values.astype(np.float64)).all(1), "has an output that is not finite")


def _tolerance(dtype: np.dtype) -> float:
    """By how much the probabilities of an example may miss a sum of one."""
    eps = 0.0 if dtype.kind in "iu" else float(jnp.finfo(dtype).eps)
    return max(_ROUNDING, _ROUNDINGS * eps)


def _check_probabilities(values: np.ndarray, tolerance: float) -> None:
    way_out = "; give logits=True if the outputs are logits"
    _refuse((values < 0).any(1), "has a negative probability" + way_out)
    wrong = np.abs(values.sum(1) - 1) > tolerance
    _refuse(wrong, "has probabilities that do not sum to one" + way_out)


def _refuse(bad: Any, what: str) -> None:
    """Raise if a row is bad, and name the first one."""
    if bad.any():
        raise ValueError(f"example {int(bad.argmax())} {what} ({int(bad.sum())} such in all)")
