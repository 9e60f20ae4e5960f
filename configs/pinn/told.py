"""The gated AdamW on advection from 256 noisy measurements, told how few they are.

It then hardly learns: the equation would have dealt with their noise.

snrgate train pinn/told
"""

from snrgate.tasks.pinn import Pinn
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Pinn(),
    Gated(learning_rate=1e-3),
    steps=8000,
    batch_size=128,
)
