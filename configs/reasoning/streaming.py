"""The gated AdamW on arithmetic in six steps, the noise from how batches differ.

snrgate train reasoning/streaming
"""

from snrgate.tasks.reasoning import Reasoning
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Reasoning(),
    Gated(learning_rate=1e-3, noise="streaming"),
    steps=800,
    batch_size=64,
    eval_every=50,
)
