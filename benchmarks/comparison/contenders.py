"""The contenders of the comparison: what is trained for each, and with which settings.

Ordinary optimizers have a grid of nine settings. What a twin tunes has four settings with two runs
each, and for labels one more run that learns their law. What nobody tunes has one run.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from snrgate import kronecker
from snrgate.gate import soft
from snrgate.kernel import Kernel
from snrgate.lab.study.peers import CosineAdamW, CosineGated, FiniteAlgorithm1, Sam
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.loop import mean_gradient
from snrgate.lab.training.optimizers import AdamW, Built, Gated, Soap

__all__ = [
    "GRID",
    "KERNELS",
    "PEERS",
    "SINGLE",
    "STRICT",
    "THRESHOLDS",
    "TWIN_GRID",
    "WIDE_GRID",
    "changed",
]

RATES, DECAYS = (1e-4, 5e-4, 3e-3), (0.0, 1.0, 10.0)
"""What the study's tuning has chosen for AdamW lies between these."""
GRID = [{"learning_rate": r, "weight_decay": d} for r, d in itertools.product(RATES, DECAYS)]
"""The nine settings of every ordinary optimizer."""
WIDE_GRID = [
    {"learning_rate": r, "weight_decay": d}
    for r, d in itertools.product((*RATES, 1e-2), (*DECAYS, 30.0))
]
"""Sixteen settings: a higher rate and a stronger decay besides."""
TWIN_GRID = [{"learning_rate": r, "weight_decay": d} for r in (5e-4, 3e-3) for d in (0.0, 10.0)]
"""The four settings of AdamW that a twin chooses among: with their twins and the law, nine runs."""
THRESHOLDS = [{"z": z, "weight_decay": 0.0} for z in (0.5, 0.7, 1.0, 1.2)]
"""The four thresholds that a twin chooses among."""
TUNED = [
    {"z": 0.7, "weight_decay": 0.0},
    {"z": 1.0, "weight_decay": 0.0},
    {"learning_rate": 3e-3, "z": 0.7, "weight_decay": 1.0},
    {"learning_rate": 3e-3, "z": 1.0, "weight_decay": 10.0},
]
"""Thresholds, rates and decays that a twin chooses among: four again, each the best somewhere on
the tuning seeds."""
STRICT = {"z": 1.2, "weight_decay": 0.0}
"""Threshold of the run that learns the law of the labels."""


@dataclasses.dataclass(frozen=True)
class Misplaced(Gated):
    """The gate with its values in the wrong places: in another order, or all at their mean."""

    how: str = "shuffled"
    """Whether a tensor's gates are "shuffled" or "mean"."""

    def gate_settings(self, task: Task) -> dict[str, Any]:
        """The keywords of the gate, with a rule that misplaces what the soft rule gives."""
        return super().gate_settings(task) | {"gate": functools.partial(_misplaced, self.how)}


@dataclasses.dataclass(frozen=True)
class OpenSoap(Soap):
    """SOAP: Adam in the eigenvectors of the noise, with all gates open."""

    def gate_settings(self, task: Task) -> dict[str, Any]:
        """The keywords of the gate, with a rule that always says one."""
        return super().gate_settings(task) | {"gate": _opened}


@dataclasses.dataclass(frozen=True)
class EchoMuon(AdamW):
    """Muon whose singular directions count as far as a slower momentum has them too.

    After the package echomuon 0.3.0, with its gate wholly on and without the controller that
    would weaken it. The output kernel, vectors and convolutions have AdamW with the settings of
    its authors' example.
    """

    def build(self, task: Task) -> Built:
        """The rule for hidden kernels beside AdamW for the rest."""
        hidden = hidden_kernels(task.params)
        labels = jax.tree.map_with_path(
            lambda path, _: "echo" if jax.tree_util.keystr(path) in hidden else "rest", task.params
        )
        echo = optax.chain(
            scale_by_echo(),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.rate()),
        )
        rest = optax.adamw(3e-4, 0.9, 0.95, weight_decay=0.1)
        tx = optax.partition({"echo": echo, "rest": rest}, labels)
        return Built(tx, mean_gradient(task.groups))


def hidden_kernels(params: Any) -> set[str]:
    """The paths of the dense kernels, but for that of the output."""
    leaves = jax.tree.leaves_with_path(params)
    paths = [jax.tree_util.keystr(path) for path, leaf in leaves if leaf.ndim == 2]
    named = [path for path in paths if "head" in path or "last" in path]
    output = named[0] if named else max(paths, key=lambda path: [int(n) for n in _digits(path)])
    return set(paths) - {output}


def _digits(path: str) -> list[str]:
    return re.findall(r"[0-9]+", path)


