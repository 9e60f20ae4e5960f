"""The paper's Algorithm 1 on Lorenz-63 with sensor noise 0.2.

snrgate train chaos/algorithm_1

Error at the last step: 0.00171 (0.001584 to 0.0019), seeds 0 to 4.
"""

from snrgate.lab.tasks.chaos import Chaos
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Chaos(),
    Algorithm1(learning_rate=0.003),
    steps=3000,
    batch_size=128,
)
