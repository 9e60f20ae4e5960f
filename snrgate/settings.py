"""The settings of a gate as one object, which makes its own refusals and its own rule."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from snrgate.annotations import Array, Scalar
from snrgate.block import KRONECKER, Axes, Block, Sides, block_axes, shown
from snrgate.gate import GATES, GateRule
from snrgate.moments.kronecker import SideSums
from snrgate.moments.statistics import Moments
from snrgate.spread import Units
from snrgate.trees import flatten

__all__ = ["Rule", "Settings", "check_ranges", "exact_defaults", "is_zero", "known", "said"]

NOISES = ("auto", "exact", "streaming", "instantaneous")

_SIGNAL_DECAY = 0.98  # of the squared signal, where the threshold is z
_FITTED = 0.2  # share of the data set's own noise that may be fitted; of kernels nothing

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
    "sample_size": ("a number > 0", lambda x: x > 0),
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


class Rule(NamedTuple):
    """The gate of one tensor as a function of its signal and its noise.

    Attributes:
        gate: the rule.
        floor: how far the gate stays open where there is no signal.
        streaming: whether the noise is streaming.
        threshold: on signal over noise.
        softness: of the soft and snr gates, on signal over noise.
        held: part of the threshold that grows with the doubt about the noise.
        soft: part of the softness that does.
    """

    gate: GateRule
    floor: Scalar
    streaming: bool
    threshold: Scalar
    softness: Scalar
    held: Scalar
    soft: Scalar

    def doubted(self, doubt: Array) -> "Rule":
        """The rule where ``doubt``, at least 1, multiplies the noise to be held back."""
        more = doubt - 1
        return self._replace(
            threshold=self.threshold + self.held * more, softness=self.softness + self.soft * more
        )

    def __call__(self, signal: Array, noise: Array) -> Array:
        """The gates, in the dtype of the noise."""
        # At the first step streaming noise and squared signal are one number: rounding must not
        # open the gate.
        tie = 1 + (8 if self.streaming else 0) * float(jnp.finfo(noise.dtype).eps)
        scalars = (jnp.asarray(x, noise.dtype) for x in (self.threshold * tie, self.softness))
        value = self.gate(signal, noise, *scalars)
        if not is_zero(self.floor):
            value = self.floor + (1 - self.floor) * value
        return jnp.asarray(value, noise.dtype)


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
    fitted: Scalar | None
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
        elif not callable(self.block) and self.block != KRONECKER:
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
    def looks(self) -> bool:
        """Whether the block is known to be one of kernels with two sides."""
        if isinstance(self.block, BlockOfMoments):
            return any(isinstance(axes, Sides) for axes in self.block.axes.values())
        return isinstance(self.block, str) and self.block == KRONECKER

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

    def rules(self, kind: str, units: Units, kernels: Sequence[bool]) -> list[Rule]:
        """The gate of every tensor as a function of its signal and its noise, in their units.

        Args:
            kind: "exact", "streaming" or "instantaneous".
            units: of this step, one number a tensor.
            kernels: for each tensor, whether its evidence has two sides.
        """
        gate: GateRule = self.gate if callable(self.gate) else GATES[self.gate]
        numbers = [
            list(jnp.asarray(x)) if jnp.ndim(x) else [x] * len(kernels)
            for x in self._thresholds(units, kernels)
        ]
        return [
            Rule(gate, self.floor, kind == "streaming", *scalars)
            for scalars in zip(*numbers, strict=True)
        ]

    def _thresholds(self, units: Units, kernels: Sequence[bool]) -> tuple[Scalar, ...]:
        """Threshold and softness, and the part of each that grows with doubt."""
        if self.alpha is not None:
            return self.alpha, self.alpha if self.softness is None else self.softness, 0.0, 0.0
        squared = 1.0 if self.z is None else jnp.square(self.z)
        threshold = soft = held = squared
        if self.averaged and self.dataset_size is not None:
            # A share of the examples' own noise may be fitted; of what gets through, the data
            # set's part alone is held back: that of single batches averages out.
            left = units.own * self._unfitted(kernels)
            threshold, held = squared * (1 - units.own + left), squared * left
            soft = held if self.gate == "soft" else threshold
        if self.softness is not None:
            return threshold, self.softness * units.noise / units.signal, held, 0.0
        return threshold, soft, held, held

    def _unfitted(self, kernels: Sequence[bool]) -> Array:
        """The share of the data set's noise that may not be fitted, squared."""
        fitted = self.fitted
        if fitted is None:
            fitted = 0.0 if self.looks or any(kernels) else _FITTED
        return jnp.square(1 - fitted)


def said(name: str, value: Any) -> str:
    """A setting in an error message; of what is traced or no number, the name alone."""
    if not known(value) or jnp.ndim(value):
        return name
    return f"{name}={value if isinstance(value, (int, float)) else f'{float(value):.6g}'}"


@dataclasses.dataclass(frozen=True)
class BlockOfMoments:
    """The block that moments, or their shapes, are summed by, as a function of path and shape."""

    axes: dict[str, Axes | Sides]

    def __call__(self, path: str, shape: tuple[int, ...]) -> Axes | Sides:
        """The axes of a parameter that are pooled, or its sides."""
        if path not in self.axes:
            raise ValueError(
                f"block: the moments given hold {sorted(self.axes)}, no parameter {path!r}; give "
                "the moments of the parameters that the gate is initialised with"
            )
        return self.axes[path]


def _block_of(moments: Moments) -> BlockOfMoments:
    leaves = flatten(moments.mean)
    sums = leaves.match(moments.sum_sq_diff, "moments.sum_sq_diff")

    def axes_of(mean: Any, squares: Any) -> Axes | Sides:
        if isinstance(squares, SideSums):
            return squares.sides
        pairs = zip(mean.shape, squares.shape, strict=True)
        return tuple(i for i, (n, k) in enumerate(pairs) if n != k)

    return BlockOfMoments(dict(zip(leaves.paths, map(axes_of, leaves.values, sums), strict=True)))
