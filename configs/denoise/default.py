"""The default: AdamW and the gate side by side on scikit-image's camera, noise 0.2.

snrgate denoise
"""

from snrgate.tasks.denoise import Denoise

CONFIG = Denoise()
