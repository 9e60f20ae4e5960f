"""Where a value is known to be zero, whatever the example holds.

A loss that looks at the last position alone leaves a delta of zero at every other position, from
the output back to the last attention. Such positions are no uses of a layer: a product over four
of them is a product over one.
"""

from collections.abc import Callable

import numpy as np

from snrgate.moments.factored.layout import runs
from snrgate.moments.factored.trace import Atom, Constant, Equation, Program, for_primitives

__all__ = ["Span", "Spans", "intersection", "nonzero_spans"]

Span = tuple[int, int]
"""``(start, stop)`` on one axis; the value is zero outside of it."""
Spans = tuple[Span, ...]

_RULES: dict[str, Callable[..., Spans]] = {}


def nonzero_spans(program: Program) -> Callable[[Atom], Spans]:
    """For every value of a program one span an axis.

    Only zeros that follow from the program are found: those that a slice leaves in its gradient,
    and what sums and products make of them.
    """
    known: dict[Atom, Spans] = {}

    def read(atom: Atom) -> Spans:
        return known.get(atom) or _full(atom)

    for equation in program.equations:
        rule = _RULES.get(equation.name)
        if rule is None or not (
            equation.name == "pad" or not known.keys().isdisjoint(equation.inputs)
        ):
            continue
        (output,) = equation.outputs
        spans = rule(equation, *map(read, equation.inputs))
        if spans != _full(output):
            known[output] = spans
    return read


def intersection(a: Span, b: Span) -> Span:
    """Where neither of two factors is zero; empty where ``start >= stop``."""
    return max(a[0], b[0]), min(a[1], b[1])


def _full(atom: Atom) -> Spans:
    return tuple((0, n) for n in atom.aval.shape)


@for_primitives(_RULES, "pad")
def _pad(eqn: Equation, operand: Spans, _: Spans) -> Spans:
    value, config = eqn.inputs[1], eqn.params["padding_config"]
    zero = isinstance(value, Constant) and not np.any(np.asarray(value.value))
    if not zero or any(between for _, _, between in config):
        return _full(eqn.outputs[0])
    return tuple(
        (max(start + low, 0), min(stop + low, n))
        for (start, stop), (low, _, _), n in zip(
            operand, config, eqn.outputs[0].aval.shape, strict=True
        )
    )


@for_primitives(_RULES, "neg", "copy", "convert_element_type")
def _same(eqn: Equation, operand: Spans) -> Spans:
    return operand


def _each_axis(
    eqn: Equation, operands: tuple[Spans, ...], combine: Callable[[Span, Span], Span]
) -> Spans:
    """Operands of one shape, except that an axis of size 1, or none at all, is repeated."""
    full = _full(eqn.outputs[0])
    repeated = [
        tuple(
            span if n == m else (0, n)
            for span, m, (_, n) in zip(spans, atom.aval.shape, full, strict=True)
        )
        if spans
        else full
        for spans, atom in zip(operands, eqn.inputs, strict=True)
    ]
    result = repeated[0]
    for other in repeated[1:]:
        result = tuple(combine(a, b) for a, b in zip(result, other, strict=True))
    return result


@for_primitives(_RULES, "mul")
def _product(eqn: Equation, *operands: Spans) -> Spans:
    return _each_axis(eqn, operands, intersection)


@for_primitives(_RULES, "add", "sub", "add_any")
def _sum(eqn: Equation, *operands: Spans) -> Spans:
    return _each_axis(eqn, operands, lambda a, b: (min(a[0], b[0]), max(a[1], b[1])))


@for_primitives(_RULES, "div")
def _quotient(eqn: Equation, above: Spans, below: Spans) -> Spans:
    return above if above else _full(eqn.outputs[0])


@for_primitives(_RULES, "reduce_sum")
def _reduce(eqn: Equation, operand: Spans) -> Spans:
    return tuple(span for i, span in enumerate(operand) if i not in eqn.params["axes"])


@for_primitives(_RULES, "transpose")
def _transpose(eqn: Equation, operand: Spans) -> Spans:
    return tuple(operand[i] for i in eqn.params["permutation"])


@for_primitives(_RULES, "broadcast_in_dim")
def _broadcast(eqn: Equation, operand: Spans, *_: Spans) -> Spans:
    spans = list(_full(eqn.outputs[0]))
    for i, span, size in zip(
        eqn.params["broadcast_dimensions"], operand, eqn.inputs[0].aval.shape, strict=True
    ):
        spans[i] = span if size == spans[i][1] else spans[i]
    return tuple(spans)


@for_primitives(_RULES, "reshape", "squeeze", "expand_dims")
def _reshape(eqn: Equation, operand: Spans, *_: Spans) -> Spans:
    old, new = eqn.inputs[0].aval.shape, eqn.outputs[0].aval.shape
    spans = list(_full(eqn.outputs[0]))
    if 0 in old:
        return tuple(spans)
    before, after = ([i for i, n in enumerate(shape) if n != 1] for shape in (old, new))
    for here, there in runs(tuple(old[i] for i in before), tuple(new[i] for i in after)):
        if len(here) == len(there) == 1:
            spans[after[there[0]]] = operand[before[here[0]]]
    return tuple(spans)


@for_primitives(_RULES, "dot_general")
def _dot_general(eqn: Equation, left: Spans, right: Spans) -> Spans:
    contracted, grouped = eqn.params["dimension_numbers"]
    groups = (intersection(left[i], right[j]) for i, j in zip(*grouped, strict=True))
    free = (
        span
        for spans, over, batch in zip((left, right), contracted, grouped, strict=True)
        for i, span in enumerate(spans)
        if i not in (*over, *batch)
    )
    return (*groups, *free)
