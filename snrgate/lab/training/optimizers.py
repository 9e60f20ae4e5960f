"""Settings of optimizers, which a config names and the trainer builds."""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import optax

import snrgate
from snrgate.lab.errors import InputError
from snrgate.lab.kinds import Block, Gate, Noise
from snrgate.lab.tasks.task import Task, require
from snrgate.lab.training.loop import Gradients, exact_moments, mean_gradient

__all__ = ["OPTIMIZERS", "AdamW", "Algorithm1", "Built", "Gated", "Optimizer", "Soap"]


class Built(NamedTuple):
    """An optimizer, and the function that computes the gradients for it."""

    tx: optax.GradientTransformation
    gradients: Gradients


@runtime_checkable
class Optimizer(Protocol):
    """The settings of an optimizer, as a run needs them: a frozen dataclass."""

    def build(self, task: Task) -> Built:
        """The optimizer for a task."""
        ...


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW of optax."""

    learning_rate: float = 1e-3
    """Learning rate of every step after the warm-up."""
    weight_decay: float = 0.0
    """Weight decay, decoupled from the gradient."""
    b1: float = 0.9
    """Decay of the momentum."""
    b2: float = 0.999
    """Decay of the second moment."""
    learning_rate_warmup: int = 10
    """Number of first steps with a linearly rising learning rate."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be trained with; those of the gate it refuses itself."""
        require(
            self,
            learning_rate=(self.learning_rate >= 0, "at least 0"),
            weight_decay=(self.weight_decay >= 0, "at least 0"),
            b1=(0 <= self.b1 < 1, "in [0, 1)"),
            b2=(0 <= self.b2 < 1, "in [0, 1)"),
            learning_rate_warmup=(self.learning_rate_warmup >= 0, "at least 0"),
        )

    def rate(self) -> optax.Schedule:
        """The learning rate by step."""
        start = self.learning_rate / max(self.learning_rate_warmup, 1)
        return optax.linear_schedule(start, self.learning_rate, self.learning_rate_warmup - 1)

    def build(self, task: Task) -> Built:
        """AdamW on the mean gradient."""
        tx = optax.adamw(self.rate(), self.b1, self.b2, weight_decay=self.weight_decay)
        return Built(tx, mean_gradient(task.groups))


@dataclasses.dataclass(frozen=True)
class Gated(AdamW):
    """The gated AdamW. The task tells it how many examples its data set has."""

    gate: Gate = "soft"
    """Rule by which the gate opens."""
    block: Block = "unit"
    """What shares a gate: the parameters of an output unit, only one, or a whole tensor."""
    noise: Noise = "exact"
    """Source of the noise: the examples of the batch, or the differences between steps."""
    noise_decay: float = 0.99
    """Decay of the running noise."""
    signal_decay: float | None = None
    """Decay of the running squared signal; by default the default of the gate."""
    fitted: float = 0.2
    """Share of the noise of the data set that may be fitted."""
    z: float = 1.0
    """Threshold, in standard deviations of what pure noise does."""
    alpha: float | None = None
    """Threshold on signal / noise, in place of ``z``."""
    gate_weight_decay: bool = True
    """Whether the gate multiplies the weight decay too."""
    finite: bool = True
    """Whether the gate is told how many examples there are."""

    def threshold(self, task: Task) -> float | None:
        """The threshold on signal / noise for a task, or ``None`` where ``z`` sets it."""
        return self.alpha

    def gate_settings(self, task: Task) -> dict[str, Any]:
        """The keywords of :func:`snrgate.snr_gate` for a task."""
        alpha = self.threshold(task)
        return {
            "gate": self.gate,
            "block": self.block,
            "noise": self.noise,
            "noise_decay": self.noise_decay,
            "signal_decay": self.signal_decay,
            "fitted": self.fitted,
            "z": self.z if alpha is None else None,
            "alpha": alpha,
            "dataset_size": self._told(task),
        }

    def moments(self, task: Task) -> Gradients:
        """The function that computes the mean gradient of a task with its noise."""
        return exact_moments(task.groups, self.sizes(task), self.block, self.b1)

    def build(self, task: Task) -> Built:
        """The gated AdamW on exact moments."""
        tx = snrgate.adamw(
            self.rate(),
            self.b1,
            self.b2,
            weight_decay=self.weight_decay,
            gate_weight_decay=self.gate_weight_decay,
            **self.gate_settings(task),
        )
        return Built(tx, self.moments(task))

    def sizes(self, task: Task) -> list[int | None]:
        """The size of the data set of each group; ``None`` where the gate is told none."""
        return [group.dataset_size if self.finite else None for group in task.groups]

    def _told(self, task: Task) -> float | None:
        """The size that the gate is told. With several groups the sizes are in the noise."""
        if not self.finite:
            return None
        sizes = self.sizes(task)
        return math.inf if len(sizes) > 1 or sizes[0] is None else sizes[0]


@dataclasses.dataclass(frozen=True)
class Algorithm1(Gated):
    """The paper's Algorithm 1: a gate for every parameter, with streaming noise."""

    block: Block = "parameter"
    """What shares a gate; here every parameter has its own."""
    noise: Noise = "streaming"
    """Source of the noise; here the differences between steps."""
    alpha: float | None = 1.0
    """Threshold on signal / noise; 1 is the paper's for fresh batches."""
    gate_weight_decay: bool = False
    """Whether the gate multiplies the weight decay too; here it does not."""


@dataclasses.dataclass(frozen=True)
class Soap(Gated):
    """The gate around Adam in the eigenvectors of the noise; its decay is not gated."""

    block: Block = "kronecker"
    """What shares a gate; here the evidence has two sides."""
    fitted: float = 0.0
    """Share of the noise of the data set that may be fitted; here none."""
    gate_weight_decay: bool = False
    """Whether the gate multiplies the weight decay too; here it does not."""

    def build(self, task: Task) -> Built:
        """The gated SOAP on exact moments."""
        settings = self.gate_settings(task)
        if settings.pop("alpha") is not None or self.gate_weight_decay:
            raise InputError("soap takes neither alpha nor gate_weight_decay; leave them out")
        decay = self.weight_decay
        tx = snrgate.soap(self.rate(), self.b1, self.b2, weight_decay=decay, **settings)
        return Built(tx, self.moments(task))


OPTIMIZERS: dict[str, type[AdamW]] = {
    "gated": Gated,
    "adamw": AdamW,
    "algorithm_1": Algorithm1,
    "soap": Soap,
}
"""The kinds of optimizers that a config may name."""
