"""AdamW on arithmetic in six steps.

snrgate train reasoning/adamw
"""

from snrgate.tasks.reasoning import Reasoning
from snrgate.training.optimizers import AdamW
from snrgate.training.train import Training

CONFIG = Training(
    Reasoning(),
    AdamW(learning_rate=1e-3),
    steps=800,
    batch_size=64,
    eval_every=50,
)
