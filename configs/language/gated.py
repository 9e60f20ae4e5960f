"""The gated AdamW on characters of Python's manual.

snrgate train language/gated

Loss per character at the last step: 1.832 (1.779 to 2.025), seeds 0 to 4.
"""

from snrgate.tasks.language import Language
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Language(),
    Gated(learning_rate=0.01),
    steps=400,
    batch_size=32,
)
