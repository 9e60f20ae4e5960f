"""Frozen dataclasses as settings with flat names, as on the command line, and back.

The task and the optimizer of a run are settings inside settings. Their kind is kept too, because
two kinds may have the same settings.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["flat", "replaced"]

Settings = TypeVar("Settings")


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its name on the command line, and the kind of each inner dataclass.

    A setting marked as :data:`snrgate.lab.kinds.LATER` is left out where it has its default.

    Example:
        >>> import dataclasses
        >>> from snrgate.lab.training.optimizers import AdamW
        >>> from snrgate.lab.training.settings import flat
        >>> Run = dataclasses.make_dataclass("Run", ["optimizer", "steps"])
        >>> named = flat(Run(AdamW(), 10))
        >>> named["optimizer"], named["optimizer.b1"], named["steps"]
        ('AdamW', 0.9, 10)
    """
    named = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{prefix}{field.name}"
        if "later" in field.metadata and value == field.default:
            continue
        if dataclasses.is_dataclass(value):
            named |= {name: type(value).__name__} | flat(value, f"{name}.")
        else:
            named[name] = value
    return named


def replaced(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Settings with some of them replaced by what a JSON file holds.

    Args:
        settings: a frozen dataclass, or several nested ones.
        values: new values by the names of :func:`flat`. A list stands for a tuple.

    Raises:
        ValueError: a name is unknown, a value has another type than the setting, or the settings
            are of another kind.

    Example:
        >>> from snrgate.lab.training.optimizers import AdamW
        >>> from snrgate.lab.training.settings import replaced
        >>> replaced(AdamW(), {"learning_rate": 0.5}).learning_rate
        0.5
        >>> replaced(AdamW(), {"speed": 3})
        Traceback (most recent call last):
        ...
        ValueError: there is no setting speed
    """
    return _replaced(settings, values, "")


def _replaced(settings: Any, values: Mapping[str, Any], prefix: str) -> Any:
    kinds = typing.get_type_hints(type(settings))
    changes, inner = {}, {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        there = getattr(settings, first, None) if first in kinds else None
        if first not in kinds or (rest and not dataclasses.is_dataclass(there)):
            raise ValueError(f"there is no setting {prefix}{name}")
        if rest:
            inner.setdefault(first, {})[rest] = value
        elif dataclasses.is_dataclass(there):
            if value != (kind := type(there).__name__):
                raise ValueError(
                    f"{prefix}{name} = {value!r} must be {kind}; its settings are named "
                    f"{prefix}{name}.SETTING"
                )
        else:
            value = tuple(value) if isinstance(value, list) else value
            if not _fits(value, kinds[first]):
                raise ValueError(f"{prefix}{name} = {value!r} must be {_said(kinds[first])}")
            changes[first] = value
    for first, below in inner.items():
        changes[first] = _replaced(getattr(settings, first), below, f"{prefix}{first}.")
    return dataclasses.replace(settings, **changes)


def _fits(value: Any, kind: Any) -> bool:
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Literal:
            return value in arguments
        case types.UnionType:
            return any(_fits(value, argument) for argument in arguments)
        case origin if origin is tuple:
            return isinstance(value, tuple) and all(_fits(x, arguments[0]) for x in value)
    # An int is accepted as a float, and a bool is accepted as neither.
    wanted = (int, float) if kind is float else kind
    return isinstance(value, wanted) and (kind is bool or not isinstance(value, bool))


def _said(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
