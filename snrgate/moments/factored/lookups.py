"""Moments of a table of rows, looked up and perhaps used as a matrix too."""

import jax.numpy as jnp

from snrgate.annotations import Array, Float, Int
from snrgate.moments.factored.rules import Axes, Counts, pool_both, wide

__all__ = ["lookup", "summed_by_row", "to_rows"]


def summed_by_row(
    rows: Int[Array, "b t"], updates: Float[Array, "b t n"], size: int
) -> Float[Array, "b t n"]:
    """At a row's first token the sum of all its tokens of the example, at the others zero.

    Args:
        rows: numbers of the rows; ``size`` stands for none.
        updates: what each token adds to its row.
        size: the number of all rows.
    """
    examples, tokens = rows.shape
    updates = jnp.where(rows[:, :, None] < size, wide(updates), 0)
    if tokens == 1:
        return updates
    first = jnp.argmax(rows[:, :, None] == rows[:, None, :], axis=2)
    place = first + tokens * jnp.arange(examples)[:, None]
    flat = updates.reshape(-1, updates.shape[-1])
    return jnp.zeros_like(flat).at[place.reshape(-1)].add(flat).reshape(updates.shape)


def to_rows(
    rows: Int[Array, "b t"], values: Float[Array, "b t k"], size: int
) -> Float[Array, "v k"]:
    """The values of all examples, added to the rows of a table."""
    values = values.reshape(-1, values.shape[-1])
    zeros = jnp.zeros((size, values.shape[-1]), values.dtype)
    return zeros.at[rows.reshape(-1)].add(values, mode="drop")


def lookup(
    rows: Int[Array, "b t"],
    sums: Float[Array, "b t n"],
    counts: Counts,
    left: Axes,
    right: Axes,
    product: tuple[Float[Array, "b r v"], Float[Array, "b r n"], Float[Array, "v n"]] | None,
) -> tuple[Float[Array, "v n"], Float[Array, "k l"]]:
    """Rows of a table, looked up: tokens that share a row are added before they are squared.

    Args:
        rows: numbers of the rows; the number of all rows stands for none.
        sums: what each example adds to its rows, as :func:`summed_by_row` has it.
        counts: how often each example counts.
        left: the axes that number the rows.
        right: the axes of the columns.
        product: the factors and the mean of a product in the same gradient, as of an output
            layer tied to the embedding.

    Returns:
        The mean of the looked-up part, and what it adds to the pooled sum of squared
        differences,
        its covariance with the product included.
    """
    mean = counts.mean(to_rows(rows, counts.weighted(sums), left.size))
    squares, of_means = jnp.square(sums), jnp.square(mean)
    if product is not None:
        x, d, mean_of_product = product
        used = jnp.take_along_axis(x, rows[:, None, :], axis=2, mode="clip")
        squares = squares + 2 * sums * jnp.einsum("brt,brn->btn", wide(used), wide(d))
        of_means = of_means + 2 * mean * mean_of_product
    squares = right.reduce(squares)
    if left.kept == 1:  # which row it was does not matter
        pooled = jnp.sum(counts.weighted(squares), axis=(0, 1))[None]
    else:
        by_rows = to_rows(rows, counts.weighted(squares), left.size)
        pooled = left.reduce(by_rows.T).T
    return mean, pooled - pool_both(of_means, left, right) * jnp.asarray(counts.total, mean.dtype)
