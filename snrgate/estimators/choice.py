"""The threshold of the gate that a twin of the training chooses, without held-out rows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from snrgate import risk
from snrgate.annotations import Array, Float, PyTree

__all__ = ["THRESHOLDS", "Choice", "choose"]

THRESHOLDS = (1.6, 1.2, 0.9, 0.6, 0.3)
"""Thresholds that are tried, the strictest first: it has memorised the least."""


class Choice(NamedTuple):
    """What was chosen.

    Attributes:
        z: the threshold.
        trained: what the training with it returned.
        risks: of each threshold that was tried, the estimated risk and its standard error.
    """

    z: float
    trained: PyTree
    risks: dict[float, tuple[float, float]]


def choose(
    train: Callable[[np.ndarray, float], PyTree],
    outputs: Callable[[PyTree], Float[np.ndarray, "n ..."]],
    targets: np.ndarray,
    weights: Float[np.ndarray, " n"],
    kind: str,
    key: Array,
) -> Choice:
    """Train with one threshold after the other until the risk that its twin shows rises.

    Args:
        train: ``(targets, z) -> trained``, on the same batches in each call.
        outputs: ``trained -> outputs`` on the training inputs.
        targets: the first axis is that of the examples.
        weights: how much each example counts, at most once.
        kind: "regression" or "classes", as :func:`snrgate.risk.perturb` has it.
        key: random key of the perturbation.

    Returns:
        The threshold with the least estimated risk; the strictest where none shows one.

    Source: the twin, see :mod:`snrgate.risk`.
    """
    best, twins, law, risks = None, None, None, {}
    for z in THRESHOLDS:
        trained = train(targets, z)
        shown = outputs(trained)
        if twins is None:
            if kind != "regression":
                law = risk.law_of(shown, targets, kind, weights=weights)
            twins = risk.perturb(key, targets, kind, law=law)
        moved = outputs(train(np.asarray(twins.targets[1]), z))
        found = risk.estimate(np.stack([shown, moved]), twins, kind, weights=weights)
        risks[z] = float(found.risk), float(found.standard_error)
        if best is not None and not risks[z][0] < risks[best.z][0]:
            break
        best = Choice(z, trained, risks)
        if not math.isfinite(risks[z][0]):
            break  # a smaller threshold spends still more degrees of freedom
    assert best is not None
    return best
