"""The gated AdamW on digits with 40 % wrong labels, the noise from how batches differ.

snrgate train digits/streaming
"""

from snrgate.tasks.digits import Digits
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Digits(wrong=0.4),
    Gated(learning_rate=1e-3, noise="streaming"),
    steps=2000,
    batch_size=128,
    eval_every=50,
)