def scale_by_echo(
    fast: float = 0.95, slow: float = 0.99, every: int = 100, least: float = 0.1
) -> optax.GradientTransformation:
    """Orthogonalised momentum, with a gate for each singular direction.

    Args:
        fast: decay of the momentum.
        slow: decay of the momentum that confirms it.
        every: number of steps between two measurements of the gates.
        least: smallest gate.
    """

    def init(params: Any) -> Any:
        zeros = optax.tree.zeros_like(params)
        shut = jax.tree.map(lambda p: jnp.zeros((min(p.shape),) * 2, p.dtype), params)
        return jnp.zeros((), int), zeros, zeros, shut

    def measured(first: jax.Array, second: jax.Array) -> jax.Array:
        """What the gates take away, as a matrix from the left."""
        wide = first.shape[0] <= first.shape[1]
        first, second = (first, second) if wide else (first.T, second.T)
        values, turn = jnp.linalg.eigh(first @ first.T)
        support = jnp.sum(turn * (second @ first.T @ turn), 0) / jnp.maximum(values, 1e-12)
        gates = jnp.clip(support / jnp.maximum(jnp.median(support), 1e-12), least, 1)
        return (turn * (1 - gates)[None, :]) @ turn.T

    def through(lost: jax.Array, u: jax.Array) -> jax.Array:
        u = _orthogonal(u)
        kept = u - lost @ u if u.shape[0] <= u.shape[1] else u - (lost @ u.T).T
        return kept * max(1.0, u.shape[1] / u.shape[0]) ** 0.5

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count, first, second, lost = state
        count = count + 1
        lost = jax.lax.cond(
            count % every == 0,
            lambda: jax.tree.map(measured, first, second),
            lambda: lost,
        )
        first = jax.tree.map(lambda m, g: fast * m + g, first, grads)
        second = jax.tree.map(lambda m, g: slow * m + g, second, grads)
        ahead = jax.tree.map(lambda g, m: g + fast * m, grads, first)
        return jax.tree.map(through, lost, ahead), (count, first, second, lost)

    return optax.GradientTransformation(init, update)


def _orthogonal(x: jax.Array) -> jax.Array:
    """The quintic Newton-Schulz iteration of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def _misplaced(how: str, signal: Any, noise: Any, alpha: Any, softness: Any) -> jax.Array:
    gates = soft(signal, noise, alpha, softness)
    if how == "mean":
        return jnp.full_like(gates, jnp.mean(gates))
    # The order follows from the evidence itself, so it is another one after each measurement.
    seed = jax.lax.bitcast_convert_type(jnp.sum(signal).astype(jnp.float32), jnp.int32)
    return jax.random.permutation(jax.random.key(seed), gates.reshape(-1)).reshape(gates.shape)


def _opened(signal: Any, noise: Any, alpha: Any, softness: Any) -> jax.Array:
    return jnp.ones_like(signal)


KERNELS = Gated(1e-3, block="kronecker", fitted=0.0)
"""The gate by rows and columns, in the better one of two bases."""
TOLD: dict[str, AdamW] = {
    "AdamW": AdamW(1e-3),
    "gate": KERNELS,
    "gate, size unknown": dataclasses.replace(KERNELS, finite=False),
    "gate per unit": Gated(1e-3),
    "gate per unit, size unknown": Gated(1e-3, finite=False),
}
"""Runs on equations and rules, where the number of examples may mislead the gate."""
SINGLE: dict[str, AdamW] = {
    "AdamW": AdamW(1e-3),
    "gate, size unknown": TOLD["gate, size unknown"],
    "gate per unit": Gated(1e-3),
    "paper's gate": FiniteAlgorithm1(1e-3),
    "SOAP, gated": Soap(1e-3),
    "SOAP": OpenSoap(1e-3),
    "shuffled": Misplaced(1e-3, block="kronecker", fitted=0.0, how="shuffled"),
    "mean": Misplaced(1e-3, block="kronecker", fitted=0.0, how="mean"),
    "own basis alone": KERNELS,
    "eigenvectors alone": KERNELS,
    "without doubt": KERNELS,
    "gate, cosine": CosineGated(1e-3, block="kronecker", fitted=0.0),
    "gate, strict": dataclasses.replace(KERNELS, z=1.4),
}
"""Runs that nobody tunes: a learning rate of 1e-3, no decay, the last step."""
SCHEDULED = {"cosine": (CosineAdamW(), "plain", GRID)}
"""AdamW whose rate falls to zero, which a hold-out tunes."""
PEERS: dict[str, tuple[AdamW, str, list[dict[str, float]]]] = {
    "SAM": (Sam(), "plain", GRID),
    "GCE": (AdamW(), "gce", GRID),
    "ELR": (AdamW(), "elr", GRID),
    "EchoMuon": (
        EchoMuon(),
        "plain",
        [{"learning_rate": r, "weight_decay": d} for r in (2e-3, 1e-2, 5e-2) for d in (0, 0.1, 1)],
    ),
}
"""Optimizer, loss and the nine settings of each peer that a hold-out tunes."""
HELD_OUT = {"AdamW": (AdamW(), "plain", GRID), **SCHEDULED, **PEERS}
"""Everything that a hold-out tunes."""


def changed(name: str) -> ExitStack:
    """A context in which a run of :data:`SINGLE` is compiled: a part of the gate is left out."""
    stack = ExitStack()
    if name == "own basis alone":  # the eigenvectors stay what they are at first, unit vectors
        stack.enter_context(mock.patch.object(Kernel, "renewed", lambda self, noise, view: view))
    if name == "eigenvectors alone":  # no evidence is seen in the other basis
        stack.enter_context(mock.patch.object(kronecker, "ratios", _ratios_without_own))
    if name == "without doubt":
        stack.enter_context(
            mock.patch.object(kronecker, "doubt", lambda *a: jnp.ones_like(_DOUBT(*a)))
        )
    return stack


_RATIOS: Callable[..., Any] = kronecker.ratios
_DOUBT: Callable[..., Any] = kronecker.doubt


def _ratios_without_own(signal: Any, noise: Any, bases: Any, stack: int) -> Any:
    found = _RATIOS(signal, noise, bases, stack)
    return jax.tree.map(jnp.zeros_like, found) if all(basis is None for basis in bases) else found
