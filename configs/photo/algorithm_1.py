"""The paper's Algorithm 1 on the camera photo with noise 0.2.

snrgate train photo/algorithm_1
"""

from snrgate.tasks.photo import Photo
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Photo(),
    Gated(
        learning_rate=3e-3, noise="streaming", block="parameter", alpha=1.0, gate_weight_decay=False
    ),
    steps=4000,
    batch_size=1024,
    eval_every=20,
)
