"""Every parameter its own gate: the paper's rule, with exact noise.

snrgate denoise --config parameter --out runs/parameter
"""

from snrgate.tasks.denoise import Denoise

CONFIG = Denoise(block="parameter")
