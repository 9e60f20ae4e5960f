"""The theory, runnable: empirical kernels, records of training runs, channel and reservoir.

Litman & Guo, "A Theory of Generalization in Deep Learning", arXiv 2605.01172.
"""

from snrgate.theory.channel import Cells as Cells
from snrgate.theory.channel import Split as Split
from snrgate.theory.channel import effective_rank as effective_rank
from snrgate.theory.channel import four_cells as four_cells
from snrgate.theory.channel import predictor as predictor
from snrgate.theory.channel import split as split
from snrgate.theory.channel import visibility as visibility
from snrgate.theory.flow import Flow as Flow
from snrgate.theory.flow import gradient_flow as gradient_flow
from snrgate.theory.ntk import jacobian as jacobian
from snrgate.theory.ntk import ntk as ntk
from snrgate.theory.ntk import ntk_product as ntk_product
from snrgate.theory.ntk import outputs as outputs
from snrgate.theory.population import MonitorState as MonitorState
from snrgate.theory.population import PopulationRisk as PopulationRisk
from snrgate.theory.population import monitored as monitored
from snrgate.theory.population import population_risk as population_risk
from snrgate.theory.train import Recorded as Recorded
from snrgate.theory.train import record as record
from snrgate.theory.transfer import Record as Record
from snrgate.theory.walk import Walk as Walk
from snrgate.theory.walk import random_walks as random_walks
from snrgate.theory.walk import slope as slope
