"""The gated AdamW on the diabetes table.

snrgate train table/gated

Error at the last step: 0.5147 (0.4522 to 0.5573), seeds 0 to 4.
"""

from snrgate.lab.tasks.table import Table
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Table(),
    Gated(learning_rate=0.003, weight_decay=10.0),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
