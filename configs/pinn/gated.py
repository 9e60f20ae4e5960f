"""The gated AdamW on advection from 256 noisy measurements, not told how few they are.

snrgate train pinn/gated

Error at the last step: 0.09799 (0.08008 to 0.1571), seeds 0 to 4.
"""

from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Pinn(),
    Gated(learning_rate=0.001, finite=False),
    steps=8000,
    batch_size=128,
)
