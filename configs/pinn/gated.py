"""The gated AdamW on advection from 256 noisy measurements, not told how few they are.

snrgate train pinn/gated
"""

from snrgate.tasks.pinn import Pinn
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Pinn(),
    Gated(learning_rate=1e-3, finite=False),
    steps=8000,
    batch_size=128,
)
