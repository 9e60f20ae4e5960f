"""The loss and gradient of one example as a flat list of equations.

A jaxpr nests: ``jit``, ``checkpoint`` and functions with custom derivatives are calls. Here all
of them are opened, so that one can walk from a gradient back to the place where it was made.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from snrgate.annotations import Array, PyTree
from snrgate.moments.factored.places import gradient_of_groups

__all__ = [
    "Atom",
    "Constant",
    "Equation",
    "Program",
    "Variable",
    "callee",
    "dependent",
    "for_primitives",
    "live",
    "repeatable",
    "trace",
]

_REMAT = ("checkpoint", "remat", "remat2")
_CALLS = (
    *("jit", "pjit", "closed_call", "core_call", *_REMAT),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
)


class Variable:
    """A value of the program, known by its identity."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any):
        self.aval = aval


class Constant:
    """A literal."""

    __slots__ = ("aval", "value")

    def __init__(self, value: Any):
        self.value = value
        self.aval = jax.typeof(value)


Atom = Variable | Constant


class Equation(NamedTuple):
    """``outputs = apply(*inputs)``; name and params are those of the JAX primitive."""

    name: str
    params: dict[str, Any]
    inputs: tuple[Atom, ...]
    outputs: tuple[Variable, ...]
    apply: Callable[..., Iterable[Any]]
    effects: bool = False


class Program(NamedTuple):
    """Equations in an order in which they can be run."""

    inputs: tuple[Variable, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Atom, ...]

    def run(self, values: Iterable[Any], wanted: Iterable[Atom]) -> list[Any]:
        """The values of the ``wanted`` variables, given those of the inputs."""
        wanted = list(wanted)
        known = dict(zip(self.inputs, values, strict=True))

        def read(atom: Atom) -> Any:
            return atom.value if isinstance(atom, Constant) else known[atom]

        for equation in live(self.equations, wanted):
            results = equation.apply(*map(read, equation.inputs))
            known.update(zip(equation.outputs, results, strict=True))
        return [read(atom) for atom in wanted]


def for_primitives(table: dict[str, Any], *names: str) -> Callable[[Any], Any]:
    """Register the decorated function in ``table`` under the names of some primitives."""

    def register(function: Any) -> Any:
        table.update(dict.fromkeys(names, function))
        return function

    return register


def live(equations: Iterable[Equation], wanted: Iterable[Atom]) -> list[Equation]:
    """The equations that ``wanted`` needs, in order."""
    needed, kept = set(wanted), []
    for equation in reversed(tuple(equations)):
        if equation.effects or not needed.isdisjoint(equation.outputs):
            kept.append(equation)
            needed.update(equation.inputs)
    return kept[::-1]


def dependent(program: Program, inputs: Iterable[Variable]) -> set[Variable]:
    """The variables that depend on ``inputs``.

    A mutable array (``jax.new_ref``) that may have been written to depends on whatever was given
    to the same equation, and so does what is read from it.
    """
    found = set(inputs)
    while True:
        known = len(found)
        for equation in program.equations:
            if equation.name == "optimization_barrier":
                pairs = zip(equation.inputs, equation.outputs, strict=True)
                found.update(out for given, out in pairs if given in found)
            elif not found.isdisjoint(equation.inputs):
                found.update(equation.outputs)
                found.update(a for a in equation.inputs if _is_mutable(a))
        # What is written at the end of a loop's body is read at its start.
        if len(found) == known or not any(map(_is_mutable, found)):
            return found


def _is_mutable(atom: Atom) -> TypeGuard[Variable]:
    return hasattr(atom.aval, "inner_aval")  # what sets the type of a reference apart


def repeatable(equation: Equation) -> bool:
    """Whether an equation has the same results if it is run again, on other examples beside it.

    One that reads or writes anything has not, and neither has one that draws random numbers: what
    rbg keys draw under ``jax.vmap`` depends on the whole batch.
    """
    return not (equation.effects or _draws(equation.name, equation.params))


def _draws(name: str, params: dict[str, Any]) -> bool:
    return name.startswith(("random_", "rng_", "threefry")) or any(
        _draws(eqn.primitive.name, eqn.params)
        for jaxpr in core.jaxprs_in_params(params)
        for eqn in jaxpr.eqns
    )


