"""The runs of the comparison: one program for all settings, seeds and targets of a row.

Data, targets, seeds, learning rates, decays and thresholds are arguments of the compiled steps. A
row therefore compiles each kind of optimizer once, and most of its time is training.
"""

import copy
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from snrgate import value_and_moments
from snrgate.lab.tasks.task import Supervised, Task
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training
from snrgate.lab.training.watch import risk_columns, watched
from snrgate.state import measures_next

__all__ = ["Data", "Program", "curve_of", "evidence_against", "risk_from_gradients", "without"]

_AVERAGED = 0.998  # decay of the average of the parameters
_REMEMBERED = 0.7  # decay of the remembered answers, and
_PULL = 3.0  # strength of their pull: the settings of Liu et al., arXiv 2007.00151, for CIFAR-10
_POWER = 0.7  # exponent of the generalised cross-entropy (Zhang and Sabuncu, arXiv 1805.07836)


class Data(NamedTuple):
    """What is trained on, and what is held out of it (empty where nothing is)."""

    inputs: jax.Array
    targets: jax.Array
    held_inputs: jax.Array
    held_targets: jax.Array


class Carry(NamedTuple):
    """The state of a run.

    Attributes:
        step: number of steps taken.
        params: parameters.
        opt_state: state of the optimizer.
        average: exponential average of the parameters.
        memory: remembered answers of every example; empty where the loss does not use them.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any
    memory: jax.Array


def without(data: Supervised, seed: int, parts: int, part: int = 0) -> Data:
    """The data with one of several equal parts held out.

    Args:
        data: of the task.
        seed: of the order of the examples.
        parts: number of parts; 0 holds nothing out.
        part: which of them is held out.
    """
    order = np.random.default_rng([seed, 1]).permutation(len(data.inputs))
    size = len(order) // parts if parts else 0
    out = order[part * size : (part + 1) * size]
    kept = np.setdiff1d(order, out)
    arrays = (data.inputs[kept], data.targets[kept], data.inputs[out], data.targets[out])
    return Data(*map(jnp.asarray, arrays))


class Program:
    """Compiled steps of one kind of optimizer on one network.

    Args:
        task: whose network and loss are learned.
        kind: the optimizer; its learning rate, weight decay and ``z`` are arguments of the steps.
        batch_size: number of examples in the batch of a step.
        loss: "plain", "gce" (generalised cross-entropy) or "elr" (early-learning regularisation).
        monitored: whether the state holds the risk that follows from the gradients.
    """

    def __init__(
        self, task: Task, kind: AdamW, batch_size: int, loss: str = "plain", monitored: bool = False
    ):
        assert task.supervised is not None
        self.task, self.kind, self.batch_size, self.loss = task, kind, batch_size, loss
        self.data, self.monitored = task.supervised, monitored
        self.stretch = jax.jit(self._stretch, static_argnames="length")
        self.outputs = jax.jit(self._outputs)

    def fits(self, task: Task) -> bool:
        """Whether the network of a task is this one, so that its parameters may be used here."""
        x = jnp.asarray(self.data.inputs[0])
        own, other = (t.supervised.predict for t in (self.task, task))  # type: ignore[union-attr]
        return bool(jnp.array_equal(own(task.params, x), other(task.params, x)))

    def start(self, params: Any, data: Data, hyper: Mapping[str, Any]) -> Carry:
        """The state before the first step."""
        tx, _ = self._built(data, hyper)
        out = jax.eval_shape(self.data.predict, params, data.inputs[0])
        memory = jnp.zeros((len(data.inputs), *out.shape) if self.loss == "elr" else (0,))
        return Carry(jnp.zeros((), int), params, tx.init(params), params, memory)

    def _built(self, data: Data, hyper: Mapping[str, Any]) -> tuple[Any, Any]:
        part = self.data._replace(inputs=data.inputs, targets=data.targets)  # type: ignore[arg-type]
        if self.loss == "gce":
            part = part._replace(loss=_generalised)
        task = self.task._replace(groups=(part.group(data.targets),))
        optimizer = _with_arguments(self.kind, hyper)
        built = watched(optimizer, task) if self.monitored else optimizer.build(task)
        return optax.with_extra_args_support(built.tx), built.gradients

    def _stretch(
        self, carry: Carry, data: Data, stream: jax.Array, hyper: Any, *, length: int
    ) -> Carry:
        tx, gradients = self._built(data, hyper)

        def step(carry: Carry, _: None) -> tuple[Carry, None]:
            key = jax.random.fold_in(stream, carry.step)
            index = jax.random.randint(key, (self.batch_size,), 0, len(data.inputs))
            x, y = data.inputs[index], data.targets[index]
            memory = carry.memory
            if self.loss == "elr":
                grads, memory = self._early_learning(carry.params, x, y, memory, index)
                extra: dict[str, Any] = {}
            else:
                gated = optax.tree.get(carry.opt_state, "gate_fraction") is not None
                measure = measures_next(carry.opt_state) if gated else True
                _, grads, extra = gradients(carry.params, ((x, y),), measure)
            updates, opt_state = tx.update(grads, carry.opt_state, carry.params, **extra)
            params = optax.apply_updates(carry.params, updates)
            decay = jnp.minimum(_AVERAGED, (1 + carry.step) / (10 + carry.step))
            average = optax.incremental_update(params, carry.average, 1 - decay)
            return Carry(carry.step + 1, params, opt_state, average, memory), None

        return jax.lax.scan(step, carry, length=length)[0]

    def _early_learning(
        self, params: Any, x: jax.Array, y: jax.Array, memory: jax.Array, index: jax.Array
    ) -> tuple[Any, jax.Array]:
        """The gradient of early-learning regularisation, and the answers remembered afterwards."""

        def answer(params: Any) -> jax.Array:
            return jax.vmap(self.data.predict, (None, 0))(params, x)

        law = jnp.clip(jax.nn.softmax(answer(params)), 1e-4, 1 - 1e-4)
        law = law / law.sum(-1, keepdims=True)
        new = _REMEMBERED * memory[index] + (1 - _REMEMBERED) * law
        memory = memory.at[index].set(new)

        def loss(params: Any) -> jax.Array:
            logits = answer(params)
            law = jnp.clip(jax.nn.softmax(logits), 1e-4, 1 - 1e-4)
            pull = jnp.log(1 - jnp.sum(memory[index] * law, -1))
            return jnp.mean(
                optax.softmax_cross_entropy_with_integer_labels(logits, y) + _PULL * pull
            )

        return jax.grad(loss)(params), memory

    def _outputs(self, params: Any, inputs: jax.Array) -> jax.Array:
        return jax.lax.map(lambda x: self.data.predict(params, x), inputs, batch_size=2**11)


def curve_of(
    program: Program, task: Task, settings: Training, data: Data, hyper: Mapping[str, float]
) -> Any:
    """Train, and yield the state at every evaluation.

    Args:
        program: of the optimizer.
        task: whose initial parameters are taken.
        settings: steps, evaluations and the seed of the batches.
        data: what is trained on.
        hyper: learning rate, weight decay and threshold.

    Yields:
        The carry.
    """
    given = {k: jnp.asarray(v, jnp.float32) for k, v in hyper.items()}
    carry = program.start(task.params, data, given)
    stream = jax.random.key(settings.seed)
    for _ in range(settings.steps // settings.eval_every):
        carry = program.stretch(carry, data, stream, given, length=settings.eval_every)
        yield carry


@functools.partial(jax.jit, static_argnums=0)
def _evidence_against(loss: Any, params: Any, data: Any) -> jax.Array:
    moments = value_and_moments(loss, block="parameter")(params, data)[1]
    ratios = jax.tree.map(
        lambda g, n: jnp.where(n > 0, g * g / jnp.where(n > 0, n, 1), 0),
        moments.mean,
        moments.noise,
    )
    moving = sum(jnp.sum(n > 0) for n in jax.tree.leaves(moments.noise))
    return 1 - optax.tree.sum(ratios) / moving


def evidence_against(loss: Any, params: Any, data: Data) -> float:
    """The evidence-based criterion, which says to stop where it is positive.

    It is ``1 - mean(g^2 / (sigma^2 / n))`` over the parameters, with the gradient of all training
    examples (Mahsereci et al., arXiv 1703.09580, equation 12).
    """
    return float(_evidence_against(loss, params, (data.inputs, data.targets)))


def risk_from_gradients(carry: Carry) -> float:
    """The population risk that the leave-one-out gradients of a monitored run say."""
    return risk_columns(carry.opt_state)["risk"]


def _with_arguments(kind: AdamW, hyper: Mapping[str, Any]) -> AdamW:
    """Settings with arguments of the program in the place of numbers.

    The annotations of the settings, which a command line reads, speak of numbers alone.
    """
    optimizer = copy.copy(kind)
    for name, value in hyper.items():
        object.__setattr__(optimizer, name, value)
    return optimizer


def _generalised(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The generalised cross-entropy, which hardly follows labels that it finds unlikely."""
    return -jnp.expm1(_POWER * jax.nn.log_softmax(logits)[label]) / _POWER
