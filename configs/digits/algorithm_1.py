"""The paper's Algorithm 1 on digits with 40 % wrong labels.

snrgate train digits/algorithm_1
"""

from snrgate.tasks.digits import Digits
from snrgate.training.optimizers import Algorithm1
from snrgate.training.train import Training

CONFIG = Training(
    Digits(wrong=0.4),
    Algorithm1(learning_rate=0.003, weight_decay=3.0),
    steps=2000,
    batch_size=128,
    eval_every=50,
)
