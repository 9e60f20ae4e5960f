"""``lax.scan`` over layers or time: its body's factors come out of the loop, its sums do not.

A scan either stacks one gradient a step (over layers: every layer its own) or adds to one (over
time: every step a use of the same parameter). In both cases the body ends in a product, and the
loop is run so that it returns the factors of all steps. The gradients that it would have made
are then unused, and the compiler drops them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array
from snrgate.moments.factored.layout import GROUP, Layout
from snrgate.moments.factored.trace import (
    Atom,
    Constant,
    Equation,
    Program,
    Variable,
    callee,
    dependent,
    flatten,
)

__all__ = ["Loop", "grouped_layout", "over_steps"]


class Loop:
    """One ``scan`` equation and the values of its body that it is to return besides its own."""

    def __init__(self, equation: Equation, varying: set[Variable]):
        self.equation = equation
        jaxpr, self._closure = callee(equation.params)
        self.body = flatten(jaxpr)
        self.length = equation.params["length"]
        self._consts, self._carries = _numbers(equation.params)
        # The inputs of the body: constants of its closure, then what the equation is given.
        self._given = self.body.inputs[len(self._closure) :]
        self._varying = self.reached(varying)
        self.returned: dict[Variable, Variable] = {}

    @property
    def varying(self) -> set[Variable]:
        """The variables of the body that differ between examples."""
        return self._varying

    def reached(self, outside: set[Variable]) -> set[Variable]:
        """The variables of the body that depend on any of some variables outside."""
        seeds = {v for v, a in zip(self._given, self.equation.inputs, strict=True) if a in outside}
        carried = self._given[self._consts : self._consts + self._carries]
        while True:
            found = dependent(self.body, seeds)
            ends = zip(carried, self.body.outputs[: self._carries], strict=True)
            new = {start for start, end in ends if end in found} - seeds
            if not new:
                return found
            seeds |= new

    def output(self, variable: Atom) -> tuple[Atom, Variable | None, Atom | None]:
        """What an output of the scan is made of.

        Returns:
            The body's value; for a carry also the body's input it starts from, and its first
            value, a variable outside.
        """
        i = list[Atom](self.equation.outputs).index(variable)
        if i >= self._carries:
            return self.body.outputs[i], None, None
        place = self._consts + i
        return self.body.outputs[i], self._given[place], self.equation.inputs[place]

    def increments(self, end: Atom, start: Variable) -> list[Atom] | None:
        """Values whose sum a step adds to a carry; ``None`` if the carry has another use."""
        maker: dict[Atom, Equation] = {v: e for e in self.body.equations for v in e.outputs}
        terms, pending = [], [end]
        while pending:
            atom = pending.pop()
            made = maker.get(atom)
            if made is not None and made.name in ("add", "add_any") and _same_shape(made):
                pending += made.inputs
            else:
                terms.append(atom)
        uses = sum(list(eqn.inputs).count(start) for eqn in self.body.equations)
        uses_as_output = self.body.outputs.count(start)
        if terms.count(start) != 1 or uses != 1 or uses_as_output:
            return None
        return [t for t in terms if t is not start]

    def outside(self, atom: Atom, varying: set[Variable]) -> Atom:
        """The values of a variable of the body at all steps, stacked, as a variable outside."""
        if isinstance(atom, Constant):
            return atom
        if atom not in self.returned:
            shape = (self.length, *atom.aval.shape)
            self.returned[atom] = Variable(jax.ShapeDtypeStruct(shape, atom.aval.dtype))
            if atom in self._varying:
                varying.add(self.returned[atom])
        return self.returned[atom]

    def rewritten(self, body: Program) -> Equation:
        """The scan that also returns what was asked for; ``body`` is its body, itself rewritten."""
        params, consts = self.equation.params, self._consts

        def apply(*values: Any) -> Iterable[Any]:
            closed, start = values[:consts], values[consts : consts + self._carries]

            def step(carry: Any, xs: Any) -> tuple[Any, Any]:
                given = (*self._closure, *closed, *carry, *xs)
                results = body.run(given, (*body.outputs, *self.returned))
                return tuple(results[: self._carries]), tuple(results[self._carries :])

            end, stacked = jax.lax.scan(
                step,
                start,
                values[consts + self._carries :],
                length=self.length,
                reverse=params["reverse"],
                unroll=params["unroll"],
            )
            return (*end, *stacked)

        outputs = (*self.equation.outputs, *self.returned.values())
        return self.equation._replace(outputs=outputs, apply=apply)


def _numbers(params: dict[str, Any]) -> tuple[int, int]:
    """How many constants and how many carries a scan has."""
    if "ft_in" in params:  # jax 0.12 and later
        consts, carries, _ = params["ft_in"].unpack()
        return len(consts), len(carries)
    return params["num_consts"], params["num_carry"]


def _same_shape(eqn: Equation) -> bool:
    a, b = eqn.inputs
    return a.aval.shape == b.aval.shape


def over_steps(
    view: Callable[..., Array], inputs: tuple[Atom, ...], length: int, *, as_groups: bool
) -> Callable[..., Array]:
    """The view of a factor at one step, for the values of all steps.

    Args:
        view: of one step, to ``(groups, uses, size)``.
        inputs: what it is given; constants have no axis of steps.
        length: how many steps there are.
        as_groups: whether every step is a group of its own, or more uses of the same one.
    """
    axes = [None if isinstance(a, Constant) else 0 for a in inputs]

    def stacked(*values: Any) -> Array:
        # A factor may be a constant, and then has no input with an axis of steps.
        steps = jax.vmap(lambda _, *own: view(*own), (0, *axes))(jnp.arange(length), *values)
        _, groups, uses, size = steps.shape
        if as_groups:
            return steps.reshape(length * groups, uses, size)
        return jnp.moveaxis(steps, 0, 1).reshape(groups, length * uses, size)

    return stacked


def grouped_layout(layout: Layout, length: int) -> Layout:
    """The layout of gradients stacked over steps, an axis of groups in front."""
    if length == 1:
        return layout
    axes = ((o, i + 1) if o == GROUP else (o, i) for o, i in layout.axes)
    return Layout(((GROUP, 0), *axes), (length, *layout.sizes))
