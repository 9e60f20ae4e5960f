"""Where to stop the backward pass of a gradient that no rule understands.

The gradient itself can be much larger than what it is made of. Then its last equations are left
to be run for a few examples at a time. Equations that would not have the same results then, such as
those that draw random numbers, are not among them.
"""

import math
from collections.abc import Iterable
from typing import Any

from snrgate.moments.factored.trace import Atom, Program, Variable, live, repeatable

__all__ = ["SMALL", "tail"]

SMALL = 4096
"""Gradients of no more numbers are formed for all examples at once."""

_PATIENCE = 8


def tail(program: Program, varying: set[Variable], gradient: Atom) -> Program:
    """The end of the program that makes ``gradient``, from as few numbers as possible.

    Walks back a few equations and takes the place that the fewest numbers cross; no further, lest
    whole layers are run again. The inputs of the result are variables of ``program``.
    """
    crossing, best, idle = {gradient}, {gradient}, 0
    for equation in reversed(live(program.equations, [gradient])):
        made = crossing.intersection(equation.outputs)
        if not made or _numbers(gradient.aval) <= SMALL or not repeatable(equation):
            continue
        crossing = (crossing - made) | {a for a in equation.inputs if a in varying}
        if _total(crossing) < _total(best):
            best, idle = set(crossing), 0
        elif (idle := idle + 1) > _PATIENCE:
            break
    equations = _after(program, gradient, best)
    made = {v for equation in equations for v in equation.outputs}
    used = dict.fromkeys(a for e in equations for a in (*e.inputs, *e.outputs)) or best
    inputs = tuple(v for v in used if isinstance(v, Variable) and v not in made)
    return Program(inputs, tuple(equations), (gradient,))


def _after(program: Program, gradient: Atom, start: set[Any]) -> list[Any]:
    """The equations that lead from ``start`` to ``gradient``."""
    needed: set[Atom] = {gradient} - start
    kept = []
    for equation in reversed(program.equations):
        if not needed.isdisjoint(equation.outputs) and repeatable(equation):
            kept.append(equation)
            needed.update(a for a in equation.inputs if a not in start)
            needed.difference_update(equation.outputs)
    return kept[::-1]


def _numbers(aval: Any) -> int:
    return math.prod(aval.shape)


def _total(atoms: Iterable[Atom]) -> int:
    return sum(_numbers(atom.aval) for atom in atoms)
