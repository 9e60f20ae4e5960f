"""The paper's Algorithm 1 on characters of Python's manual.

snrgate train language/algorithm_1
"""

from snrgate.tasks.language import Language
from snrgate.training.optimizers import ALGORITHM_1, Gated
from snrgate.training.train import Training

CONFIG = Training(
    Language(),
    Gated(learning_rate=0.01, **ALGORITHM_1),
    steps=400,
    batch_size=32,
)
