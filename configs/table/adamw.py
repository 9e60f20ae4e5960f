"""AdamW on the diabetes table.

snrgate train table/adamw

Error at the last step: 0.5186 (0.4579 to 0.5862), seeds 0 to 4.
"""

from snrgate.lab.tasks.table import Table
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Table(),
    AdamW(learning_rate=0.003, weight_decay=10.0),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
