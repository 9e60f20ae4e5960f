"""The gated AdamW on advection from 256 noisy measurements, the noise from how batches differ.

snrgate train pinn/streaming
"""

from snrgate.tasks.pinn import Pinn
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Pinn(),
    Gated(learning_rate=1e-3, noise="streaming"),
    steps=8000,
    batch_size=128,
)
