"""Other optimizers, each a few lines of optax, which the study tunes as it tunes the gate.

They are here for the comparison, and are not meant to be imported.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from snrgate.annotations import Array, PyTree
from snrgate.gate import null_level
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.loop import Batches, mean_gradient
from snrgate.lab.training.optimizers import AdamW, Algorithm1, Built, Gated

__all__ = [
    "Cautious",
    "CosineAdamW",
    "CosineGated",
    "FiniteAlgorithm1",
    "FloorGated",
    "FreshGated",
    "Grokfast",
    "Muon",
    "OrthoGrad",
    "RowNormLion",
    "Sam",
]


@dataclasses.dataclass(frozen=True)
class Grokfast(AdamW):
    """Grokfast-EMA, which amplifies the slow part of the gradient. Lee et al., arXiv 2405.20233."""

    decay: float = 0.98
    """Decay of the average that is the slow part."""
    gain: float = 2.0
    """Multiple of the slow part that is added."""

    def build(self, task: Task) -> Built:
        """AdamW on ``g + gain * ema(g)``."""
        slow = optax.ema(self.decay, debias=False)

        def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
            average, state = slow.update(updates, state, params)
            return jax.tree.map(lambda g, h: g + self.gain * h, updates, average), state

        amplify = optax.GradientTransformation(slow.init, update)
        adamw = optax.adamw(self.rate(), self.b1, self.b2, weight_decay=self.weight_decay)
        return Built(optax.chain(amplify, adamw), mean_gradient(task.groups))


@dataclasses.dataclass(frozen=True)
class OrthoGrad(AdamW):
    """AdamW on the part of the gradient that is orthogonal to the weights. arXiv 2501.04697."""

    def build(self, task: Task) -> Built:
        """AdamW behind the projection, tensor by tensor, rescaled to the old length."""

        def project(g: Array, w: Array) -> Array:
            along = jnp.vdot(w, g) / (jnp.vdot(w, w) + 1e-30)
            rest = g - along * w
            return rest * jnp.linalg.norm(g) / (jnp.linalg.norm(rest) + 1e-30)

        orthogonal = optax.stateless(lambda g, w: jax.tree.map(project, g, w))
        adamw = optax.adamw(self.rate(), self.b1, self.b2, weight_decay=self.weight_decay)
        return Built(optax.chain(orthogonal, adamw), mean_gradient(task.groups))


@dataclasses.dataclass(frozen=True)
class Cautious(AdamW):
    """AdamW where update and gradient agree in sign. Liang et al., arXiv 2411.16085."""

    def build(self, task: Task) -> Built:
        """AdamW behind the mask ``u * g > 0``, divided by its mean."""
        adam = optax.scale_by_adam(self.b1, self.b2)

        def mask(u: Array, g: Array) -> Array:
            agree = (u * g > 0).astype(u.dtype)
            return u * agree / jnp.maximum(jnp.mean(agree), 1e-3)

        def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
            moved, state = adam.update(updates, state, params)
            return jax.tree.map(mask, moved, updates), state

        tx = optax.chain(
            optax.GradientTransformation(adam.init, update),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.rate()),
        )
        return Built(tx, mean_gradient(task.groups))


@dataclasses.dataclass(frozen=True)
class Muon(AdamW):
    """optax.contrib.muon: orthogonalised momentum for matrices, AdamW for the rest."""

    def build(self, task: Task) -> Built:
        """Muon."""
        tx = optax.contrib.muon(self.rate(), weight_decay=self.weight_decay)
        return Built(tx, mean_gradient(task.groups))


@dataclasses.dataclass(frozen=True)
class RowNormLion(AdamW):
    """Lion with the rows of every inner matrix clipped to a norm after each step."""

    max_norm: float = 2.0
    """Largest norm of a row, the weights that feed one output unit."""

    def build(self, task: Task) -> Built:
        """Lion, then the clip, as an update that leads to the clipped row."""

        def clip(path: Any, u: Array, w: Array) -> Array:
            if w.ndim != 2 or "tokens" in str(path) or "positions" in str(path):
                return u
            new = w + u
            norm = jnp.linalg.norm(new, axis=0, keepdims=True)
            return new * jnp.minimum(1, self.max_norm / (norm + 1e-30)) - w

        tx = optax.chain(
            optax.lion(self.rate(), 0.9, 0.97, weight_decay=self.weight_decay),
            optax.stateless(lambda u, w: jax.tree.map_with_path(clip, u, w)),
        )
        return Built(tx, mean_gradient(task.groups))


@dataclasses.dataclass(frozen=True)
class FreshGated(Gated):
    """The gated AdamW, told that no example comes back: all that batches agree on is signal."""

    def sizes(self, task: Task) -> list[int | None]:
        """No size for any group, which tells the gate ``dataset_size=math.inf``."""
        return [None] * len(task.groups)


@dataclasses.dataclass(frozen=True)
class FloorGated(Gated):
    """The gated AdamW that never shuts, with its decay outside the gate.

    A parameter without a signal gets only a fraction of its update, and the whole decay. Every
    step counts by itself: its threshold is the level of pure noise, given as ``alpha``.
    """

    floor: float = 0.4
    """Smallest value of a gate."""
    noise_decay: float = 0.9
    """Decay of the running noise, here the same as that of the momentum."""
    gate_weight_decay: bool = False
    """Whether the gate multiplies the weight decay too; here it does not."""
    batch_size: int = 512
    """Number of examples in the batch of a step."""

    def threshold(self, task: Task) -> float:
        """The level of pure noise for a task."""
        size = task.groups[0].dataset_size
        return float(null_level("exact", self.b1, math.inf, self.batch_size, size))

    def gate_settings(self, task: Task) -> dict[str, Any]:
        """The keywords of :func:`snrgate.snr_gate` for a task."""
        return super().gate_settings(task) | {"floor": self.floor}


@dataclasses.dataclass(frozen=True)
class FiniteAlgorithm1(Algorithm1):
    """Algorithm 1 with the paper's threshold for a data set that comes back."""

    alpha: float | None = None
    """Threshold on signal / noise; by default ``b / (n - b)`` with the n of the task."""
    batch_size: int = 128
    """Number of examples in the batch of a step."""

    def threshold(self, task: Task) -> float:
        """``b / (n - b)`` with the n of the task."""
        sizes = [group.dataset_size for group in task.groups]
        size = sizes[0]
        if len(sizes) > 1 or size is None or size <= self.batch_size:
            raise InputError(
                f"b / (n - b) takes one data set that is larger than a batch; here b is "
                f"{self.batch_size} and n {size if len(sizes) == 1 else sizes}"
            )
        return self.batch_size / (size - self.batch_size)


