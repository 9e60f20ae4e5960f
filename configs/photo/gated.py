"""The gated AdamW on the camera photo with noise 0.2.

snrgate train photo/gated

Psnr at the last step: 23.34 (22.69 to 23.65), seeds 0 to 4.
"""

from snrgate.lab.tasks.photo import Photo
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Photo(),
    Gated(learning_rate=0.003, weight_decay=3.0),
    steps=1500,
    batch_size=512,
    eval_every=20,
)
