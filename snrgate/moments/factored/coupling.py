"""Losses that look at other examples, and so have no gradient of one example."""

from typing import Any

from snrgate.moments.factored.trace import Program, callee, flatten

__all__ = ["refuse_coupled"]


def refuse_coupled(program: Program, axes: frozenset[str]) -> None:
    """Refuse a program that communicates over the axes over which the examples are spread.

    Only mapped axes can be seen: a loss that keeps a running statistic, or that closes over the
    batch, is not recognised. Nor are the axes of ``pmap`` and of ``shard_map`` without
    ``check_vma``, where JAX does not say over which axes a value varies.

    Args:
        program: of one example.
        axes: mapped axes over which the examples vary.

    Raises:
        ValueError: an equation communicates over one of ``axes``.
    """
    for equation in program.equations:
        if equation.name == "scan":
            refuse_coupled(flatten(callee(equation.params)[0]), axes)
        shared = axes.intersection(_communicates_over(equation.name, equation.params))
        if shared:
            raise ValueError(
                f"the loss of one example communicates over {sorted(shared)} ({equation.name}), "
                "the axes over which examples are spread, so no example has a gradient of its own; "
                "take batch statistics out of loss_fn (or freeze them), and let axis_name= of "
                "value_and_moments merge the devices"
            )


def _communicates_over(name: str, params: dict[str, Any]) -> tuple[Any, ...]:
    if name in ("axis_index", "pvary", "pcast"):
        return ()
    named = params.get("axes", params.get("axis_name", ()))
    return tuple(named) if isinstance(named, tuple | list) else (named,)
