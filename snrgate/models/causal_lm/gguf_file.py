"""A file of llama.cpp: metadata, tensors in many types, and the tokenizer, in one .gguf."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from snrgate.models.causal_lm.config import Config, refuse, refuse_unknown
from snrgate.models.causal_lm.extra import require
from snrgate.models.causal_lm.tokenizer import Tokenizer
from snrgate.models.causal_lm.weights import GGUF, Checkpoint

__all__ = ["config_from", "open_checkpoint", "open_tokenizer", "read_metadata"]

_SIZES = {
    "embedding_length": "width",
    "block_count": "depth",
    "attention.head_count": "heads",
    "feed_forward_length": "mlp_width",
}
_KNOWN = {
    *_SIZES,
    *("context_length", "vocab_size", "attention.head_count_kv"),
    *("attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon"),
    *("rope.freq_base", "rope.dimension_count", "rope.scaling.type"),
}
_CONTROL, _USER_DEFINED = 3, 4
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What Qwen2 splits a text into before it merges bytes."""


def read_metadata(reader: Any) -> dict[str, Any]:
    """All entries of a file, by name."""
    return {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }


def config_from(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str
) -> Config:
    """The sizes that the metadata and the tensors of a file tell.

    Args:
        metadata: the entries of the file.
        shapes: the shapes of its tensors.
        where: what the errors call the file.

    Raises:
        ValueError: sizes are missing, or the model is another one. Entries of the architecture
            that are not known are refused too, unless they switch nothing on.
    """
    kind = metadata.get("general.architecture")
    if kind not in ("llama", "qwen2"):
        refuse(where, "general.architecture", kind, "llama or qwen2")
    if metadata.get("split.count", 1) > 1:
        refuse(where, "split.count", metadata["split.count"], "1: merge the files of the model")
    given = {
        name.removeprefix(f"{kind}."): value
        for name, value in metadata.items()
        if name.startswith(f"{kind}.")
    }
    if given.get("rope.scaling.type", "none") != "none":
        refuse(where, f"{kind}.rope.scaling.type", given["rope.scaling.type"], "none")
    refuse_unknown(
        where, {f"{kind}.{n}": v for n, v in given.items()}, {f"{kind}.{n}" for n in _KNOWN}
    )
    if missing := [f"{kind}.{name}" for name in _SIZES if name not in given]:
        raise ValueError(f"{where}: these entries are missing: {', '.join(missing)}")
    if "token_embd.weight" not in shapes:
        raise ValueError(f"{where}: the tensor token_embd.weight is missing")
    for name in (*_SIZES, "attention.head_count_kv"):
        if isinstance(given.get(name), list):
            refuse(where, f"{kind}.{name}", given[name], "one number for all layers")
    sizes = {ours: given[theirs] for theirs, ours in _SIZES.items()}
    heads = sizes["heads"]
    head_width = given.get("attention.key_length") or sizes["width"] // heads
    for name in ("attention.value_length", "rope.dimension_count"):
        if given.get(name, head_width) != head_width:
            refuse(where, f"{kind}.{name}", given[name], f"the size of a head, {head_width}")
    return Config(
        **sizes,
        vocabulary=shapes["token_embd.weight"][0],
        kv_heads=given.get("attention.head_count_kv") or heads,
        head_width=head_width,
        rope_theta=given.get("rope.freq_base", 10_000.0),
        norm_epsilon=given.get("attention.layer_norm_rms_epsilon", 1e-5),
        tied="output.weight" not in shapes,
        qkv_bias=kind == "qwen2",
    )


def open_checkpoint(path: Path) -> tuple[Checkpoint, Tokenizer]:
    """The tensors of a file, dequantised as they are read, and its tokenizer.

    Raises:
        ValueError: the file is damaged, or its model or tokenizer is not supported.
    """
    gguf = require("gguf")
    try:
        reader = gguf.GGUFReader(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as GGUF: {error}") from error
    metadata = read_metadata(reader)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {n: tuple(int(size) for size in t.shape[::-1]) for n, t in tensors.items()}
    config = config_from(metadata, shapes, str(path))
    interleaved = metadata["general.architecture"] == "llama"

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        try:
            value = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            refuse(
                str(path), f"the type of {name}", tensor.tensor_type.name, "what gguf dequantises"
            )
        if interleaved and name.endswith(("attn_q.weight", "attn_k.weight")):
            value = _halves_from_pairs(value, config.head_width)
        return value

    checkpoint = Checkpoint(path, config, GGUF, shapes, read)
    return checkpoint, open_tokenizer(metadata, str(path))


def _halves_from_pairs(kernel: np.ndarray, head_width: int) -> np.ndarray:
    """Put the rows of each head back in the order of Hugging Face.

    llama.cpp rotates neighbouring rows of a Llama model, and so its files have the first and
    the second half of each head interleaved.
    """
    rows, width = kernel.shape
    pairs = kernel.reshape(rows // head_width, head_width // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(rows, width)


def open_tokenizer(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer of a file: byte pairs from its tokens and merges.

    Args:
        metadata: the entries of the file.
        where: what the errors call the file.

    Raises:
        ValueError: the tokenizer is of another kind, or the file names another way to split a
            text before it is merged.
    """
    tokenizers = require("tokenizers")
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        refuse(where, "tokenizer.ggml.model", kind, "gpt2: byte pairs")
    splits = _splits(tokenizers)
    if split not in splits:
        refuse(where, "tokenizer.ggml.pre", split, " or ".join(splits))
    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    backend.pre_tokenizer = splits[split]
    backend.decoder = tokenizers.decoders.ByteLevel()
    if split == "qwen2":
        backend.normalizer = tokenizers.normalizers.NFC()
    types = metadata["tokenizer.ggml.token_type"]
    for wanted, add in (
        (_CONTROL, backend.add_special_tokens),
        (_USER_DEFINED, backend.add_tokens),
    ):
        chosen = [token for token, kind in zip(tokens, types, strict=True) if kind == wanted]
        add([tokenizers.AddedToken(token, normalized=False) for token in chosen])
    names = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    special = {
        f"{ours}_token": tokens[metadata[f"tokenizer.ggml.{theirs}_token_id"]]
        for theirs, ours in names.items()
        if f"tokenizer.ggml.{theirs}_token_id" in metadata
    }
    return Tokenizer(backend, template=metadata.get("tokenizer.chat_template"), special=special)


def _splits(tokenizers: Any) -> dict[str, Any]:
    """How a text is split before bytes are merged, by llama.cpp's name of it."""
    pre = tokenizers.pre_tokenizers
    qwen2 = pre.Split(tokenizers.Regex(_QWEN2), behavior="isolated")
    return {
        "smollm": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(False)]),
        "qwen2": pre.Sequence([qwen2, pre.ByteLevel(False, use_regex=False)]),
    }
