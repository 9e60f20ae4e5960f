"""AdamW on Lorenz-63 with sensor noise 0.2.

snrgate train chaos/adamw

Error at the last step: 0.001397 (0.00133 to 0.002008), seeds 0 to 4.
"""

from snrgate.tasks.chaos import Chaos
from snrgate.training.optimizers import AdamW
from snrgate.training.train import Training

CONFIG = Training(
    Chaos(),
    AdamW(learning_rate=0.0003, weight_decay=1.0),
    steps=3000,
    batch_size=128,
)
