"""The paper's Algorithm 1 on arithmetic in six steps.

snrgate train reasoning/algorithm_1

Accuracy at the last step: 0.001 (0 to 0.003), seeds 0 to 4.
"""

from snrgate.lab.tasks.reasoning import Reasoning
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Reasoning(),
    Algorithm1(learning_rate=0.0003),
    steps=800,
    batch_size=64,
    eval_every=50,
)
