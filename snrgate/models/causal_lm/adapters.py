"""Low-rank adapters of a language model, and their files in the layout of PEFT."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from snrgate.models.causal_lm.config import check_positive, check_sizes, refuse, refuse_unknown
from snrgate.models.causal_lm.decoder import CausalLM
from snrgate.models.causal_lm.extra import require
from snrgate.models.causal_lm.huggingface import read_json
from snrgate.models.causal_lm.weights import HUGGING_FACE

__all__ = ["add_lora", "load_adapters", "save_adapters"]

_GROUPS = dict.fromkeys("qkvo", "attention") | dict.fromkeys(("gate", "up", "down"), "mlp")
_PREFIX = "base_model.model."
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_SUPPORTED = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
    "layers_pattern": (None, "layers", ["layers"]),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
"""Entries of PEFT that are never empty, and the values with which the model is what it was."""
_KNOWN = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "layers_to_transform"),
    *("task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"),
    *("lora_dropout", "peft_version", "exclude_modules", "runtime_config", "eva_config"),
    *_SUPPORTED,
}
"""Entries that are read, follow from the tensors, or matter only before or during a training."""


def add_lora(
    model: CausalLM,
    rank: int,
    *,
    targets: Sequence[str] = ("q", "v"),
    first_layer: int = 0,
    rngs: nnx.Rngs,
) -> None:
    """Put low-rank adapters around linear layers of a model, in place.

    The layer ``x @ w`` becomes ``x @ w + x @ a @ b``. ``b`` begins at zero, so the model computes
    what it did, and ``a`` is uniform within ``±1 / sqrt(inputs)``, as in PEFT with
    ``lora_alpha = r``. The adapters are of the type ``nnx.LoRA`` and their parameters of the type
    ``nnx.LoRAParam``.

    Args:
        model: the model.
        rank: columns of ``a`` and rows of ``b``.
        targets: which linear layers: of ``q``, ``k``, ``v``, ``o``, ``gate``, ``up``, ``down``.
        first_layer: the first block that gets adapters, counted from 0.
        rngs: the stream ``params`` draws ``a``.

    Raises:
        ValueError: a target is not known, the blocks end before ``first_layer``, the rank is not
            positive, or a layer has an adapter already.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from snrgate.models.causal_lm import CausalLM, Config, add_lora
        >>> config = Config(11, width=8, depth=2, heads=2, kv_heads=1, head_width=4, mlp_width=16)
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> add_lora(model, 2, first_layer=1, rngs=nnx.Rngs(1))
        >>> graph, trained, frozen = nnx.split(model, nnx.LoRAParam, ...)
        >>> [value.shape for value in jax.tree.leaves(trained)]
        [(8, 2), (2, 8), (8, 2), (2, 4)]

    Source: Hu et al., "LoRA", arXiv 2106.09685.
    """
    if unknown := [target for target in targets if target not in _GROUPS]:
        raise ValueError(f"targets = {unknown} are not among {', '.join(_GROUPS)}")
    if not 0 <= first_layer < len(model.blocks):
        raise ValueError(f"first_layer = {first_layer} is not one of {len(model.blocks)} blocks")
    if rank < 1:
        raise ValueError(f"rank = {rank} must be at least 1")
    for layer in range(first_layer, len(model.blocks)):
        for target in targets:
            _attach(model, layer, target, rank, rngs)


def _attach(model: CausalLM, layer: int, target: str, rank: int, rngs: nnx.Rngs) -> nnx.LoRA:
    """Put one adapter around a linear layer of a block."""
    group = getattr(model.blocks[layer], _GROUPS[target])
    linear = getattr(group, target)
    if isinstance(linear, nnx.LoRA):
        raise ValueError(f"The layer {target} of block {layer} has an adapter already")
    adapter = nnx.LoRA(
        linear.in_features,
        rank,
        linear.out_features,
        base_module=linear,
        dtype=linear.kernel.dtype,
        a_initializer=nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        rngs=rngs,
    )
    setattr(group, target, adapter)
    return adapter


def _adapters(model: CausalLM) -> Iterator[tuple[int, str, nnx.LoRA]]:
    for layer, block in enumerate(model.blocks):
        for target, group in _GROUPS.items():
            module = getattr(getattr(block, group), target)
            if isinstance(module, nnx.LoRA):
                yield layer, target, module


def _name(layer: int, target: str) -> str:
    group = HUGGING_FACE.get(_GROUPS[target], _GROUPS[target])
    return f"{_PREFIX}model.layers.{layer}.{group}.{HUGGING_FACE[target]}"


def save_adapters(folder: str | os.PathLike, model: CausalLM, base_model: str = "") -> None:
    """Write the adapters of a model as PEFT does, so that PEFT and others can load them.

    Args:
        folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` are written. It is
            made where it is missing.
        model: a model with adapters.
        base_model: name or folder of the model that they belong to, for ``PeftModel``.

    Raises:
        ValueError: the model has no adapters, or they cannot be described by one rank.
    """
    found = list(_adapters(model))
    if not found:
        raise ValueError("The model has no adapters: use add_lora first")
    ranks = {adapter.lora_a.shape[1] for _, _, adapter in found}
    if len(ranks) > 1:
        raise ValueError(f"The adapters have several ranks: {sorted(ranks)}")
    tensors = {}
    for layer, target, adapter in found:
        for leaf, value in (("lora_A", adapter.lora_a), ("lora_B", adapter.lora_b)):
            matrix = np.asarray(value[...], np.float32).T
            tensors[f"{_name(layer, target)}.{leaf}.weight"] = np.ascontiguousarray(matrix)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (rank,) = ranks
    config = _peft_config(rank, [(layer, target) for layer, target, _ in found], base_model)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    require("safetensors.numpy").save_file(tensors, folder / _TENSORS, metadata={"format": "pt"})


def _peft_config(rank: int, places: list[tuple[int, str]], base_model: str) -> dict[str, Any]:
    layers, targets = (sorted(set(part)) for part in zip(*places, strict=True))
    everywhere = len(places) == len(layers) * len(targets)
    modules = [HUGGING_FACE[target] for target in targets]
    if not everywhere:
        modules = [_name(layer, target).removeprefix(_PREFIX) for layer, target in places]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": sorted(modules),
        "layers_to_transform": layers if everywhere else None,
        "inference_mode": True,
    }


def load_adapters(folder: str | os.PathLike, model: CausalLM) -> None:
    """Put the adapters of a folder of PEFT around the layers of a model, in place.

    PEFT multiplies the product by ``lora_alpha / r``, or by ``lora_alpha / sqrt(r)`` with
    ``use_rslora``. Here ``b`` is multiplied by it once.

    Args:
        folder: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        model: the model that they belong to, without adapters.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the adapters are of another kind, or a tensor does not fit the model.
    """
    if any(_adapters(model)):
        raise ValueError("The model has adapters already. Load these into one without.")
    folder = Path(folder)
    config = read_json(folder / _CONFIG)
    where = str(folder / _CONFIG)
    if config.get("peft_type") != "LORA":
        refuse(where, "peft_type", config.get("peft_type"), "LORA")
    for name, allowed in _SUPPORTED.items():
        if name in config and config[name] not in allowed:
            refuse(where, name, config[name], " or ".join(map(repr, allowed)))
    refuse_unknown(where, config, _KNOWN)
    if missing := [name for name in ("r", "lora_alpha") if name not in config]:
        raise ValueError(f"{where}: these entries are missing: {', '.join(missing)}")
    rank, alpha = config["r"], config["lora_alpha"]
    try:
        check_sizes({"r": rank})
        check_positive({"lora_alpha": alpha})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    if not (folder / _TENSORS).exists():
        raise FileNotFoundError(f"{folder / _TENSORS} is missing")
    safetensors, numpy = require("safetensors"), require("safetensors.numpy")
    try:
        tensors = numpy.load_file(folder / _TENSORS)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder / _TENSORS} cannot be read: {error}") from error
    places = _places(model, tensors, rank, folder / _TENSORS)
    for layer, target in places:
        adapter = _attach(model, layer, target, rank, nnx.Rngs(params=0))
        name = _name(layer, target)
        for leaf, variable, factor in (("A", adapter.lora_a, 1.0), ("B", adapter.lora_b, scale)):
            matrix = np.asarray(tensors[f"{name}.lora_{leaf}.weight"], np.float32)
            variable[...] = jnp.asarray(factor * matrix.T)


def _places(
    model: CausalLM, tensors: dict[str, np.ndarray], rank: int, path: Path
) -> list[tuple[int, str]]:
    """The layers and targets that the tensors belong to, all of them checked."""
    places, left = [], dict(tensors)
    for layer, block in enumerate(model.blocks):
        for target, group in _GROUPS.items():
            linear = getattr(getattr(block, group), target)
            name = _name(layer, target)
            wanted = {
                f"{name}.lora_A.weight": (rank, linear.in_features),
                f"{name}.lora_B.weight": (linear.out_features, rank),
            }
            found = {n: left.pop(n).shape for n in wanted if n in left}
            if found and found != wanted:
                raise ValueError(f"{path}: {name} has {found}, where the model needs {wanted}")
            places += [(layer, target)] * bool(found)
    if left:
        raise ValueError(
            f"{path}: these tensors belong to no layer of the model: {sorted(left)[:5]}"
        )
    if not places:
        raise ValueError(f"{path} has no adapters")
    return places
