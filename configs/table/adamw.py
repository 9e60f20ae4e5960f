"""AdamW on the diabetes table.

snrgate train table/adamw
"""

from snrgate.tasks.table import Table
from snrgate.training.optimizers import AdamW
from snrgate.training.train import Training

CONFIG = Training(
    Table(),
    AdamW(learning_rate=1e-3),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
