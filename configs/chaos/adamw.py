"""AdamW on Lorenz-63 with sensor noise 0.2.

snrgate train chaos/adamw

Error at the last step: 0.001265 (0.0009937 to 0.001438), seeds 0 to 4.
"""

from snrgate.lab.tasks.chaos import Chaos
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Chaos(),
    AdamW(learning_rate=0.0001, weight_decay=3.0),
    steps=3000,
    batch_size=128,
)
