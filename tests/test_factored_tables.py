"""Rows, slices and single numbers that an example looks up are rows of a table, not gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_factored import BATCH, check, draw, models_broadcast  # noqa: F401

import snrgate

ROWS, COLUMNS = 7, 4


def squares(x):
    return jnp.sum(jnp.tanh(x) ** 2)


def of_scalar(p, e):
    return squares(p["t"][e[0]])


def of_two(p, e):
    return jnp.dot(p["t"][e[0]], p["t"][e[1]]) + p["b"][e[0]] * p["b"][e[2]]


def under_vmap(p, e):
    return squares(jax.vmap(lambda i: p["t"][i])(e) @ p["w"])


def tied(p, e):
    x = jax.vmap(lambda i: p["t"][i])(e) @ p["w"]
    return jnp.sum(jax.nn.logsumexp(jnp.tanh(x) @ p["t"].T, axis=-1))


def one_number(p, e):
    return jnp.sin(p["t"][e[0], e[1] % COLUMNS]) * p["t"][e[2], 1]


def column(p, e):
    return squares(p["t"][:, e[0] % COLUMNS])


def neighbours(p, e):
    return squares(jax.lax.dynamic_slice_in_dim(p["t"], e[0], 3))


def of_every_head(p, e):
    return squares(jax.vmap(lambda table, i: table[i])(p["heads"], e))


def dropped(p, e):
    return squares(p["t"].at[e - 2, 0].get(mode="fill", fill_value=0))


def transposed(p, e):
    return squares(p["t"].T[:, e[0]]) + squares(jnp.take(p["t"].T, e, axis=1))


def in_a_loop(p, e):
    return jax.lax.scan(lambda c, i: (jnp.tanh(c + p["t"][i]), None), jnp.ones(COLUMNS), e)[0][0]


def of_cubes(p, e):
    return squares(p["heads"][e[0] % 3, :, 1]) + squares(p["heads"][e[1] % 3, :, 2])


LOSSES = [
    *(of_scalar, of_two, under_vmap, tied, one_number, column, neighbours, of_every_head),
    *(dropped, transposed, in_a_loop, of_cubes),
]


@pytest.mark.parametrize("block", ["parameter", "unit", lambda path, shape: (len(shape) - 1,)])
def test_whatever_is_looked_up_is_a_row_of_a_table(block):
    shapes = {"t": (ROWS, COLUMNS), "b": (ROWS,), "w": (COLUMNS, COLUMNS), "heads": (3, ROWS, 5)}
    # One program, in which every loss has parameters of its own.
    params = draw(7, {loss.__name__: shapes for loss in LOSSES})

    def loss(params, example):
        return sum(loss(params[loss.__name__], example) for loss in LOSSES)

    ids = np.random.default_rng(8).integers(-1, ROWS + 1, (BATCH, 3))
    check(loss, params, ids, block, weights=np.array([1.0, 1, 0, 2, 1, 1]))
    table = snrgate.explain_moments(loss, params, ids[0], block=block)
    assert "whole" not in table, table


def compiled(grad_fn, *args):
    done = jax.jit(grad_fn).lower(*args).compile()
    return done.cost_analysis()["flops"], done.memory_analysis().temp_size_in_bytes


def test_a_large_table_costs_a_few_gradients():
    def loss(params, example):
        return sum(loss(params, example) for loss in (of_scalar, of_two, under_vmap))

    params = draw(7, {"t": (20_000, 32), "b": (20_000,), "w": (32, 32)})
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    ids = jnp.asarray(np.random.default_rng(8).integers(0, 20_000, (64, 3)))
    flops, memory = compiled(snrgate.value_and_moments(loss, block="unit"), params, ids)
    one = 4 * 20_000 * 33
    assert memory < 4 * one  # not one table an example
    assert flops < 8 * one
