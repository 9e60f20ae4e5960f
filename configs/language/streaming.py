"""The gated AdamW on characters of Python's manual, the noise from how batches differ.

snrgate train language/streaming
"""

from snrgate.tasks.language import Language
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Language(), Gated(learning_rate=1e-3, noise="streaming"), steps=1000, batch_size=32
)
