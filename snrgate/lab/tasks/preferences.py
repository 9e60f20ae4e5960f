"""A language model that learns preferences: adapters in its upper blocks, all else cached."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from snrgate import preferences
from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.packing import Packed, layout
from snrgate.lab.tasks.task import Group, Task, require
from snrgate.models.causal_lm import CausalLM, add_lora

__all__ = [
    "Examples",
    "Learning",
    "Loss",
    "examples",
    "make_task",
    "seconds_of_pair",
    "with_adapters",
]

Loss = Literal["dpo", "cdpo", "rdpo", "ipo", "dr_dpo"]

_CHUNK = 16  # pairs that are run through the model at once outside training


@dataclasses.dataclass(frozen=True)
class Learning:
    """What is learned, and by which loss."""

    loss: Loss = "dpo"
    """Loss of a pair."""
    beta: float = 0.1
    """Strength of the pull to the reference."""
    flip_rate: float = 0.3
    """Share of wrong labels that the losses cdpo and rdpo reckon with."""
    temperature: float = 1.0
    """Temperature of the loss dr_dpo; pairs with a large loss count less the smaller it is."""
    layers: int = 2
    """Number of upper blocks that get adapters; all below them is computed once."""
    rank: int = 8
    """Rank of the adapters."""
    targets: tuple[str, ...] = ("q", "v")
    """Linear layers that get adapters, of q, k, v, o, gate, up and down."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        most = "below 0.5" if self.loss == "rdpo" else "at most 0.5"
        fits = self.flip_rate < 0.5 if self.loss == "rdpo" else self.flip_rate <= 0.5
        require(
            self,
            beta=(self.beta > 0, "more than 0"),
            flip_rate=(self.flip_rate >= 0 and fits, f"at least 0 and {most}"),
            temperature=(self.temperature > 0, "more than 0"),
            layers=(self.layers >= 1, "at least 1"),
            rank=(self.rank >= 1, "at least 1"),
        )

    def of_margin(self, margin: Float[Array, ""]) -> Float[Array, ""]:
        """The loss of one pair from its margin."""
        if self.loss in ("cdpo", "rdpo"):
            robust = getattr(preferences, self.loss)
            return robust(margin, self.beta, flip_rate=self.flip_rate)
        return (preferences.ipo if self.loss == "ipo" else preferences.dpo)(margin, self.beta)


class Examples(NamedTuple):
    """Pairs as a training step needs them.

    Attributes:
        packed: the tokens and where they stand.
        hidden: states below the first trained block, ``(n, t, d)``.
        reference: log-probabilities of both replies under the reference, ``(n, 2)``, in nats.
    """

    packed: Packed
    hidden: Array
    reference: Array


def with_adapters(model: CausalLM, settings: Learning, seed: int) -> CausalLM:
    """A model with new adapters in its upper blocks; the given one stays as it is.

    Args:
        model: the reference.
        settings: number of blocks, rank and layers of the adapters.
        seed: of the initial adapters.
    """
    require(
        settings,
        layers=(settings.layers <= len(model.blocks), f"at most {len(model.blocks)}, the blocks"),
    )
    if not settings.targets:
        raise InputError("targets is empty; name layers that get adapters, such as q v")
    new = nnx.merge(*nnx.split(model))
    try:
        add_lora(
            new,
            settings.rank,
            targets=settings.targets,
            first_layer=len(model.blocks) - settings.layers,
            rngs=nnx.Rngs(params=seed),
        )
    except ValueError as error:
        raise InputError(f"targets = {settings.targets}: {error}") from error
    return new


def examples(model: CausalLM, packed: Packed, layers: int) -> Examples:
    """Compute what does not change in training: lower states and the reference.

    Args:
        model: the reference.
        packed: the pairs.
        layers: number of trained blocks.
    """
    graph, frozen = nnx.split(model)
    first = len(model.blocks) - layers
    hidden, reference = _in_chunks(lambda part: _of_chunk(graph, first, frozen, part), packed)
    return Examples(jax.tree.map(jnp.asarray, packed), jnp.asarray(hidden), jnp.asarray(reference))


def seconds_of_pair(model: CausalLM, packed: Packed, layers: int) -> float:
    """How long :func:`examples` takes for a pair, measured on a few after compiling.

    Args:
        model: the reference.
        packed: the pairs.
        layers: number of trained blocks.
    """
    graph, frozen = nnx.split(model)
    some = jax.tree.map(lambda x: np.resize(x, (_CHUNK, *x.shape[1:])), packed)
    run = functools.partial(_of_chunk, graph, len(model.blocks) - layers, frozen, some)
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    return (time.perf_counter() - began) / _CHUNK


@functools.partial(jax.jit, static_argnames=("graph", "first"))
def _of_chunk(graph: Any, first: int, frozen: PyTree, packed: Packed) -> tuple[Array, Array]:
    """States below the first trained block, and log-probabilities, of some pairs."""
    model = nnx.merge(graph, frozen)
    where = layout(packed)
    hidden = model.run(model.embed(packed.tokens), 0, first, where._replace(at=None))
    of_pairs = jax.vmap(functools.partial(_log_probabilities, model, first))
    return hidden, of_pairs(packed, hidden)[0]


