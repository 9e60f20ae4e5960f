"""AdamW on advection from 256 noisy measurements.

snrgate train pinn/adamw
"""

from snrgate.tasks.pinn import Pinn
from snrgate.training.optimizers import AdamW
from snrgate.training.train import Training

CONFIG = Training(
    Pinn(),
    AdamW(learning_rate=1e-3),
    steps=8000,
    batch_size=128,
)
