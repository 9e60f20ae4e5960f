"""The gated AdamW with streaming noise on the diabetes table.

snrgate train table/streaming

Error at the last step: 0.513 (0.4498 to 0.5457), seeds 0 to 4.
"""

from snrgate.lab.tasks.table import Table
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Table(),
    Gated(learning_rate=0.003, weight_decay=10.0, noise="streaming"),
    steps=2000,
    batch_size=64,
    eval_every=20,
)
