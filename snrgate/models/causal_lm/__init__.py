"""Causal language models: read from files, adapted by LoRA, and written for other programs.

Reading and writing need the extra ``preferences``.
"""

from snrgate.models.causal_lm.adapters import add_lora as add_lora
from snrgate.models.causal_lm.adapters import load_adapters as load_adapters
from snrgate.models.causal_lm.adapters import save_adapters as save_adapters
from snrgate.models.causal_lm.config import Config as Config
from snrgate.models.causal_lm.decoder import CausalLM as CausalLM
from snrgate.models.causal_lm.decoder import Layout as Layout
from snrgate.models.causal_lm.pretrained import Pretrained as Pretrained
from snrgate.models.causal_lm.pretrained import load as load
from snrgate.models.causal_lm.pretrained import smollm2_path as smollm2_path
from snrgate.models.causal_lm.tokenizer import Tokenizer as Tokenizer
