"""A classifier with scikit-learn's interface."""

from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d

from snrgate.estimators.base import Gated

__all__ = ["GatedClassifier"]


class GatedClassifier(ClassifierMixin, Gated):
    r"""A classifier of tables: a multilayer perceptron behind the gate.

    Inputs are standardised. The columns of a pandas table that are not numbers become an input for
    each category (an unseen one is none of them); a missing number is replaced by the mean, and one
    more input says where it was missing. Every column is kept.

    There is no hold-out and no early stopping: the gate holds back what the training examples do
    not agree on. The budget is a number of steps, and the learning rate falls to zero along a
    cosine. Up to ``batch_size`` examples, every step sees all of them.

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
        classes_: the labels, sorted.
        n_features_in_: number of columns seen in ``fit``.
        feature_names_in_: their names, if they all have one that is a text.
        network_: kernels and biases of the layers.
        loss_curve_: mean training loss of every 25 steps (of every step of ``partial_fit``).
        z_: the threshold that the network was trained with, ``z`` or what the twin chose.
        risks_: of each threshold that was tried, the estimated risk on new rows and its standard
            error: the loss of the training, in nats or in units of the targets' variances. Empty
            where ``z`` is a number.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from snrgate.estimators import GatedClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> model = GatedClassifier((16,), steps=200, learning_rate=1e-2, random_state=0)
        >>> model = model.fit(x, y)
        >>> model.predict_proba(x).shape, model.score(x, y) > 0.9
        ((150, 3), True)
    """

    _loss = "class"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GatedClassifier":
        """Train from the start.

        Args:
            X: a table of pandas, or numbers of shape ``(n, columns)``; NaN is missing.
            y: labels, shape ``(n,)``.
            sample_weight: how often each example counts, shape ``(n,)``; by default once.

        Returns:
            The estimator itself.

        Raises:
            ValueError: a setting out of range; inputs, labels or weights that cannot be used.
        """
        self._check_settings()
        X, y = self._inputs(X, reset=True), self._labels(X, y)
        X, y, weights = self._counted(X, y, sample_weight)
        self.classes_ = np.unique(y)
        self._fit(X, y, weights)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "GatedClassifier":
        """Pass once over examples that are new, at a constant learning rate.

        The categories, means and deviations of the columns are those of the first call. For
        examples that come back, use :meth:`fit`.

        Args:
            X: as in :meth:`fit`.
            y: as in :meth:`fit`.
            classes: all labels that will ever come; needed in the first call.
            sample_weight: as in :meth:`fit`.

        Returns:
            The estimator itself.

        Raises:
            ValueError: as :meth:`fit`; no ``classes`` in the first call, or a label that is none
                of them.
        """
        self._check_settings()
        first = not hasattr(self, "network_")
        X, y = self._inputs(X, reset=first), self._labels(X, y)
        if first and classes is None:
            raise ValueError("classes must be given in the first call of partial_fit")
        if first:
            self.classes_ = np.unique(classes)
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            raise ValueError("classes are not those of the first call of partial_fit")
        if not (known := np.isin(y, self.classes_)).all():
            raise ValueError(f"the label of row {int((~known).argmax())} of y is not in classes")
        X, y, weights = self._counted(X, y, sample_weight)
        self._partial_fit(X, y, weights, first=first)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes.

        Args:
            X: as in :meth:`fit`.

        Returns:
            Float64, shape ``(n, classes)``, in the order of ``classes_``.

        Raises:
            NotFittedError: not fitted yet.
            ValueError: inputs with other columns.
        """
        return softmax(self._outputs(X), axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each example.

        Args:
            X: as in :meth:`fit`.

        Returns:
            Labels, shape ``(n,)``.

        Raises:
            NotFittedError: not fitted yet.
            ValueError: inputs with other columns.
        """
        chosen = self._outputs(X).argmax(1)
        return self.classes_[chosen]

    def _labels(self, x: Any, y: Any) -> np.ndarray:
        """The labels, one for each row of ``x``."""
        if y is None:
            raise ValueError(
                "This GatedClassifier estimator requires y to be passed, but the target y is None."
            )
        if (missing := _is_missing(y)).any():
            row = int(missing.reshape(len(missing), -1).any(1).argmax())
            raise ValueError(
                f"y has no label in row {row} (counted from 0): it is NaN or NA; leave the row out"
            )
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        check_consistent_length(x, y)
        return y

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.classes_, y).astype(np.float64)

    def _begin_targets(self, y: np.ndarray, weights: np.ndarray, *, whole: bool) -> int:
        if len(self.classes_) < 2:
            raise ValueError(
                f"GatedClassifier needs at least two classes; y contains {len(self.classes_)} class"
            )
        return len(self.classes_)

    def _targets(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0].astype(np.int32)


def _is_missing(y: Any) -> np.ndarray:
    """Which labels are None, NaN or NA, where these can be told from others."""
    if hasattr(y, "isna"):
        return np.asarray(y.isna())
    if isinstance(y, list | tuple):
        y = np.array(y, object)  # NumPy would turn a missing text into the text "nan"
    if str(getattr(y, "dtype", "")) != "object":
        return np.zeros(0, bool)
    return np.array([label is None or label != label for label in y.ravel()], bool)
