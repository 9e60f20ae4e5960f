"""Training on population risk in JAX: move a parameter only when its signal beats its noise.

Litman & Guo, "A Theory of Generalization in Deep Learning", arXiv 2605.01172.
"""

import importlib as _importlib
from importlib.metadata import version as _version
from types import ModuleType as _ModuleType

from snrgate import diagnostics as diagnostics
from snrgate import gate as gate
from snrgate import risk as risk
from snrgate import theory as theory
from snrgate.alias import adam as adam
from snrgate.alias import adamw as adamw
from snrgate.alias import from_per_example as from_per_example
from snrgate.alias import with_sample_size as with_sample_size
from snrgate.eigenbasis import soap as soap
from snrgate.labels import LabelQuality as LabelQuality
from snrgate.labels import label_quality as label_quality
from snrgate.moments import Moments as Moments
from snrgate.moments import explain_moments as explain_moments
from snrgate.moments import value_and_moments as value_and_moments
from snrgate.state import SnrGateState as SnrGateState
from snrgate.state import measures_next as measures_next
from snrgate.transform import snr_gate as snr_gate

__version__ = _version("snrgate")


def __getattr__(name: str) -> _ModuleType:
    """Import the estimators when they are asked for: they need scikit-learn."""
    if name == "estimators":
        return _importlib.import_module("snrgate.estimators")
    raise AttributeError(f"module 'snrgate' has no attribute {name!r}")
