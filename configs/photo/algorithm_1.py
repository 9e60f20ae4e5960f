"""The paper's Algorithm 1 on the camera photo with noise 0.2.

snrgate train photo/algorithm_1

Psnr at the last step: 22.81 (22.61 to 23.02), seeds 0 to 4.
"""

from snrgate.lab.tasks.photo import Photo
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Photo(),
    Algorithm1(learning_rate=0.003, weight_decay=1.0),
    steps=1500,
    batch_size=512,
    eval_every=20,
)
