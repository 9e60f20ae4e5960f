"""AdamW on digits with 40 % wrong labels.

snrgate train digits/adamw

Accuracy at the last step: 0.933 (0.9263 to 0.9447), seeds 0 to 4.
"""

from snrgate.lab.tasks.digits import Digits
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Digits(wrong=0.4),
    AdamW(learning_rate=0.0001, weight_decay=3.0),
    steps=2000,
    batch_size=128,
    eval_every=50,
)
