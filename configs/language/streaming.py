"""The gated AdamW with streaming noise on characters of Python's manual.

snrgate train language/streaming
"""

from snrgate.lab.tasks.language import Language
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Language(),
    Gated(learning_rate=0.003, noise="streaming"),
    steps=400,
    batch_size=32,
)
