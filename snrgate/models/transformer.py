"""A decoder-only transformer with pre-norm, the network of division, language and reasoning."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from snrgate.annotations import Array, Float, Int

__all__ = ["Transformer"]


class _Attention(nnx.Module):
    """Causal self-attention over the positions of one sequence, or of many."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b t d"], *, last: bool = False
    ) -> Float[Array, "*b queries d"]:
        *batch, length, width = x.shape
        split = self.qkv(x).reshape(*batch, length, 3, self.heads, width // self.heads)
        q, k, v = (split[..., i, :, :] for i in range(3))
        q = q[..., -1:, :, :] if last else q
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=not last)
        return self.out(mixed.reshape(*batch, -1, width))


class _Block(nnx.Module):
    def __init__(
        self, width: int, heads: int, activation: Callable[[Array], Array], *, rngs: nnx.Rngs
    ):
        self.activation = activation
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = _Attention(width, heads, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b t d"], *, last: bool = False
    ) -> Float[Array, "*b queries d"]:
        mixed = self.attention(self.attention_norm(x), last=last)
        x = (x[..., -1:, :] if last else x) + mixed
        return x + self.down(self.activation(self.up(self.mlp_norm(x))))


class Transformer(nnx.Module):
    """Logits of the next token at every position.

    Args:
        vocabulary: number of tokens.
        length: largest number of positions in a sequence.
        width: size of an embedding. The MLPs have four times as many units.
        depth: number of blocks.
        heads: number of attention heads, which must divide ``width``.
        activation: nonlinearity of the MLPs.
        embedding_std: standard deviation of the initial embeddings.
        tied: whether the output layer is the embedding, transposed.
        rngs: the stream ``params`` draws the parameters.

    Raises:
        ValueError: ``heads`` does not divide ``width``.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from snrgate.models.transformer import Transformer
        >>> model = Transformer(11, 4, width=8, depth=1, heads=2, rngs=nnx.Rngs(params=0))
        >>> model(jnp.zeros((4,), jnp.int32)).shape  # one sequence, or any batch of them
        (4, 11)
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int,
        depth: int,
        heads: int,
        activation: Callable[[Array], Array] = nnx.gelu,
        embedding_std: float = 0.02,
        tied: bool = False,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ValueError(f"heads = {heads} must divide width = {width}")
        init = nnx.initializers.normal(embedding_std)
        self.tokens = nnx.Embed(vocabulary, width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(length, width, embedding_init=init, rngs=rngs)
        blocks = (_Block(width, heads, activation, rngs=rngs) for _ in range(depth))
        self.blocks = nnx.List(blocks)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = None if tied else nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "*b t"], *, last: bool = False
    ) -> Float[Array, "*b positions v"]:
        """The logits.

        Args:
            tokens: indices below ``vocabulary``; at most ``length`` positions.
            last: whether to return only the logits after the last token. With two blocks this
                takes a third less work.
        """
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[-1]))
        *early, final = self.blocks
        for block in early:
            x = block(x)
        x = final(x, last=last)
        x = self.norm(x)
        return self.tokens.attend(x) if self.head is None else self.head(x)
