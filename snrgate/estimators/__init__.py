"""Estimators with scikit-learn's interface (they need the extra ``sklearn``)."""

from snrgate.estimators.classifier import GatedClassifier as GatedClassifier
from snrgate.estimators.regressor import GatedRegressor as GatedRegressor
