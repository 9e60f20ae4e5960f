"""The paper's Algorithm 1 on digits with 40 % wrong labels.

snrgate train digits/algorithm_1

Accuracy at the last step: 0.4439 (0.3853 to 0.5126), seeds 0 to 4.
"""

from snrgate.tasks.digits import Digits
from snrgate.training.optimizers import ALGORITHM_1, Gated
from snrgate.training.train import Training

CONFIG = Training(
    Digits(wrong=0.4),
    Gated(learning_rate=0.003, weight_decay=3.0, **ALGORITHM_1),
    steps=2000,
    batch_size=128,
    eval_every=50,
)
