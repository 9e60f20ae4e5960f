"""AdamW on the camera photo with noise 0.2.

snrgate train photo/adamw

Psnr at the last step: 23.23 (22.85 to 23.31), seeds 0 to 4.
"""

from snrgate.lab.tasks.photo import Photo
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

CONFIG = Training(
    Photo(),
    AdamW(learning_rate=0.0001, weight_decay=10.0),
    steps=1500,
    batch_size=512,
    eval_every=20,
)
