"""The paper's Algorithm 1 on advection from 256 noisy measurements.

snrgate train pinn/algorithm_1
"""

from snrgate.tasks.pinn import Pinn
from snrgate.training.optimizers import ALGORITHM_1, Gated
from snrgate.training.train import Training

CONFIG = Training(
    Pinn(),
    Gated(learning_rate=0.001, **ALGORITHM_1),
    steps=8000,
    batch_size=128,
)