def trace(loss_fn: Callable[..., Any], params: PyTree, batch: PyTree, has_aux: bool) -> Any:
    """The closed jaxpr of ``value_and_grad`` for one example of ``batch``.

    Its inputs are the parameters, a number that multiplies the loss, to be given as 1, and the
    example: what a backward pass carries from the loss to the parameters is what depends on that
    number. Its outputs are the loss, the leaves of the auxiliary output, and the gradients. What
    ``loss_fn`` closes over, traced values too, is among its constants. Like ``jax.grad`` it traces
    at every call; in a jitted step that is once.

    Returns:
        ``(closed jaxpr, treedef of the outputs)``.

    Raises:
        ValueError: the loss communicates over an axis of examples.
    """

    def times(params: PyTree, seed: Array, example: PyTree) -> Any:
        out = loss_fn(params, example)
        loss = jnp.asarray(out[0] if has_aux else out)
        loss = loss * seed.astype(loss.dtype)
        return (loss, out[1]) if has_aux else loss

    value_and_grad = jax.value_and_grad(times, has_aux=has_aux)
    make_jaxpr = jax.make_jaxpr(value_and_grad, return_shape=True)
    seen = []

    def look(example: PyTree) -> None:
        try:
            closed, shapes = make_jaxpr(params, np.float32(1), example)
        except NameError as error:
            if "axis name" not in str(error):
                raise
            raise ValueError(
                f"the loss of one example looks at other examples ({error}), so no example has a "
                "gradient of its own; freeze batch statistics (BatchNorm: use_running_average=True)"
            ) from error
        seen.append((closed, jax.tree.structure(shapes)))

    # Inside vmap an example has just the shape, dtype and sharding it will have when run.
    jax.eval_shape(jax.vmap(look), batch)
    return seen[0]


def flatten(jaxpr: core.Jaxpr) -> Program:
    """Open every call of a jaxpr. The inputs are its ``constvars``, then its ``invars``."""
    inputs = tuple(Variable(v.aval) for v in (*jaxpr.constvars, *jaxpr.invars))
    equations: list[Equation] = []
    outputs = _open(jaxpr, inputs, equations)
    return Program(inputs, tuple(equations), tuple(outputs))


def _open(jaxpr: core.Jaxpr, inputs: Iterable[Atom], equations: list[Equation]) -> list[Atom]:
    names: dict[Any, Atom] = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs, strict=True))

    def atom(v: Any) -> Atom:
        return Constant(v.val) if isinstance(v, core.Literal) else names[v]

    for eqn in jaxpr.eqns:
        arguments = tuple(map(atom, eqn.invars))
        if eqn.primitive.name in _CALLS:
            called, constants = callee(eqn.params)
            if eqn.primitive.name in _REMAT and eqn.params.get("differentiated"):
                arguments = _barrier(arguments, equations)
            results = _open(called, (*map(Constant, constants), *arguments), equations)
        else:
            results = [Variable(v.aval) for v in eqn.outvars]
            equations.append(
                Equation(
                    eqn.primitive.name,
                    eqn.params,
                    arguments,
                    tuple(results),
                    _application(eqn),
                    bool(eqn.effects),
                )
            )
        names.update(zip(eqn.outvars, results, strict=True))
    return [atom(v) for v in jaxpr.outvars]


def callee(params: dict[str, Any]) -> tuple[core.Jaxpr, list[Any]]:
    """The jaxpr that an equation calls, and the values of its ``constvars``."""
    called = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params)
    return (called.jaxpr, called.consts) if isinstance(called, core.ClosedJaxpr) else (called, [])


def _barrier(arguments: tuple[Atom, ...], equations: list[Equation]) -> tuple[Atom, ...]:
    """Keep a rematerialised block from being merged with its forward pass, as JAX itself does.

    Without it the compiler would find the block's activations twice and keep the first.
    """
    given = tuple(
        dict.fromkeys(a for a in arguments if isinstance(a, Variable) and not _is_mutable(a))
    )
    held: dict[Atom, Variable] = {a: Variable(a.aval) for a in given}
    equations.append(
        Equation(
            "optimization_barrier",
            {},
            given,
            tuple(held[a] for a in given),
            lambda *values: jax.lax.optimization_barrier(values),
        )
    )
    return tuple(held.get(a, a) for a in arguments)


def _application(eqn: Any) -> Callable[..., Iterable[Any]]:
    if eqn.params.get("batch_group_count", 1) > 1:
        formed = gradient_of_groups(eqn.params, eqn.outvars[0].aval)
        return lambda x, d: [formed(x, d)]

    def apply(*values: Any) -> Iterable[Any]:
        # Older versions of JAX return (functions, params), newer ones params.
        bound = eqn.primitive.get_bind_params(eqn.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        with eqn.ctx.manager:
            results = eqn.primitive.bind(*functions, *values, **params)
        return results if eqn.primitive.multiple_results else [results]

    return apply
