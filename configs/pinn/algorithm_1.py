"""The paper's Algorithm 1 on advection from 256 noisy measurements.

snrgate train pinn/algorithm_1
"""

from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Pinn(),
    Algorithm1(learning_rate=0.001),
    steps=8000,
    batch_size=128,
)
