"""What both estimators share: from a table to batches, and through the training."""

import math
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import (
    _check_sample_weight,  # type: ignore[attr-defined]
    check_is_fitted,
    validate_data,  # type: ignore[attr-defined]
)

from snrgate.estimators.choice import choose
from snrgate.estimators.columns import Encoder, Scaler, is_frame, merge
from snrgate.estimators.network import Batches, Rates, initial, outputs, start, train

__all__ = ["Gated"]

_STRETCH = 25  # steps in one call of a compiled program
_LARGEST_WEIGHTS = 1e30  # their sum; what is larger overflows in float32
_MOST_SINGLE = 10**6  # examples that stand by themselves, before memory runs out
_INPUTS = 16  # their number is rounded up to a multiple of it, so that few programs are compiled


class Examples(NamedTuple):
    """Different examples: standardised inputs, targets, and how often each counts."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray


class Gated(BaseEstimator):
    """A multilayer perceptron that is trained behind the gate. See the two estimators."""

    _loss: str

    def __init__(
        self,
        hidden_sizes: Any = (128, 128),  # refused in ``fit``, as scikit-learn wants it
        *,
        steps: Any = 1000,
        batch_size: Any = 128,
        learning_rate: Any = 2e-3,
        weight_decay: Any = 0.0,
        z: Any = 1.2,
        block: Any = "kronecker",
        random_state: Any = None,
        verbose: Any = False,
    ):
        self.hidden_sizes = hidden_sizes
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.z = z
        self.block = block
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """Missing values are allowed."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True
        return tags

    # What the two estimators say differently.

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        """The targets of the network, shape (n, ...), in float64."""
        raise NotImplementedError

    def _begin_targets(self, y: np.ndarray, weights: np.ndarray, *, whole: bool) -> int:
        """Look at the targets before the first step; return the number of outputs."""
        raise NotImplementedError

    def _targets(self, y: np.ndarray) -> np.ndarray:
        """What the loss takes, from the encoded targets."""
        raise NotImplementedError

    # Training.

    def _check_settings(self) -> None:
        def whole(value: Any, least: int) -> bool:
            return isinstance(value, numbers.Integral) and int(value) >= least

        def real(value: Any) -> bool:
            return isinstance(value, numbers.Real) and math.isfinite(value)

        sizes = self.hidden_sizes
        given = {
            "hidden_sizes": (
                isinstance(sizes, (tuple, list)) and all(whole(n, 1) for n in sizes),
                "a tuple of positive integers",
            ),
            "steps": (whole(self.steps, 1), "a positive integer"),
            "batch_size": (whole(self.batch_size, 4), "an integer of at least 4"),
            "learning_rate": (real(self.learning_rate) and self.learning_rate > 0, "positive"),
            "weight_decay": (real(self.weight_decay) and self.weight_decay >= 0, "at least 0"),
            "z": (self.z == "twin" or (real(self.z) and self.z > 0), "positive, or 'twin'"),
            "block": (self.block in ("kronecker", "unit"), "'kronecker' or 'unit'"),
        }
        for name, (good, what) in given.items():
            if not good:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be {what}")

    def _inputs(self, x: Any, *, reset: bool) -> Any:
        """The inputs after scikit-learn's checks of numbers, names and counts of columns."""
        if is_frame(x):
            if not x.shape[1]:
                raise ValueError("the table has no columns; give it those to predict from")
            return validate_data(self, x, reset=reset, skip_check_array=True)
        return validate_data(self, x, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")

    def _counted(
        self, x: Any, y: np.ndarray, sample_weight: Any
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """The examples that count, and how often. The others are as if they were not there."""
        weights = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        if not weights.sum() < _LARGEST_WEIGHTS:
            raise ValueError(
                f"sample_weight sums to {weights.sum():.3g}; weights count examples, so give "
                "smaller ones"
            )
        used = weights > 0
        if used.sum() < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two samples of positive weight, to see "
                f"noise; it got n_samples = {int(used.sum())}"
            )
        return (x.iloc[used] if is_frame(x) else x[used]), y[used], weights[used]

    def _examples(
        self, x: Any, y: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns, encoded targets and weights of the different examples."""
        columns = self._encoder(x)
        targets = self._encoded(y).reshape(len(y), -1)
        rows, weights = merge(np.hstack([columns, targets]), weights)
        # A weight says how often an example counts. Weights that are too small for that, as those
        # that sum to one, count as much as their effective number (Kish).
        shares = weights / weights.max()  # their squares may be too small for a number
        effective = shares.sum() ** 2 / np.square(shares).sum()
        if effective > weights.sum():
            weights = shares * (effective / shares.sum())
        width = columns.shape[1]
        return rows[:, :width], rows[:, width:], weights

    def _begin(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray, *, whole: bool) -> None:
        """Set up all that is learned before the first step, from all examples or from the first."""
        count = self._begin_targets(y, weights, whole=whole)
        self._scaler = Scaler.of(x, weights, self._encoder.numerical)
        if not whole:
            self._scaler = self._scaler.open()
        self._random = check_random_state(self.random_state)
        inputs = self._scaler(x[:1]).shape[1]
        self.network_ = initial((inputs, *self.hidden_sizes, count), self._random)
        # Inputs of nothing but zeros change no other number.
        self.network_[0]["kernel"] = _filled(self.network_[0]["kernel"].T).T
        self.optimizer_state_ = start(self.network_, self._rates(1.0, 1.0, 1.0), self.block)
        self.loss_curve_ = []
        self.z_, self.risks_ = self.z, {}  # a twin may choose another one

    def _rates(self, z: float, dataset_size: float, steps: float) -> Rates:
        values = self.learning_rate, self.weight_decay, z, dataset_size, steps
        return Rates(*(float(value) for value in values))

    def _train(self, batches: Iterator[Batches], rates: Rates) -> None:
        """Take a step on each batch."""
        params, state, done = self.network_, self.optimizer_state_, 0
        for batch in batches:
            params, state, loss = train(
                params, state, batch, rates, loss=self._loss, block=self.block
            )
            done += np.shape(batch.weights)[0]
            self.loss_curve_.append(float(loss))
            if self.verbose:
                print(f"step {done}: loss {self.loss_curve_[-1]:.4g}", flush=True)
        self.network_, self.optimizer_state_ = jax.tree.map(np.asarray, (params, state))

    def _fit(self, x: Any, y: np.ndarray, weights: np.ndarray) -> None:
        """Train from the start, on examples that come back."""
        self._encoder = Encoder(x, weights)
        columns, targets, weights = self._examples(x, y, weights)
        self._begin(columns, targets, weights, whole=True)
        inputs = _filled(self._scaler(columns)).astype(np.float32)
        begin = self.network_, self.optimizer_state_
        seed = self._random.randint(2**31)

        def trained(examples: Examples, z: float) -> tuple[Any, Any, list[float]]:
            """The network, the state and the losses after all steps, from the same start."""
            self.network_, self.optimizer_state_ = begin
            self.loss_curve_ = []
            random = np.random.RandomState(seed)
            batches = _drawn(*examples, self.batch_size, self.steps, random)
            self._train(batches, self._rates(z, examples.weights.sum(), self.steps))
            return self.network_, self.optimizer_state_, self.loss_curve_

        examples = Examples(inputs, self._targets(targets), weights)
        if self.z != "twin":
            trained(examples, self.z)
            return
        single = _single(examples)
        found = choose(
            lambda targets, z: trained(single._replace(y=targets), z),
            lambda done: outputs(done[0], single.x),
            single.y,
            single.weights,
            "classes" if self._loss == "class" else "regression",
            jax.random.key(seed),
        )
        self.z_, self.risks_ = found.z, found.risks
        self.network_, self.optimizer_state_, self.loss_curve_ = found.trained
        if len(single.weights) > len(weights):  # what it was trained on is not what a number takes
            trained(examples, found.z)

    def _partial_fit(self, x: Any, y: np.ndarray, weights: np.ndarray, *, first: bool) -> None:
        """Pass once over new examples."""
        if self.z == "twin":
            raise ValueError(
                "z = 'twin' trains on the same rows again and again, which partial_fit cannot; "
                "give z a number"
            )
        if first:
            self._encoder = Encoder(x, weights)
        elif (sizes := tuple(layer["bias"].size for layer in self.network_[:-1])) != tuple(
            self.hidden_sizes
        ):
            raise ValueError(
                f"hidden_sizes = {self.hidden_sizes!r} differs from {sizes}, those of the network "
                "that partial_fit has begun; set it back, or begin anew with a clone"
            )
        columns, targets, weights = self._examples(x, y, weights)
        if first:
            self._begin(columns, targets, weights, whole=False)
        inputs = _filled(self._scaler(columns)).astype(np.float32)
        batches = _once(inputs, self._targets(targets), weights, self.batch_size, self._random)
        self._train(batches, self._rates(self.z, math.inf, math.inf))

    def _outputs(self, x: Any) -> np.ndarray:
        """The outputs of the network, in double precision."""
        check_is_fitted(self, "network_")
        columns = self._encoder(self._inputs(x, reset=False))
        return outputs(self.network_, _filled(self._scaler(columns)))


def _filled(x: np.ndarray) -> np.ndarray:
    """Columns of zeros behind the others, up to the next multiple of ``_INPUTS``."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % _INPUTS)))


def _single(examples: Examples) -> Examples:
    """Examples that count at most once: a row that counts more often stands there as often.

    A twin moves the target of each by itself. Moved together, those of equal rows would follow
    themselves.

    Raises:
        ValueError: there would be too many.
    """
    often = np.maximum(np.ceil(examples.weights), 1).astype(int)
    if often.sum() > max(_MOST_SINGLE, len(often)):
        raise ValueError(
            f"z = 'twin' moves every example by itself, and sample_weight counts {often.sum()}; "
            "give smaller weights, or give z a number"
        )
    return Examples(
        np.repeat(examples.x, often, 0),
        np.repeat(examples.y, often, 0),
        np.repeat(examples.weights / often, often),
    )


def _drawn(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    size: int,
    steps: int,
    random: np.random.RandomState,
) -> Iterator[Batches]:
    """Batches of ``size`` examples, each drawn as often as it counts.

    If that many examples are not there, every batch has all of them, and is padded.
    """
    reached = np.cumsum(weights)
    for at in range(0, steps, _STRETCH):
        shape = min(_STRETCH, steps - at), size
        if len(x) <= size:
            index = np.broadcast_to(np.arange(size) % len(x), shape)
            counts = np.where(np.arange(size) < len(x), weights[index], 0.0)
        else:
            drawn = np.searchsorted(reached, random.uniform(size=shape) * reached[-1], "right")
            index, counts = np.minimum(drawn, len(x) - 1), np.ones(shape)
        yield Batches(x[index], y[index], counts.astype(np.float32))


def _once(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, size: int, random: np.random.RandomState
) -> Iterator[Batches]:
    """Every example once, in batches of nearly one size, padded to ``size``."""
    for part in np.array_split(random.permutation(len(x)), -(-len(x) // size)):
        index = np.resize(part, (1, size))
        counts = np.where(np.arange(size) < len(part), weights[index], 0.0)
        yield Batches(x[index], y[index], counts.astype(np.float32))
