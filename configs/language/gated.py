"""The gated AdamW on characters of Python's manual.

snrgate train language/gated

Loss per character at the last step: 1.666 (1.649 to 1.702), seeds 0 to 4.
"""

from snrgate.lab.tasks.language import Language
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Language(),
    Gated(learning_rate=0.003),
    steps=400,
    batch_size=32,
)
