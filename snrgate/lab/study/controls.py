"""Controls of the gate: the same shrinkage of updates, without the choice of parameters."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import snrgate
from snrgate.annotations import Array, PyTree
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.optimizers import Built, Gated

__all__ = ["Control"]

_SEED = 0  # of the permutations


@dataclasses.dataclass(frozen=True)
class Control(Gated):
    """The gated AdamW with its gates given to the wrong units, or to all alike.

    With ``shuffled`` every tensor keeps its gates of this step in another order. This is a random
    mask at exactly the same pass rate. With ``mean`` every parameter gets the mean gate. This is
    AdamW with a smaller learning rate.
    """

    kind: Literal["shuffled", "mean"] = "shuffled"
    """Kind of control: gates in another order, or the mean gate for every parameter."""

    def build(self, task: Task) -> Built:
        """AdamW whose updates are multiplied by misplaced gates."""
        plain = optax.chain(
            optax.scale_by_adam(self.b1, self.b2), optax.add_decayed_weights(self.weight_decay)
        )
        # The wrapper multiplies an update of ones by the gates, and so shows the gates themselves.
        ones = optax.stateless(lambda u, _: jax.tree.map(jnp.ones_like, u))
        gates = snrgate.snr_gate(
            optax.chain(optax.scale_by_adam(self.b1, self.b2), ones),
            **self.gate_settings(task),
        )

        def misplaced(key: Array, q: PyTree) -> PyTree:
            leaves, structure = jax.tree.flatten(q)
            if self.kind == "mean":
                total = sum(jnp.sum(x) for x in leaves) / sum(x.size for x in leaves)
                return jax.tree.map(lambda x: jnp.full_like(x, total), q)
            keys = jax.random.split(key, len(leaves))
            shuffled = [
                jax.random.permutation(k, x, axis=-1) if x.ndim else x
                for k, x in zip(keys, leaves, strict=True)
            ]
            return jax.tree.unflatten(structure, shuffled)

        def init(params: PyTree) -> Any:
            return plain.init(params), gates.init(params), jax.random.key(_SEED)

        def update(
            grads: PyTree, state: Any, params: PyTree = None, **extra: Any
        ) -> tuple[PyTree, Any]:
            plain_state, gates_state, key = state
            key, now = jax.random.split(key)
            updates, plain_state = plain.update(grads, plain_state, params)
            q, gates_state = gates.update(grads, gates_state, params, **extra)
            updates = jax.tree.map(jnp.multiply, updates, misplaced(now, q))
            return updates, (plain_state, gates_state, key)

        tx = optax.chain(
            # pyrefly: ignore [bad-argument-type]  the extra arguments are optional
            optax.GradientTransformationExtraArgs(init, update),
            optax.scale_by_learning_rate(self.rate()),
        )
        return Built(tx, self.moments(task))
