"""Losses that draw random numbers, or write to arrays: moments are those of vmap of grad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_factored import check, draw, models_broadcast  # noqa: F401

import snrgate
from snrgate.moments.factored import cut

ROWS, COLUMNS, EXAMPLES = 4, 5, 6
IMPLEMENTATIONS = ("threefry2x32", "rbg", "unsafe_rbg")
DRAWS = {
    "bits": lambda key: (jax.random.bits(key, (ROWS, COLUMNS), jnp.uint8) & 1).astype(float),
    "folded": lambda key: jax.random.normal(jax.random.fold_in(key, 3), (ROWS, COLUMNS)),
    "split": lambda key: jax.random.uniform(jax.random.split(key)[1], (ROWS, COLUMNS)),
    "in a loop": lambda key: jax.lax.scan(
        lambda k, _: (jax.random.split(k)[0], jax.random.normal(k, (COLUMNS,))),
        *(key, None, ROWS),
    )[1],
    "in a branch": lambda key: jax.lax.cond(
        jax.random.bernoulli(key),
        lambda k: jax.random.normal(k, (ROWS, COLUMNS)),
        lambda k: jnp.ones((ROWS, COLUMNS)),
        key,
    ),
}


@pytest.fixture
def turns(monkeypatch):
    """Small models take the ways of large ones: their last equations run two examples at a time."""
    monkeypatch.setattr(cut, "SMALL", 0)
    monkeypatch.setattr("snrgate.moments.factored.plan.AT_ONCE", 2 * ROWS * COLUMNS)


@pytest.mark.usefixtures("turns")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_random_numbers_are_drawn_once(implementation):
    """A parameter for every way to draw, in one loss: one compilation an implementation."""

    def loss(params, example):
        x, y, key = example
        keys = (
            jax.random.split(key, len(DRAWS))
            if implementation != "unsafe_rbg"
            else [key] * len(DRAWS)
        )
        dropped = zip(params, DRAWS.values(), keys, strict=True)
        return sum(jnp.vdot(y, x @ (w * way(k).astype(w.dtype))) for w, way, k in dropped)

    keys = jax.random.split(jax.random.key(0, impl=implementation), EXAMPLES)
    x, y = (jnp.asarray(draw(i, (EXAMPLES, n)), jnp.float32) for i, n in ((1, ROWS), (2, COLUMNS)))
    params = [jnp.asarray(draw(i, (ROWS, COLUMNS)), jnp.float32) for i in range(len(DRAWS))]

    @jax.jit
    def every_way(params, batch):
        return (
            jax.grad(lambda p: jnp.mean(jax.vmap(loss, (None, 0))(p, batch)))(params),
            *(
                snrgate.value_and_moments(loss, method=method, block="parameter")(params, batch)[1]
                for method in ("vmap", "factored")
            ),
        )

    plain, by_vmap, factored = every_way(params, (x, y, keys))
    for name, p, v, f, v2, f2 in zip(
        *(DRAWS, plain, by_vmap.mean, factored.mean, by_vmap.sum_sq_diff, factored.sum_sq_diff),
        strict=True,
    ):
        np.testing.assert_allclose(f, p, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(f, v, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(f2, v2, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.usefixtures("turns")
def test_a_callback_with_effects_is_called_once_an_example():
    calls = []

    def noise(seed):
        calls.append(1)
        return np.full((ROWS, COLUMNS), seed, np.float32)

    def loss(w, example):
        x, y, seed = example
        shape = jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32)
        drawn = jax.experimental.io_callback(noise, shape, seed)
        return jnp.vdot(y, x @ (w * drawn))

    batch = *(draw(i, (EXAMPLES, n)) for i, n in ((1, ROWS), (2, COLUMNS))), np.arange(6.0)
    batch = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), batch)
    _, moments = snrgate.value_and_moments(loss, block="parameter")(
        jnp.ones((ROWS, COLUMNS)), batch
    )
    jax.block_until_ready(moments)
    assert len(calls) == EXAMPLES
    x, y, seeds = map(np.asarray, batch)
    grads = x[:, :, None] * y[:, None, :] * seeds[:, None, None]
    np.testing.assert_allclose(moments.mean, grads.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments.sum_sq_diff, EXAMPLES * grads.var(0), rtol=1e-4, atol=1e-6)


# ---- mutable arrays --------------------------------------------------------------------------


def written(params, x):
    ref = jax.new_ref(jnp.zeros(3, x.dtype))
    ref[...] = x @ params["w"] + params["b"]
    return jnp.sum(ref[...] ** 2)


def written_twice(params, x):
    """First by what all examples share, then by one's own."""
    ref = jax.new_ref(params["b"])
    before = ref[...] * 2
    ref[1] += jnp.tanh(x @ params["w"])[1]
    return jnp.sum(jnp.sin(ref[...]) * before)


def written_in_a_loop(params, x):
    """A step reads what the step before wrote."""
    ref = jax.new_ref(jnp.ones(3, x.dtype))

    def step(i, total):
        total = total + jnp.sum(ref[...] ** 2)
        ref[...] = jnp.tanh(x @ params["w"]) * ref[...] + params["b"]
        return total

    return jax.lax.fori_loop(0, 3, step, 0.0 * x[0])


MUTABLE = [written, written_twice, written_in_a_loop]


@pytest.mark.parametrize("block", ["parameter", "unit"])
@pytest.mark.parametrize("loss", MUTABLE, ids=lambda f: f.__name__)
def test_mutable_arrays_inside_a_loss(loss, block):
    params, batch = draw(0, {"w": (4, 3), "b": (3,)}), draw(1, (EXAMPLES, 4))
    check(loss, params, batch, block)
    table = snrgate.explain_moments(loss, params, batch[0], block=block)
    assert len(table.splitlines()) == 3


@pytest.mark.usefixtures("turns")
@pytest.mark.parametrize("loss", MUTABLE, ids=lambda f: f.__name__)
def test_mutable_arrays_where_examples_are_taken_in_turns(loss):
    scaled = functools.partial(_masked, loss)
    check(scaled, draw(0, {"w": (4, 3), "b": (3,)}), draw(1, (EXAMPLES, 4)))


def _masked(loss, params, x):
    """A gradient that no rule understands."""
    return loss({**params, "w": params["w"] * jnp.outer(x, jnp.ones(3, x.dtype))}, x)
