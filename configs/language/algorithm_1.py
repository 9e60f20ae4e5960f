"""The paper's Algorithm 1 on characters of Python's manual.

snrgate train language/algorithm_1
"""

from snrgate.tasks.language import Language
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Language(),
    Gated(
        learning_rate=0.01, block="parameter", noise="streaming", alpha=1.0, gate_weight_decay=False
    ),
    steps=400,
    batch_size=32,
)