@dataclasses.dataclass(frozen=True)
class CosineAdamW(AdamW):
    """AdamW whose learning rate falls to zero along a cosine by the last step."""

    decay_steps: int = 1000
    """Number of the last step, where the learning rate is zero."""

    def rate(self) -> optax.Schedule:
        """The learning rate by step."""
        warmup = self.learning_rate_warmup
        shape = optax.warmup_cosine_decay_schedule(
            1 / max(warmup, 1), 1.0, max(warmup - 1, 0), self.decay_steps
        )
        return lambda step: self.learning_rate * shape(step)  # the rate may be traced


@dataclasses.dataclass(frozen=True)
class CosineGated(CosineAdamW, Gated):
    """The gated AdamW with the same schedule."""


@dataclasses.dataclass(frozen=True)
class Sam(AdamW):
    """AdamW on the gradient at the worst place nearby. It takes two gradients. arXiv 2010.01412."""

    radius: float = 0.05
    """Distance to the worst place."""

    def build(self, task: Task) -> Built:
        """AdamW on sharpness-aware gradients."""
        plain = mean_gradient(task.groups)

        def gradients(
            params: PyTree, batches: Batches, measure: Any = True
        ) -> tuple[Array, PyTree, dict[str, Any]]:
            value, grads, extra = plain(params, batches, measure)
            scale = self.radius / (optax.tree.norm(grads) + 1e-30)
            nearby = optax.tree.add_scale(params, scale, grads)
            return value, plain(nearby, batches, measure)[1], extra

        tx = optax.adamw(self.rate(), self.b1, self.b2, weight_decay=self.weight_decay)
        return Built(tx, gradients)
