"""What learning preferences costs: numbers of operations and of bytes, before anything is done."""

from typing import NamedTuple

from snrgate.models.causal_lm import Config

__all__ = ["Size", "bytes_needed", "operations"]

_NUMBER = 4  # bytes of a float32
_FORWARD_AND_BACK = 3  # times the operations of a forward pass, with the moments
_KEPT = 3  # copies of what a pass computes that are alive at once, at the most


class Size(NamedTuple):
    """The sizes on which the cost of a run depends.

    Attributes:
        pairs: number of pairs, those that are measured on too.
        tokens: of a prompt with both its replies, the most of all pairs.
        queries: number of tokens of replies that are predicted in a pair.
        layers: number of trained blocks.
        batch_size: number of pairs in a step.
    """

    pairs: int
    tokens: int
    queries: int
    layers: int
    batch_size: int


def operations(config: Config, size: Size) -> tuple[int, int]:
    """Floating-point operations of caching one pair, and of one step of training.

    What is cached are the states below the trained blocks, and the log-probabilities of the
    reference, for which a pair goes through the trained blocks too.

    Args:
        config: of the model.
        size: of the run.

    Example:
        >>> from snrgate.lab.tasks.preference_cost import Size, operations
        >>> from snrgate.models.causal_lm import Config
        >>> config = Config(11, width=8, depth=2, heads=2, kv_heads=1, head_width=4, mlp_width=16)
        >>> operations(config, Size(pairs=10, tokens=20, queries=4, layers=1, batch_size=2))
        (30912, 47232)
    """
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    block = 2 * config.width * (2 * queries + 2 * keys + 3 * config.mlp_width)
    below, head = (config.depth - size.layers) * block, 2 * config.width * config.vocabulary
    # The last block works out keys and values everywhere, and the rest at the replies only.
    upper = (size.layers - 1) * size.tokens * block + size.tokens * 4 * config.width * keys
    trained = upper + size.queries * (block + head)
    return size.tokens * below + trained, _FORWARD_AND_BACK * size.batch_size * trained


def bytes_needed(config: Config, size: Size) -> int:
    """Bytes of memory that a run takes at the most, on top of what Python and JAX take.

    They are the weights (twice while they are read), the cached states, and what a step holds.

    Args:
        config: of the model.
        size: of the run.
    """
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    block = config.width * (2 * queries + 2 * keys + 3 * config.mlp_width)
    heads = 1 if config.tied else 2
    weights = 2 * (config.depth * block + heads * config.vocabulary * config.width)
    states = 2 * size.pairs * size.tokens * config.width
    of_token = 6 * config.width + 3 * config.mlp_width + config.heads * size.tokens
    of_pair = size.layers * size.tokens * of_token + size.queries * config.vocabulary
    return _NUMBER * (weights + states + _KEPT * max(size.batch_size, 16) * of_pair)
