"""The default: AdamW and the gate side by side on scikit-image's camera, noise 0.2.

    snrgate denoise

PSNR in dB: noisy 14.91; AdamW best 22.15 (step 60), last 14.99; gated last 22.80. About two
minutes on two busy cores. Other photos and seeds: results/denoise/README.md.
"""

from snrgate.lab.tasks.denoise import Denoise

CONFIG = Denoise()
