"""AdamW on the camera photo with noise 0.2.

snrgate train photo/adamw
"""

from snrgate.tasks.photo import Photo
from snrgate.training.optimizers import AdamW
from snrgate.training.train import Training

CONFIG = Training(
    Photo(),
    AdamW(learning_rate=3e-3),
    steps=4000,
    batch_size=1024,
    eval_every=20,
)
