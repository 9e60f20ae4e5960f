"""The paper's Algorithm 1 on the diabetes table.

snrgate train table/algorithm_1

Error at the last step: 0.5268 (0.4473 to 0.5485), seeds 0 to 4.
"""

from snrgate.lab.tasks.table import Table
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Table(),
    Algorithm1(learning_rate=0.003, weight_decay=1.0),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
