"""The paper's Algorithm 1 on Lorenz-63 with sensor noise 0.2.

snrgate train chaos/algorithm_1
"""

from snrgate.tasks.chaos import Chaos
from snrgate.training.optimizers import Algorithm1
from snrgate.training.train import Training

CONFIG = Training(
    Chaos(),
    Algorithm1(learning_rate=0.001, weight_decay=1.0),
    steps=3000,
    batch_size=128,
)
