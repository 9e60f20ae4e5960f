"""AdamW on modular division, 50 % of the table, 30 % of the answers wrong.

snrgate train division/wrong_adamw

Accuracy at the last step: 0.6574 (0.4832 to 0.9596), seeds 0 to 4.
"""

from snrgate.lab.tasks.division import Division
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Division(train_fraction=0.5, wrong=0.3),
    AdamW(learning_rate=0.002, weight_decay=5.0, b2=0.98),
    steps=2000,
    batch_size=512,
    eval_every=50,
)
