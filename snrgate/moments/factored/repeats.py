"""Along which axes a value does not change, whatever the parameters are."""

from collections.abc import Callable, Mapping

from snrgate.moments.factored.trace import Atom, Constant, Equation

__all__ = ["constant_axes"]

_ELEMENTWISE = frozenset(
    (
        *("add", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "exp", "log", "tanh"),
        *("sqrt", "rsqrt", "square", "integer_pow", "pow", "logistic", "log1p", "expm1", "sin"),
        *("cos", "convert_element_type", "copy", "select_n", "lt", "le", "gt", "ge", "eq", "ne"),
        *("add_any", "stop_gradient", "reduce_precision"),
    )
)


def constant_axes(makers: Mapping[Atom, Equation]) -> Callable[[Atom], set[int]]:
    """For every value the axes along which it is known not to change.

    Args:
        makers: of every value the equation that makes it.
    """
    known: dict[Atom, set[int]] = {}

    def axes(atom: Atom) -> set[int]:
        if isinstance(atom, Constant):
            return {i for i, n in enumerate(atom.aval.shape) if n == 1}
        if atom not in known:
            known[atom] = {i for i, n in enumerate(atom.aval.shape) if n == 1}
            known[atom] |= of_equation(makers[atom]) if atom in makers else set()
        return known[atom]

    def of_equation(eqn: Equation) -> set[int]:
        shape = eqn.outputs[0].aval.shape
        if eqn.name == "broadcast_in_dim":
            dims = list(eqn.params["broadcast_dimensions"])
            same = axes(eqn.inputs[0])
            return {i for i in range(len(shape)) if i not in dims or dims.index(i) in same}
        if eqn.name == "transpose":
            same = axes(eqn.inputs[0])
            return {i for i, j in enumerate(eqn.params["permutation"]) if j in same}
        if eqn.name in _ELEMENTWISE:
            arrays = [axes(a) for a in eqn.inputs if a.aval.ndim == len(shape)]
            return set(range(len(shape))).intersection(*arrays)
        return set()

    return axes
