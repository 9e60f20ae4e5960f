"""The paper's Algorithm 1 on digits with 40 % wrong labels.

snrgate train digits/algorithm_1

Accuracy at the last step: 0.9229 (0.9129 to 0.928), seeds 0 to 4.
"""

from snrgate.lab.tasks.digits import Digits
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Digits(wrong=0.4),
    Algorithm1(learning_rate=0.003),
    steps=2000,
    batch_size=128,
    eval_every=50,
)
