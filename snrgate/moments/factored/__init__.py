"""Exact moments at nearly the price of an ordinary backward pass, ``method="factored"``."""

from snrgate.moments.factored.report import explain_moments as explain_moments
from snrgate.moments.factored.run import factored_moments as factored_moments
from snrgate.moments.factored.run import formed_moments as formed_moments
