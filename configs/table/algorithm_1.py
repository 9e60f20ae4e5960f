"""The paper's Algorithm 1 on the diabetes table.

snrgate train table/algorithm_1

Error at the last step: 0.9239 (0.8048 to 1.046), seeds 0 to 4.
"""

from snrgate.tasks.table import Table
from snrgate.training.optimizers import ALGORITHM_1, Gated
from snrgate.training.train import Training

CONFIG = Training(
    Table(),
    Gated(learning_rate=0.003, weight_decay=10.0, **ALGORITHM_1),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
