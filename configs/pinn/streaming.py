"""The gated AdamW with streaming noise on advection from 256 noisy measurements.

snrgate train pinn/streaming

Error at the last step: 0.1686 (0.1304 to 0.2491), seeds 0 to 4.
"""

from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Pinn(),
    Gated(learning_rate=0.003, noise="streaming"),
    steps=8000,
    batch_size=128,
)
