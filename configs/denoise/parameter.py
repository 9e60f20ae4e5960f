"""Every parameter its own gate, as in the paper, with exact noise.

    snrgate denoise --config parameter --out runs/parameter

One parameter shows little to tell signal from noise by; the default takes a unit's worth of them.
"""

from snrgate.lab.tasks.denoise import Denoise

CONFIG = Denoise(block="parameter")
