"""The settings of a gate as one object, which makes its own refusals and its own rule."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Scalar
from snrgate.block import Block, block_axes, shown
from snrgate.evidence import Rule
from snrgate.gate import GATES, GateRule
from snrgate.moments.statistics import Moments
from snrgate.spread import Units
from snrgate.trees import flatten

__all__ = ["Settings", "check_ranges", "exact_defaults", "is_zero", "known", "said"]

NOISES = ("auto", "exact", "streaming", "instantaneous")

_SIGNAL_DECAY = 0.98  # of the squared signal, where the threshold is z

_POSITIVE = ("a number >= 0", lambda x: x >= 0)
_DECAY = ("a number in [0, 1)", lambda x: 0 <= x < 1)
# The range of every number, as a sentence and a test.
_RANGES = {
    "alpha": _POSITIVE,
    "z": _POSITIVE,
    "fitted": _DECAY,
    "softness": _POSITIVE,
    "floor": ("a number in [0, 1]", lambda x: 0 <= x <= 1),
    "noise_decay": _DECAY,
    "signal_decay": _DECAY,
    "b1": _DECAY,
    "b2": _DECAY,
    "dataset_size": ("a number >= 2", lambda x: x >= 2),
    "warmup_steps": _POSITIVE,
}


def known(x: Any) -> bool:
    """Whether a value can be looked at now: given, and not traced."""
    return x is not None and not isinstance(x, jax.core.Tracer)


def is_zero(x: Scalar) -> bool:
    """Whether a number is known to be 0 now."""
    return known(x) and float(x) == 0


def check_ranges(**numbers: Any) -> None:
    """Refuse numbers that are out of range; what is traced is taken as it is.

    Raises:
        ValueError: a number is out of range, or not one number.
    """
    for name, value in numbers.items():
        if not known(value):
            continue
        if jnp.ndim(value):
            raise ValueError(f"{name} has shape {jnp.shape(value)}; it must be one number")
        sentence, holds = _RANGES[name]
        finite = math.isfinite(float(value)) or name == "dataset_size"
        if not (finite and holds(float(value))):
            raise ValueError(f"{said(name, value)} must be {sentence}{_rounded(value)}")


def exact_defaults(make: Any) -> Any:
    """Give a factory its default numbers back where they were rounded to 16 bits on the way.

    ``optax.inject_hyperparams`` casts every number to the dtype of the parameters: in bfloat16
    0.999 becomes 1, and in float16 1e-8 becomes 0. What equals the rounded default is taken for
    the default.

    Args:
        make: a function that returns a transformation.

    Returns:
        The function, with the same signature.
    """
    defaults = {
        name: p.default
        for name, p in inspect.signature(make).parameters.items()
        if isinstance(p.default, float)
    }

    @functools.wraps(make)
    def exact(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(make).bind(*args, **kwargs).arguments
        for name in given.keys() & defaults.keys():
            value = given[name]
            dtype = getattr(value, "dtype", None)
            if dtype is not None and dtype.itemsize <= 2 and jnp.issubdtype(dtype, jnp.floating):
                same = value == jnp.asarray(defaults[name], dtype)
                if not known(same):
                    given[name] = jnp.where(same, defaults[name], value.astype(jnp.float32))
                elif same:
                    given[name] = defaults[name]
        # What was given by position comes first in the signature.
        return make(**given)

    return exact


def _rounded(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    if dtype is None or dtype.itemsize > 2:
        return ""
    return (
        f"; it came as {dtype}, which has few digits: give optax.inject_hyperparams "
        "hyperparam_dtype=jnp.float32"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that :func:`snrgate.snr_gate` is told, but for what it wraps and masks.

    Raises:
        ValueError: an unknown name, both ``alpha`` and ``z``, a number out of range, or a memory
            of the signal where every step counts by itself.
    """

    gate: str | GateRule
    alpha: Scalar | None
    z: Scalar | None
    noise: str
    noise_decay: Scalar
    signal_decay: Scalar | None
    fitted: Scalar
    softness: Scalar | None
    floor: Scalar
    block: Block
    dataset_size: Scalar | None
    warmup_steps: Scalar

    def __post_init__(self) -> None:
        choices: list[tuple[str, str, tuple[str, ...]]] = [("noise", self.noise, NOISES)]
        if not callable(self.gate):
            choices.append(("gate", self.gate, tuple(GATES)))
        for name, value, names in choices:
            if not isinstance(value, str) or value not in names:
                raise ValueError(f"{name}={shown(value)} is unknown; use one of {sorted(names)}")
        if isinstance(self.block, Moments):
            object.__setattr__(self, "block", _block_of(self.block))
        elif not callable(self.block):
            block_axes(self.block, "", ())  # refuses an unknown name
        if self.alpha is not None and self.z is not None:
            raise ValueError("alpha and z are two names for one threshold; give one of them")
        self._check_memory()
        names = _RANGES.keys() & {f.name for f in dataclasses.fields(self)}
        check_ranges(**{name: getattr(self, name) for name in sorted(names)})

    def _check_memory(self) -> None:
        decay = self.signal_decay
        if decay is None or (jnp.ndim(decay) == 0 and is_zero(decay)):
            return
        if self.noise == "instantaneous":
            raise ValueError(
                f"{said('signal_decay', decay)} does not go with instantaneous noise, which is "
                "that of one step"
            )
        if self.alpha is not None:
            raise ValueError(
                f"{said('signal_decay', decay)} does not go with alpha, a threshold for one "
                "step; give z"
            )

    @property
    def averaged(self) -> bool:
        """Whether the noise is averaged over steps."""
        return self.noise != "instantaneous"

    @property
    def memory(self) -> Scalar:
        """The decay of the squared signal; 0 where every step counts by itself."""
        if self.signal_decay is not None:
            return self.signal_decay
        return _SIGNAL_DECAY if self.averaged and self.alpha is None else 0.0

    @property
    def remembers(self) -> bool:
        """Whether the squared signal is averaged over steps.

        An array is remembered whatever its value: an injected or scheduled one may change.
        """
        return not isinstance(self.memory, (int, float)) or self.memory > 0

    def kind(self, sum_sq_diff_grads: Any) -> str:
        """The noise of one update, "auto" resolved by what the update is given."""
        if self.noise != "auto":
            return self.noise
        return "streaming" if sum_sq_diff_grads is None else "exact"

    def rules(self, kind: str, units: Units) -> list[Rule]:
        """The gate of every tensor as a function of its signal and its noise, in their units.

        Args:
            kind: "exact", "streaming" or "instantaneous".
            units: of this step, one number a tensor.
        """
        thresholds, softnesses = (
            list(jnp.asarray(x)) if jnp.ndim(x) else [x] * len(units.signal)
            for x in self._threshold(units)
        )
        return [
            functools.partial(self._gate, kind, *scalars)
            for scalars in zip(thresholds, softnesses, strict=True)
        ]

    def _gate(
        self, kind: str, threshold: Scalar, softness: Scalar, signal: Array, noise: Array
    ) -> Array:
        """The gates of one tensor."""
        gate: GateRule = self.gate if callable(self.gate) else GATES[self.gate]
        # At the first step streaming noise and squared signal are one number: rounding must not
        # open the gate.
        tie = 1 + (8 if kind == "streaming" else 0) * float(jnp.finfo(noise.dtype).eps)
        scalars = (jnp.asarray(x, noise.dtype) for x in (threshold * tie, softness))
        value = gate(signal, noise, *scalars)
        if not is_zero(self.floor):
            value = self.floor + (1 - self.floor) * value
        return jnp.asarray(value, noise.dtype)

    def _threshold(self, units: Units) -> tuple[Scalar, Scalar]:
        """Threshold and softness, on signal over noise in their units."""
        if self.alpha is not None:
            return self.alpha, self.alpha if self.softness is None else self.softness
        squared = 1.0 if self.z is None else jnp.square(self.z)
        threshold = soft = squared
        if self.averaged and self.dataset_size is not None:
            # A share of the examples' own noise may be fitted; of what gets through, the data
            # set's part alone is held back: that of single batches averages out.
            left = units.own * jnp.square(1 - self.fitted)
            threshold = squared * (1 - units.own + left)
            soft = squared * left if self.gate == "soft" else threshold
        if self.softness is None:
            return threshold, soft
        return threshold, self.softness * units.noise / units.signal


def said(name: str, value: Any) -> str:
    """A setting in an error message; of what is traced or no number, the name alone."""
    if not known(value) or jnp.ndim(value):
        return name
    return f"{name}={value if isinstance(value, (int, float)) else f'{float(value):.6g}'}"


def _block_of(moments: Moments) -> Callable[[str, tuple[int, ...]], tuple[int, ...]]:
    """The block that moments, or their shapes, are pooled by."""
    leaves = flatten(moments.mean)
    sums = leaves.match(moments.sum_sq_diff, "moments.sum_sq_diff")
    axes = {
        path: tuple(i for i, (n, k) in enumerate(zip(m.shape, s.shape, strict=True)) if n != k)
        for path, m, s in zip(leaves.paths, leaves.values, sums, strict=True)
    }

    def block(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if path not in axes:
            raise ValueError(
                f"block: the moments given hold {sorted(axes)}, no parameter {path!r}; give the "
                "moments of the parameters that the gate is initialised with"
            )
        return axes[path]

    return block
