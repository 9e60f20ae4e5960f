"""The paper's Algorithm 1 on the camera photo with noise 0.2.

snrgate train photo/algorithm_1

Psnr at the last step: 20.52 (19.88 to 21.05), seeds 0 to 4.
"""

from snrgate.tasks.photo import Photo
from snrgate.training.optimizers import ALGORITHM_1, Gated
from snrgate.training.train import Training

CONFIG = Training(
    Photo(),
    Gated(learning_rate=0.003, weight_decay=3.0, **ALGORITHM_1),
    steps=1500,
    batch_size=512,
    eval_every=20,
)
