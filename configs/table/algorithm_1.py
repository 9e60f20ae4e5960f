"""The paper's Algorithm 1 on the diabetes table: streaming noise, one gate for each parameter.

snrgate train table/algorithm_1
"""

from snrgate.tasks.table import Table
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Table(),
    Gated(
        learning_rate=1e-3, noise="streaming", block="parameter", alpha=1.0, gate_weight_decay=False
    ),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
