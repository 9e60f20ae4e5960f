"""Preferences: losses of pairs with noisy labels, their moments, and what is measured."""

from snrgate.preferences.coupled import tilted_value_and_moments as tilted_value_and_moments
from snrgate.preferences.losses import cdpo as cdpo
from snrgate.preferences.losses import dpo as dpo
from snrgate.preferences.losses import dr_dpo as dr_dpo
from snrgate.preferences.losses import ipo as ipo
from snrgate.preferences.losses import margin as margin
from snrgate.preferences.losses import rdpo as rdpo
from snrgate.preferences.losses import tilted_mean as tilted_mean
from snrgate.preferences.metrics import drift as drift
from snrgate.preferences.metrics import kl_per_token as kl_per_token
from snrgate.preferences.metrics import reward as reward
from snrgate.preferences.metrics import reward_accuracy as reward_accuracy
from snrgate.preferences.metrics import sustained as sustained
