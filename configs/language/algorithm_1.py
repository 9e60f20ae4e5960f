"""The paper's Algorithm 1 on characters of Python's manual.

snrgate train language/algorithm_1
"""

from snrgate.lab.tasks.language import Language
from snrgate.lab.training.optimizers import Algorithm1
from snrgate.lab.training.train import Training

CONFIG = Training(
    Language(),
    Algorithm1(learning_rate=0.003),
    steps=400,
    batch_size=32,
)
