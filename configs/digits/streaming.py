"""The gated AdamW with streaming noise on digits with 40 % wrong labels.

snrgate train digits/streaming

Accuracy at the last step: 0.9095 (0.9062 to 0.9296), seeds 0 to 4.
"""

from snrgate.lab.tasks.digits import Digits
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Digits(wrong=0.4),
    Gated(learning_rate=0.003, weight_decay=3.0, noise="streaming"),
    steps=2000,
    batch_size=128,
    eval_every=50,
)
