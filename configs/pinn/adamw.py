"""AdamW on advection from 256 noisy measurements.

snrgate train pinn/adamw

Error at the last step: 0.1058 (0.1033 to 0.1695), seeds 0 to 4.
"""

from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Pinn(),
    AdamW(learning_rate=0.0003),
    steps=8000,
    batch_size=128,
)
