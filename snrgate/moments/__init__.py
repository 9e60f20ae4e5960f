"""Moments of per-example gradients, and the functions that compute them from a loss."""

from snrgate.moments.factored import explain_moments as explain_moments
from snrgate.moments.groups import add_groups as add_groups
from snrgate.moments.interface import value_and_moments as value_and_moments
from snrgate.moments.statistics import Moments as Moments
from snrgate.moments.statistics import merge as merge
from snrgate.moments.statistics import merge_across as merge_across
