"""The sizes of a causal language model, and the configurations that are refused."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

__all__ = ["Config", "check_positive", "check_sizes", "refuse", "refuse_unknown"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a decoder of the Llama or Qwen2 family.

    Args:
        vocabulary: number of rows of the embedding. A tokenizer may have fewer tokens.
        width: size of the hidden state of one position.
        depth: number of blocks.
        heads: number of attention heads of the queries.
        kv_heads: number of attention heads of the keys and values, which divides ``heads``.
        head_width: size of one attention head, an even number.
        mlp_width: number of units of each MLP.
        rope_theta: base of the wavelengths of the rotary embedding.
        norm_epsilon: what is added to the mean square before its root is taken.
        tied: whether the output layer is the embedding, transposed.
        qkv_bias: whether queries, keys and values have a bias, as in Qwen2.

    Raises:
        ValueError: a size is no whole number of at least 1; another number is not positive;
            ``kv_heads`` does not divide ``heads``, or ``head_width`` is odd.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    tied: bool = False
    qkv_bias: bool = False

    def __post_init__(self):
        given = dataclasses.asdict(self)
        others = ("rope_theta", "norm_epsilon", "tied", "qkv_bias")
        check_sizes({name: size for name, size in given.items() if name not in others})
        check_positive({name: given[name] for name in others[:2]})
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads} must divide heads = {self.heads}")
        if self.head_width % 2:
            raise ValueError(f"head_width = {self.head_width} must be even, for the rotations")


def check_sizes(sizes: Mapping[str, Any]) -> None:
    """Refuse sizes that are none.

    Raises:
        ValueError: a size is no whole number of at least 1.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} = {size!r} must be a whole number of at least 1")


def check_positive(numbers: Mapping[str, Any]) -> None:
    """Refuse what is no positive number.

    Raises:
        ValueError: a number is not positive and finite, or a value no number.
    """
    for name, value in numbers.items():
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not (real and 0 < value < math.inf):
            raise ValueError(f"{name} = {value!r} must be a positive number")


def refuse(where: str, name: str, value: Any, supported: str) -> NoReturn:
    """Refuse a configuration that would compute something else than the model does.

    Raises:
        ValueError: always. It names the entry, its value and what is supported.
    """
    raise ValueError(f"{where}: {name} = {value!r} is not supported. Supported is {supported}.")


def refuse_unknown(where: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse entries of a configuration that may change what the model computes.

    An entry that is empty, ``None``, ``False`` or zero switches nothing on.

    Raises:
        ValueError: an entry that does something is not among the ``known`` ones.
    """
    unknown = sorted(name for name, value in given.items() if name not in known and value)
    if unknown:
        raise ValueError(
            f"{where}: what these entries mean is not known here: {', '.join(unknown)}. "
            "Remove those that do not change what the model computes."
        )