def make_task(
    model: CausalLM,
    settings: Learning,
    train: Examples,
    test: Examples,
    held_out: Examples | None = None,
    kl_pairs: int = 32,
) -> Task:
    """The task.

    Args:
        model: of :func:`with_adapters`.
        settings: the loss.
        train: pairs to learn from.
        test: pairs to measure on.
        held_out: further pairs whose loss is measured, as noisy as those to learn from.
        kl_pairs: number of test pairs on which the KL divergence is measured.

    Returns:
        A task measured by ``accuracy``, the reward accuracy of the test pairs. ``drift`` is their
        mean absolute log-ratio, in nats; times ``beta`` it is the drift of the reward. ``kl`` is
        the KL divergence a token. ``held_out_loss`` is there where pairs are held out.
    """
    graph, params, frozen = nnx.split(model, nnx.LoRAParam, ...)
    first = len(model.blocks) - settings.layers

    def margin(params: PyTree, example: Examples) -> Array:
        model = nnx.merge(graph, params, frozen)
        packed, hidden, reference = example
        log_ratios = _log_probabilities(model, first, packed, hidden)[0] - reference
        if settings.loss == "ipo":  # as its authors and TRL do
            log_ratios = log_ratios / jnp.sum(packed.owner, axis=0)
        return log_ratios[0] - log_ratios[1]

    def loss(params: PyTree, example: Examples) -> Array:
        return settings.of_margin(margin(params, example))

    def sample(key: Array, number: int) -> Examples:
        index = jax.random.randint(key, (number,), 0, len(train.hidden))
        return jax.tree.map(lambda x: x[index], train)

    tilt = settings.temperature if settings.loss == "dr_dpo" else None
    group = Group(loss, sample, len(train.hidden), tilt)
    evaluate = _evaluation(graph, params, frozen, first, test, held_out, kl_pairs, settings.beta)
    return Task(params, (group,), evaluate, "accuracy", higher_is_better=True, large=True)


def _log_probabilities(
    model: CausalLM, first: int, packed: Packed, hidden: Array
) -> tuple[Float[Array, " 2"], Float[Array, "q v"]]:
    """Log-probabilities of both replies of one pair, and the logits that they come from."""
    logits = model.logits(model.run(hidden, first, None, layout(packed)))
    of_tokens = logits[packed.row, packed.target] - jax.nn.logsumexp(logits, -1)[packed.row]
    return of_tokens @ packed.owner, logits


def _evaluation(
    graph: Any,
    start: PyTree,
    frozen: PyTree,
    first: int,
    test: Examples,
    held_out: Examples | None,
    kl_pairs: int,
    beta: float,
) -> Callable[[PyTree], dict[str, Array]]:
    def outputs(params: PyTree, frozen: PyTree, part: Examples) -> tuple[Array, Array]:
        model = nnx.merge(graph, params, frozen)
        of_pairs = jax.vmap(functools.partial(_log_probabilities, model, first))
        return of_pairs(part.packed, part.hidden)

    @jax.jit
    def log_ratios(params: PyTree, frozen: PyTree, part: Examples) -> Array:
        return outputs(params, frozen, part)[0] - part.reference

    @jax.jit
    def divergence(params: PyTree, frozen: PyTree, part: Examples) -> Array:
        last = jnp.max(part.packed.row, axis=-1, keepdims=True)
        predicted = jnp.arange(part.packed.at.shape[-1])[None] <= last
        mask = jnp.asarray(predicted, jnp.float32)
        new, old = (outputs(p, frozen, part)[1] for p in (params, start))
        kl = preferences.kl_per_token(new, old, mask)
        return jnp.stack([kl * jnp.sum(mask), jnp.sum(mask)])

    def evaluate(params: PyTree) -> dict[str, Array]:
        of_test = jnp.asarray(_in_chunks(lambda part: log_ratios(params, frozen, part), test))
        some = jax.tree.map(lambda x: x[:kl_pairs], test)
        total, count = _in_chunks(
            lambda part: divergence(params, frozen, part)[None], some, whole=False
        ).sum(0)
        found = {
            "accuracy": preferences.reward_accuracy(of_test[:, 0], of_test[:, 1]),
            "drift": preferences.drift(of_test),
            "chosen_log_ratio": jnp.mean(of_test[:, 0]),
            "kl": total / count,
        }
        if held_out is not None:
            ratios = _in_chunks(lambda part: log_ratios(params, frozen, part), held_out)
            margins = jnp.asarray(ratios[:, 0] - ratios[:, 1])
            found["held_out_loss"] = jnp.mean(preferences.dpo(margins, beta))
        return found

    return evaluate


def _in_chunks(function: Callable[[Any], Any], tree: PyTree, *, whole: bool = True) -> Any:
    """Run a function on a few examples at a time; the last chunk is filled and cut again."""
    count = len(jax.tree.leaves(tree)[0])
    results = []
    for begin in range(0, count, _CHUNK):
        index = np.minimum(np.arange(begin, begin + _CHUNK), count - 1)
        if not whole:
            index = np.arange(begin, min(begin + _CHUNK, count))
        results.append(function(jax.tree.map(lambda x, index=index: x[index], tree)))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
    return jax.tree.map(lambda x: x[:count], joined) if whole else joined
