"""A model from the tensors of a file: their names, their shapes and their layout."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from snrgate.models.causal_lm.config import Config
from snrgate.models.causal_lm.decoder import CausalLM

__all__ = ["GGUF", "HUGGING_FACE", "Checkpoint", "build"]

HUGGING_FACE = {
    "tokens": "model.embed_tokens",
    "blocks": "model.layers",
    "attention_norm": "input_layernorm",
    "attention": "self_attn",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "mlp_norm": "post_attention_layernorm",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
"""Hugging Face's names of the modules; those that are missing are called as they are here."""

GGUF = {
    "tokens": "token_embd",
    "blocks": "blk",
    "attention_norm": "attn_norm",
    "attention": "",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp": "",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "norm": "output_norm",
    "head": "output",
}
"""llama.cpp's names of the modules, which leave out the groups."""

_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$")
"""Buffers of old files, which follow from the configuration."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file or folder, read one at a time.

    Args:
        path: the file or folder.
        config: the sizes that its metadata tell.
        names: the names of its modules.
        shapes: the shape of each tensor, output before input.
        read: the numbers of the tensor of this name.
    """

    path: Path
    config: Config
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    def name(self, path: Sequence[Any]) -> str:
        """The name that the file has for a parameter of the model."""
        *modules, leaf = (str(part) for part in path)
        parts = [self.names.get(part, part) for part in modules]
        return ".".join([part for part in parts if part] + [_LEAVES.get(leaf, leaf)])


def build(checkpoint: Checkpoint, dtype: DTypeLike = jnp.float32) -> CausalLM:
    """A model with the numbers of a checkpoint.

    Args:
        checkpoint: where they are read from. Every tensor is copied.
        dtype: type of the parameters.

    Raises:
        ValueError: tensors are missing, are too many or have another shape. The message names
            them.
    """
    abstract = nnx.eval_shape(
        lambda: CausalLM(checkpoint.config, dtype=dtype, rngs=nnx.Rngs(params=0))
    )
    graph, state = nnx.split(abstract)
    wanted = {checkpoint.name(path): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    _check(checkpoint, {n: _stored(path, leaf.shape) for n, (path, leaf) in wanted.items()})
    filled = []
    for name, (path, leaf) in wanted.items():
        value = checkpoint.read(name)
        value = value.T if path[-1] == "kernel" else value
        filled.append((path, leaf.replace(jnp.array(value, dtype))))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def _stored(path: Sequence[Any], shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if path[-1] == "kernel" else shape


def _check(checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes before anything is read."""
    given = {name: s for name, s in checkpoint.shapes.items() if not _COMPUTED.search(name)}
    if checkpoint.config.tied:
        _check_tied(checkpoint, given)
    faults = []
    if missing := [name for name in wanted if name not in given]:
        faults.append(f"missing: {_some(missing)}")
    if surplus := [name for name in given if name not in wanted]:
        faults.append(f"not part of such a model: {_some(surplus)}")
    faults += [
        f"{name} has the shape {given[name]}, where the configuration asks for {shape}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name]) != tuple(shape)
    ][:5]
    if faults:
        raise ValueError(
            f"The tensors of {checkpoint.path} do not fit its configuration. " + "; ".join(faults)
        )


def _check_tied(checkpoint: Checkpoint, given: dict[str, tuple[int, ...]]) -> None:
    """Drop an output layer that repeats the embedding, and refuse one that does not."""
    head, tokens = checkpoint.name(("head", "kernel")), checkpoint.name(("tokens", "embedding"))
    if head in given and tokens in given:
        if not np.array_equal(checkpoint.read(head), checkpoint.read(tokens)):
            raise ValueError(
                f"{checkpoint.path}: the configuration ties the output layer to the embedding, "
                f"but {head} differs from {tokens}. One of the two is wrong."
            )
        del given[head]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
