"""Targets by their kind, and the refusals of what does not fit them."""

import jax.numpy as jnp
import numpy as np

from snrgate.annotations import Array, ArrayLike, Float
from snrgate.moments.statistics import accumulator_dtype
from snrgate.settings import known

__all__ = ["KINDS", "check_kind", "check_targets", "checked_law", "checked_outputs"]

KINDS = ("regression", "classes", "binary", "counts")


def check_kind(
    kind: str, copies: int = 1, share: float = 1.0, size: ArrayLike | None = None
) -> None:
    """Refuse an unknown kind, and numbers of a perturbation that are out of range."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is unknown; use one of {list(KINDS)}")
    if copies < 1:
        raise ValueError(f"copies={copies} must be at least 1")
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be in (0, 1]")
    if known(size) and not np.all(np.asarray(size) > 0):
        raise ValueError(f"size={size} must be greater than 0")


def check_targets(targets: Array, kind: str) -> None:
    """Refuse targets of another kind.

    Values are looked at in NumPy, which a trace around the call does not catch.
    """
    values = np.asarray(targets, float) if known(targets) else np.zeros(1)
    whole = jnp.issubdtype(targets.dtype, jnp.integer)
    if targets.ndim == 0 or targets.shape[0] == 0:
        raise ValueError(f"targets have shape {targets.shape}; give a leading axis of examples")
    if kind == "regression" and not jnp.issubdtype(targets.dtype, jnp.floating):
        raise ValueError(f"targets of kind='regression' are {targets.dtype}; they must be floats")
    if kind == "regression" and not np.isfinite(values).all():
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        raise ValueError(
            f"targets of kind='regression' are not finite in row {int(finite.argmin())}; "
            "leave such rows out"
        )
    if kind == "classes" and not whole:
        raise ValueError(
            f"targets of kind='classes' are {targets.dtype}; give the indices of the classes"
        )
    if kind == "counts" and not (values == np.round(values)).all():
        raise ValueError("targets of kind='counts' must be whole numbers")
    if kind == "binary" and not np.isin(values, (0, 1)).all():
        raise ValueError("targets of kind='binary' must be 0 or 1")
    if kind in ("classes", "counts") and (values < 0).any():
        raise ValueError(f"targets of kind={kind!r} must not be negative")


def checked_law(law: ArrayLike | None, targets: Array, kind: str) -> Float[Array, "..."]:
    """The law, if targets of the kind can have it."""
    if law is None:
        raise ValueError(
            f"kind={kind!r} draws targets anew and needs law=, such as snrgate.risk.law_of of a "
            "run that has memorised little"
        )
    p = jnp.asarray(law)
    if misfit := _misfit(p, targets, kind):
        raise ValueError(f"law has shape {p.shape}; it must have {misfit}")
    if known(p):
        values = np.asarray(p, float)
        if not (values >= 0).all() or (kind != "counts" and not (values <= 1.0001).all()):
            raise ValueError(f"law of kind={kind!r} holds numbers that no target can have as law")
        if kind == "classes":
            if not np.allclose(values.sum(-1), 1, atol=max(1e-3, float(jnp.finfo(p.dtype).eps))):
                raise ValueError("law of kind='classes' must add up to 1 over its last axis")
            _refuse_beyond(targets, p.shape[-1], "law has")
    return p


def checked_outputs(outputs: Array, targets: Array, kind: str) -> Float[Array, "..."]:
    """The outputs in float32 or wider, if they have the shape that the kind needs."""
    if misfit := _misfit(outputs, targets, kind):
        raise ValueError(
            f"outputs have shape {outputs.shape}; they must have {misfit}, those of the run first"
        )
    if kind == "classes":
        _refuse_beyond(targets, outputs.shape[-1], "outputs have")
    return outputs.astype(accumulator_dtype(outputs.dtype))


def _refuse_beyond(targets: Array, classes: int, who: str) -> None:
    """Refuse labels of more classes than there are."""
    if known(targets) and (largest := int(np.max(np.asarray(targets)))) >= classes:
        raise ValueError(f"targets name class {largest}; {who} {classes} classes")


def _misfit(values: Array, targets: Array, kind: str) -> str | None:
    """The shape that what belongs to the targets must have, where it has another one."""
    shape = values.shape[:-1] if kind == "classes" else values.shape
    if shape == targets.shape:
        return None
    last = "a last axis of classes more than" if kind == "classes" else "the shape of"
    return f"{last} the targets {targets.shape}"
