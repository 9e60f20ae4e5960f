"""The gated AdamW on Lorenz-63 with sensor noise 0.2.

snrgate train chaos/gated
"""

from snrgate.tasks.chaos import Chaos
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Chaos(noise=0.2),
    Gated(learning_rate=1e-3),
    steps=3000,
    batch_size=128,
)
