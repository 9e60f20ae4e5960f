"""The gated AdamW on modular division, 25 % of the table.

snrgate train division/gated

Accuracy at the last step: 0.01031 (0.009307 to 0.01117), seeds 0 to 4.
"""

from snrgate.lab.tasks.division import Division
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Division(),
    Gated(learning_rate=0.005, weight_decay=2.0, b2=0.98),
    steps=2000,
    batch_size=512,
    eval_every=50,
    until=0.95,
)
