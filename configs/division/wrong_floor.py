"""The gated AdamW that never shuts on modular division, 50 % of the table, 30 % wrong answers.

snrgate train division/wrong_floor

Accuracy at the last step: 0.6364 (0.1347 to 0.919), seeds 0 to 4.
"""

from snrgate.lab.study.peers import FloorGated
from snrgate.lab.tasks.division import Division
from snrgate.lab.training.train import Training

CONFIG = Training(
    Division(train_fraction=0.5, wrong=0.3),
    FloorGated(learning_rate=0.005, weight_decay=2.0, b2=0.98),
    steps=2000,
    batch_size=512,
    eval_every=50,
)
