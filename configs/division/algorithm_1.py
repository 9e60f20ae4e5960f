"""The paper's Algorithm 1 on modular division, 25 % of the table.

snrgate train division/algorithm_1
"""

from snrgate.lab.tasks.division import Division
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Division(),
    Algorithm1(learning_rate=0.005, weight_decay=2.0, b2=0.98),
    steps=2000,
    batch_size=512,
    eval_every=50,
    until=0.95,
)
