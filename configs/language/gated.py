"""The gated AdamW on characters of Python's manual.

snrgate train language/gated
"""

from snrgate.tasks.language import Language
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Language(),
    Gated(learning_rate=1e-3),
    steps=1000,
    batch_size=32,
)
