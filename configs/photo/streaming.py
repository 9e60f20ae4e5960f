"""The gated AdamW with streaming noise on the camera photo with noise 0.2.

snrgate train photo/streaming

Psnr at the last step: 23.32 (23.15 to 23.6), seeds 0 to 4.
"""

from snrgate.lab.tasks.photo import Photo
from snrgate.lab.training.optimizers import Gated
from snrgate.lab.training.train import Training

CONFIG = Training(
    Photo(),
    Gated(learning_rate=0.003, weight_decay=3.0, noise="streaming"),
    steps=1500,
    batch_size=512,
    eval_every=20,
)
