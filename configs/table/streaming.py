"""The gated AdamW on the diabetes table, the noise from how batches differ.

snrgate train table/streaming
"""

from snrgate.tasks.table import Table
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Table(), Gated(learning_rate=1e-3, noise="streaming"), steps=2000, batch_size=64, eval_every=20
)
