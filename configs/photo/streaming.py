"""The gated AdamW on the camera photo with noise 0.2, the noise from how batches differ.

snrgate train photo/streaming
"""

from snrgate.tasks.photo import Photo
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Photo(),
    Gated(learning_rate=3e-3, noise="streaming"),
    steps=4000,
    batch_size=1024,
    eval_every=20,
)
