"""The gated AdamW with streaming noise on Lorenz-63 with sensor noise 0.2.

snrgate train chaos/streaming

Error at the last step: 0.001087 (0.0009041 to 0.001103), seeds 0 to 4.
"""

from snrgate.lab.tasks.chaos import Chaos
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Chaos(),
    Gated(learning_rate=0.001, weight_decay=1.0, noise="streaming"),
    steps=3000,
    batch_size=128,
)
