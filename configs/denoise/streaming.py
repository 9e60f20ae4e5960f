"""The noise from how gradients differ between steps, as with no per-example gradients at hand.

    snrgate denoise --config streaming --out runs/streaming

For a model whose loss of one example cannot be written.
"""

from snrgate.lab.tasks.denoise import Denoise

CONFIG = Denoise(noise_estimator="streaming")
