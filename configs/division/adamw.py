"""AdamW on modular division, 25 % of the table.

snrgate train division/adamw

Accuracy at the last step: 0.9613 (0.03293 to 0.9999), seeds 0 to 4.
"""

from snrgate.lab.tasks.division import Division
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Division(),
    AdamW(learning_rate=0.01, weight_decay=2.0, b2=0.98),
    steps=2000,
    batch_size=512,
    eval_every=50,
    until=0.95,
)
