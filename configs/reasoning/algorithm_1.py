"""The paper's Algorithm 1 on arithmetic in six steps: streaming noise, one gate for each parameter.

snrgate train reasoning/algorithm_1
"""

from snrgate.tasks.reasoning import Reasoning
from snrgate.training.optimizers import Gated
from snrgate.training.train import Training

CONFIG = Training(
    Reasoning(),
    Gated(
        learning_rate=1e-3, noise="streaming", block="parameter", alpha=1.0, gate_weight_decay=False
    ),
    steps=800,
    batch_size=64,
    eval_every=50,
)
