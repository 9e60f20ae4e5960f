"""A folder as Hugging Face's libraries write it: config.json, safetensors, tokenizer.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from snrgate.models.causal_lm.config import (
    Config,
    check_positive,
    check_sizes,
    refuse,
    refuse_unknown,
)
from snrgate.models.causal_lm.extra import require
from snrgate.models.causal_lm.tokenizer import Tokenizer
from snrgate.models.causal_lm.weights import HUGGING_FACE, Checkpoint

__all__ = ["config_from", "open_checkpoint", "open_tokenizer", "read_json"]

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_SIZES = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
}
_USED = {
    "model_type",
    "architectures",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "rope_parameters",
    "rms_norm_eps",
    "tie_word_embeddings",
}
_SUPPORTED = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (1, None),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "quantization_config": (None,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
}
"""Entries that change the network, and the values with which it is the one that is built here."""
_WITHOUT_EFFECT = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id"),
    *("dtype", "torch_dtype", "transformers_version", "initializer_range", "use_cache"),
    *("max_position_embeddings", "max_window_layers", "attention_dropout", "pretraining_tp"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
    *("torchscript", "chunk_size_feed_forward", "id2label", "label2id", "problem_type"),
    *("task_specific_params", "is_llama_config", "is_decoder", "transformers.js_config"),
    *("name_or_path", "tokenizer_class", "unsloth_version", "unsloth_fixed", "use_bfloat16"),
    *("generation_config", "auto_map_disabled", "prefix", "finetuning_task"),
}
_FLOATS = {"F64", "F32", "F16", "BF16"}


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not an object with entries")
    return found


def config_from(given: Mapping[str, Any], where: str) -> Config:
    """The sizes that a ``config.json`` tells.

    Args:
        given: its entries.
        where: what the errors call it.

    Raises:
        ValueError: sizes are missing, or the model is another one. Entries that are not known
            are refused too, unless they switch nothing on.
    """
    kind = str(given.get("model_type"))
    if kind not in _ARCHITECTURES:
        refuse(where, "model_type", kind, "llama or qwen2")
    architectures = given.get("architectures") or [_ARCHITECTURES[kind]]
    if architectures != [_ARCHITECTURES[kind]]:
        refuse(where, "architectures", architectures, _ARCHITECTURES[kind])
    for name, allowed in _SUPPORTED.items():
        if name in given and given[name] not in allowed:
            refuse(where, name, given[name], " or ".join(map(repr, allowed)))
    _refuse_windows(given, where)
    known = {*_USED, *_SIZES, *_SUPPORTED, *_WITHOUT_EFFECT, "layer_types", "sliding_window"}
    refuse_unknown(where, {k: v for k, v in given.items() if not k.startswith("_")}, known)
    needed = [*_SIZES, *(["num_key_value_heads"] if kind == "qwen2" else [])]
    if missing := [name for name in needed if given.get(name) is None]:
        raise ValueError(f"{where}: these entries are missing: {', '.join(missing)}")
    sizes = {ours: given[theirs] for theirs, ours in _SIZES.items()}
    reals = {
        "rope_theta": _rope_theta(given, where),
        "rms_norm_eps": given.get("rms_norm_eps", 1e-6),
    }
    tied = given.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        refuse(where, "tie_word_embeddings", tied, "true or false")
    try:
        check_sizes({theirs: given[theirs] for theirs in _SIZES})
        check_positive(reals)
        return Config(
            **sizes,
            kv_heads=given.get("num_key_value_heads") or sizes["heads"],
            head_width=given.get("head_dim") or sizes["width"] // sizes["heads"],
            rope_theta=reals["rope_theta"],
            norm_epsilon=reals["rms_norm_eps"],
            tied=tied,
            qkv_bias=kind == "qwen2",
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _refuse_windows(given: Mapping[str, Any], where: str) -> None:
    """Qwen2 names a window that it uses only where ``use_sliding_window`` says so."""
    if given["model_type"] == "llama" and given.get("sliding_window"):
        refuse(where, "sliding_window", given["sliding_window"], "None")
    layers = set(given.get("layer_types") or ())
    if layers - {"full_attention"}:
        refuse(where, "layer_types", sorted(layers), "full_attention")


def _rope_theta(given: Mapping[str, Any], where: str) -> Any:
    """The base of the wavelengths, which newer files keep with the kind of rotation."""
    rope = given.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        refuse(where, "rope_parameters", rope, "an object with entries")
    if rope.get("rope_type", "default") != "default":
        refuse(where, "rope_parameters.rope_type", rope["rope_type"], "default")
    if rope.get("partial_rotary_factor", 1) != 1:
        refuse(where, "rope_parameters.partial_rotary_factor", rope["partial_rotary_factor"], "1")
    known = {"rope_type", "rope_theta", "partial_rotary_factor"}
    refuse_unknown(f"{where}, rope_parameters", rope, known)
    return rope.get("rope_theta") or given.get("rope_theta") or 10_000.0


def open_checkpoint(folder: Path) -> Checkpoint:
    """The tensors of a folder, in one file or in several.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the configuration or a tensor is of a kind that is not supported.
    """
    config = config_from(read_json(folder / "config.json"), str(folder / "config.json"))
    safetensors = require("safetensors")
    require("ml_dtypes")  # NumPy learns bfloat16 from it
    opened, shapes = {}, {}
    for path in _files(folder):
        try:
            file = safetensors.safe_open(path, framework="numpy")
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            stored = file.get_slice(name)
            if stored.get_dtype() not in _FLOATS:
                refuse(str(path), f"the type of {name}", stored.get_dtype(), ", ".join(_FLOATS))
            opened[name], shapes[name] = file, tuple(stored.get_shape())

    def read(name: str) -> np.ndarray:
        return opened[name].get_tensor(name)

    return Checkpoint(folder, config, HUGGING_FACE, shapes, read)


def _files(folder: Path) -> list[Path]:
    """The one file of a model, or the files that its index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index.exists():
        raise FileNotFoundError(
            f"{folder} has neither {single.name} nor {index.name}. A model in another format can "
            "be saved as safetensors with transformers: model.save_pretrained(folder)."
        )
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict):
        raise ValueError(f"{index} has no weight_map, which names the file of each tensor")
    names = sorted(set(listed.values()))
    if missing := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(f"{index} names files that are missing: {', '.join(missing)}")
    return [folder / name for name in names]


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, with the chat template of ``tokenizer_config.json``.

    Raises:
        FileNotFoundError: ``tokenizer.json`` is missing.
        ValueError: the files disagree.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing. transformers writes it: "
            "AutoTokenizer.from_pretrained(name).save_pretrained(folder)."
        )
    tokenizers = require("tokenizers")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises no narrower one
        raise ValueError(f"{path} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    settings_path = folder / "tokenizer_config.json"
    settings = read_json(settings_path) if settings_path.exists() else {}
    for index, token in settings.get("added_tokens_decoder", {}).items():
        if backend.token_to_id(token["content"]) != int(index):
            raise ValueError(
                f"{settings_path} gives {token['content']!r} the number {index}, and {path} gives "
                f"it {backend.token_to_id(token['content'])}"
            )
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    special = {name: _content(settings[name]) for name in names if settings.get(name)}
    return Tokenizer(backend, template=_template(folder, settings), special=special)


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template, which newer folders keep in a file of its own."""
    if (file := folder / "chat_template.jinja").exists():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found
