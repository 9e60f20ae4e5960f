"""Every parameter its own gate: the paper's rule, with exact noise.

    snrgate denoise --config parameter --out runs/parameter

PSNR in dB: gated best 22.99 (step 1,500), last 20.36. One parameter shows too little to tell signal
from noise; a unit's worth of them (the default) loses less by the last step.
"""

from snrgate.tasks.denoise import Denoise

CONFIG = Denoise(block="parameter")
