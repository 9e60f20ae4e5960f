"""A decoder of the Llama and Qwen2 family: rotary positions, grouped queries, gated MLPs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from snrgate.annotations import Array, Bool, Float, Int
from snrgate.models.causal_lm.config import Config

__all__ = ["CausalLM", "Layout"]


def rotate(
    x: Float[Array, "*b t h k"], theta: float, positions: Int[Array, "*b t"] | None = None
) -> Float[Array, "*b t h k"]:
    """Turn each pair of a head's numbers by an angle that grows with the position.

    The pair ``(x[i], x[i + k/2])`` at position ``t`` is turned by ``t * theta**(-2i/k)``
    (RoFormer, arXiv 2104.09864, with the pairs as in the files of Hugging Face). The angles are
    in float32.
    """
    *_, length, _, size = x.shape
    frequency = theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    positions = jnp.arange(length) if positions is None else positions
    angle = jnp.einsum("...t,k->...tk", positions.astype(jnp.float32), frequency)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = (jnp.broadcast_to(f(angle), first.shape) for f in (jnp.cos, jnp.sin))
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class Layout(NamedTuple):
    """Where the tokens of a sequence stand, which of them see which, and what is asked for.

    Attributes:
        positions: of the tokens, ``(*b, t)``; ``None`` counts them from 0.
        mask: whether the token of a row sees that of a column, ``(*b, t, t)``; ``None`` is causal.
        at: indices of the tokens whose hidden states are wanted, ``(*b, q)``; ``None`` is all.
            It needs positions and a mask.
    """

    positions: Int[Array, "*b t"] | None = None
    mask: Bool[Array, "*b t t"] | None = None
    at: Int[Array, "*b q"] | None = None


_ONE_TEXT = Layout()


def _rows(x: Array, at: Int[Array, "*b q"] | None) -> Array:
    return x if at is None else jnp.take_along_axis(x, at[..., None], axis=-2)


class _Attention(nnx.Module):
    def __init__(self, config: Config, dtype: DTypeLike, *, rngs: nnx.Rngs):
        def linear(m, n, bias):
            return nnx.Linear(m, n, use_bias=bias, param_dtype=dtype, rngs=rngs)

        self.head_width, self.theta = config.head_width, config.rope_theta
        queries, keys = (n * config.head_width for n in (config.heads, config.kv_heads))
        self.q = linear(config.width, queries, config.qkv_bias)
        self.k = linear(config.width, keys, config.qkv_bias)
        self.v = linear(config.width, keys, config.qkv_bias)
        self.o = linear(queries, config.width, False)

    def __call__(self, x: Float[Array, "*b t d"], layout: Layout) -> Float[Array, "*b q d"]:
        positions, mask, at = layout
        queries = _rows(x, at)
        q, k, v = (
            y.reshape(*y.shape[:-1], -1, self.head_width)
            for y in (self.q(queries), self.k(x), self.v(x))
        )
        if at is None or positions is None:
            at_queries = positions
        else:
            at_queries = jnp.take_along_axis(positions, at, -1)
        q, k = rotate(q, self.theta, at_queries), rotate(k, self.theta, positions)
        q, k, v = (y.reshape(-1, *y.shape[-3:]) for y in (q, k, v))  # one axis of sequences
        if mask is None:
            mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = _rows(mask, at)
            seen = seen.reshape(-1, 1, *seen.shape[-2:])
            mixed = jax.nn.dot_product_attention(q, k, v, mask=seen)
        return self.o(mixed.reshape(*queries.shape[:-1], -1))


class _MLP(nnx.Module):
    def __init__(self, config: Config, dtype: DTypeLike, *, rngs: nnx.Rngs):
        def linear(m, n):
            return nnx.Linear(m, n, use_bias=False, param_dtype=dtype, rngs=rngs)

        self.gate = linear(config.width, config.mlp_width)
        self.up = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        return self.down(nnx.silu(self.gate(x)) * self.up(x))


class _Block(nnx.Module):
    def __init__(self, config: Config, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, dtype, rngs)
        self.attention = _Attention(config, dtype, rngs=rngs)
        self.mlp_norm = _norm(config, dtype, rngs)
        self.mlp = _MLP(config, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b t d"], layout: Layout) -> Float[Array, "*b q d"]:
        x = _rows(x, layout.at) + self.attention(self.attention_norm(x), layout)
        return x + self.mlp(self.mlp_norm(x))


def _norm(config: Config, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(config.width, epsilon=config.norm_epsilon, param_dtype=dtype, rngs=rngs)


class CausalLM(nnx.Module):
    """Logits of the next token at every position, as Llama, SmolLM2, Qwen2 and Qwen2.5 have them.

    A block adds attention over the earlier positions, and then an MLP, to the hidden state:
    ``x += o(attend(rotate(q), rotate(k), v))``, ``x += down(silu(gate) * up)``, each of the
    normalised ``x``. Attention is causal, so padding on the right changes nothing before it.

    The parts of the call can be used alone. The hidden states below the first trained block are
    the same at every step, and so they need to be computed only once.

    Args:
        config: the sizes.
        dtype: type of the parameters, in which the model computes. Norms, angles and attention
            weights are computed in float32.
        rngs: the stream ``params`` draws the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from snrgate.models.causal_lm import CausalLM, Config
        >>> config = Config(11, width=8, depth=2, heads=2, kv_heads=1, head_width=4, mlp_width=16)
        >>> model = CausalLM(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.zeros((3, 5), jnp.int32)
        >>> model(tokens).shape  # or of one sequence, without a batch
        (3, 5, 11)
        >>> lower = model.run(model.embed(tokens), last=1)
        >>> model.logits(model.run(lower, first=1)[:, -2:]).shape
        (3, 2, 11)
    """

    def __init__(self, config: Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(0.02)
        self.tokens = nnx.Embed(
            config.vocabulary, config.width, embedding_init=init, param_dtype=dtype, rngs=rngs
        )
        self.blocks = nnx.List([_Block(config, dtype, rngs=rngs) for _ in range(config.depth)])
        self.norm = _norm(config, dtype, rngs)
        self.head = (
            None
            if config.tied
            else nnx.Linear(
                config.width, config.vocabulary, use_bias=False, param_dtype=dtype, rngs=rngs
            )
        )

    def embed(self, tokens: Int[Array, "*b t"]) -> Float[Array, "*b t d"]:
        """The hidden states before the first block."""
        return self.tokens(tokens)

    def run(
        self,
        hidden: Float[Array, "*b t d"],
        first: int = 0,
        last: int | None = None,
        layout: Layout = _ONE_TEXT,
    ) -> Float[Array, "*b q d"]:
        """The hidden states after the blocks ``first`` to ``last - 1``, counted from 0.

        Args:
            hidden: the hidden states before the block ``first``, from position 0 on.
            first: the first block.
            last: the block to stop before. ``None`` means: after all.
            layout: positions and mask, for several texts in one sequence, and the tokens that are
                wanted; by default one text, and all of them. Only these tokens go through the last
                of the blocks as more than keys and values.
        """
        blocks = self.blocks[first:last]
        for i, block in enumerate(blocks):
            at = layout.at if i == len(blocks) - 1 else None
            hidden = block(hidden, layout._replace(at=at))
        return hidden

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """The logits from the hidden states after the last block, of any positions."""
        hidden = self.norm(hidden)
        return self.tokens.attend(hidden) if self.head is None else self.head(hidden)

    def __call__(self, tokens: Int[Array, "*b t"]) -> Float[Array, "*b t v"]:
        """The logits.

        Args:
            tokens: indices below ``config.vocabulary``.
        """
        return self.logits(self.run(self.embed(tokens)))
