"""A regressor with scikit-learn's interface."""

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length

from snrgate.estimators.base import Gated
from snrgate.estimators.columns import Scaler

__all__ = ["GatedRegressor"]


class GatedRegressor(RegressorMixin, Gated):
    r"""A regressor of tables: a multilayer perceptron behind the gate.

    Inputs are standardised. The columns of a pandas table that are not numbers become an input for
    each category (an unseen one is none of them); a missing number is replaced by the mean, and one
    more input says where it was missing. Every column is kept.

    There is no hold-out and no early stopping: the gate holds back what the training examples do
    not agree on. The budget is a number of steps, and the learning rate falls to zero along a
    cosine. Up to ``batch_size`` examples, every step sees all of them.

    Targets are standardised too, each by itself.

    A weight says how often an example counts: one of weight two is the same, to the last bit, as
    two equal rows. Weights that are too small for counts, as those that sum to one, count as much
    as their effective number, :math:`(\sum w)^2 / \sum w^2`.

    Args:
        hidden_sizes: number of units in each hidden layer.
        steps: number of gradient steps of ``fit``.
        batch_size: number of examples in a step.
        learning_rate: largest learning rate.
        weight_decay: decoupled weight decay, which the gate multiplies too.
        z: threshold, in standard deviations of pure noise; see :func:`snrgate.snr_gate`. "twin"
            tries several, from strict to lenient, each beside a twin of the training that shows
            its risk on new rows (:mod:`snrgate.risk`). Nothing is held out; ``fit`` takes four to
            ten times as long.
        block: "kronecker" has evidence for the rows and the columns of every kernel, which finds
            columns that carry nothing. "unit" has it for the output units; a step costs less.
        random_state: seed of the initial weights and of the batches, as in scikit-learn.
        verbose: whether to print the loss every 25 steps.

    Attributes:
        n_features_in_: number of columns seen in ``fit``.
        feature_names_in_: their names, if they all have one that is a text.
        network_: kernels and biases of the layers.
        loss_curve_: mean training loss of every 25 steps (of every step of ``partial_fit``).
        z_: the threshold that the network was trained with, ``z`` or what the twin chose.
        risks_: of each threshold that was tried, the estimated risk on new rows and its standard
            error: the loss of the training, in nats or in units of the targets' variances. Empty
            where ``z`` is a number.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> from snrgate.estimators import GatedRegressor
        >>> x, y = load_diabetes(return_X_y=True)
        >>> model = GatedRegressor((16,), steps=200, learning_rate=1e-2, random_state=0)
        >>> model = model.fit(x, y)
        >>> model.predict(x).shape, model.score(x, y) > 0.3
        ((442,), True)
    """

    _loss = "values"

    def __sklearn_tags__(self) -> Any:
        """Several targets are allowed."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GatedRegressor":
        """Train from the start.

        Args:
            X: a table of pandas, or numbers of shape ``(n, columns)``; NaN is missing.
            y: targets, shape ``(n,)`` or ``(n, targets)``.
            sample_weight: how often each example counts, shape ``(n,)``; by default once.

        Returns:
            The estimator itself.

        Raises:
            ValueError: a setting out of range; inputs, targets or weights that cannot be used.
        """
        self._check_settings()
        X, y = self._inputs(X, reset=True), self._values(X, y)
        X, y, weights = self._counted(X, y, sample_weight)
        if self.z == "twin" and not np.ptp(y, axis=0).any():
            raise ValueError(
                "z = 'twin' needs targets that differ, and y is constant; give z a number"
            )
        self._fit(X, y, weights)
        self._is_flat = y.ndim == 1
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GatedRegressor":
        """Pass once over examples that are new, at a constant learning rate.

        The categories, means and deviations of columns and targets are those of the first call.
        For examples that come back, use :meth:`fit`.

        Args:
            X: as in :meth:`fit`.
            y: as in :meth:`fit`.
            sample_weight: as in :meth:`fit`.

        Returns:
            The estimator itself.

        Raises:
            ValueError: as :meth:`fit`; another number of targets than in the first call.
        """
        self._check_settings()
        first = not hasattr(self, "network_")
        X, y = self._inputs(X, reset=first), self._values(X, y)
        if not first and y.reshape(len(y), -1).shape[1] != len(self._target_scaler.mean):
            raise ValueError(
                f"y has shape {y.shape}; there were {len(self._target_scaler.mean)} targets before"
            )
        X, y, weights = self._counted(X, y, sample_weight)
        self._partial_fit(X, y, weights, first=first)
        self._is_flat = y.ndim == 1
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The predicted targets.

        Args:
            X: as in :meth:`fit`.

        Returns:
            Float64, shape ``(n,)`` or ``(n, targets)``, in the units of ``y``.

        Raises:
            NotFittedError: not fitted yet.
            ValueError: inputs with other columns.
        """
        outputs, scaler = self._outputs(X), self._target_scaler
        # Of a target that never varied there is only its mean.
        values = outputs * np.where(scaler.varies, scaler.scale, 0) + scaler.mean
        return values[:, 0] if self._is_flat else values

    def _values(self, x: Any, y: Any) -> np.ndarray:
        """The targets, one for each row of ``x``."""
        if y is None:
            raise ValueError(
                "This GatedRegressor estimator requires y to be passed, but the target y is None."
            )
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(x, y)
        return y

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        return y

    def _begin_targets(self, y: np.ndarray, weights: np.ndarray, *, whole: bool) -> int:
        self._target_scaler = Scaler.of(y, weights, y.shape[1])
        if not whole:
            self._target_scaler = self._target_scaler.open()
        return y.shape[1]

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return self._target_scaler(y).astype(np.float32)
