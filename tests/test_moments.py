"""Moments against brute force, and the ways of computing them against one another."""

import functools
import itertools

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import snrgate
from snrgate.moments import Moments, merge
from snrgate.moments.per_example import moments_of_examples

SETTINGS = settings(max_examples=60, deadline=None)
GRADS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6),
    elements=st.floats(-100, 100),
)


def loss_fn(params, example):
    h = jnp.tanh(example["x"] @ params["kernel"] + params["bias"])
    return jnp.sum((h - example["y"]) ** 2)


def problem(seed=0, b=10, dtype=jnp.float32):
    k = jax.random.split(jax.random.key(seed), 4)
    params = {
        "kernel": jax.random.normal(k[0], (5, 3), dtype),
        "bias": jax.random.normal(k[1], (3,), dtype),
    }
    batch = {"x": jax.random.normal(k[2], (b, 5), dtype), "y": jax.random.normal(k[3], (b, 3))}
    return params, batch


def brute_force(params, batch, weights=None):
    """Mean and sum of squared differences, one example at a time, in NumPy float64."""
    b = len(batch["x"])
    rows = range(b) if weights is None else np.repeat(np.arange(b), weights)
    grads = [jax.grad(loss_fn)(params, jax.tree.map(lambda x, i=i: x[i], batch)) for i in rows]
    stacked = jax.tree.map(lambda *g: np.stack([np.asarray(x, np.float64) for x in g]), *grads)
    mean = jax.tree.map(lambda g: g.mean(0), stacked)
    return mean, jax.tree.map(lambda g: ((g - g.mean(0)) ** 2).sum(0), stacked)


def assert_moments(got, mean, ssd, rtol=1e-5):
    for name in mean:
        np.testing.assert_allclose(got.mean[name], mean[name], rtol=rtol, atol=1e-5)
        np.testing.assert_allclose(got.sum_sq_diff[name], ssd[name], rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("microbatch_size", [None, 1, 3, 5, 10, 99])
def test_moments_equal_brute_force_at_any_microbatch(microbatch_size):
    params, batch = problem()
    grad_fn = snrgate.value_and_moments(loss_fn, microbatch_size=microbatch_size, block="parameter")
    loss, got = jax.jit(grad_fn)(params, batch)
    assert_moments(got, *brute_force(params, batch))
    assert got.sample_size == 10
    losses = [loss_fn(params, jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(10)]
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_padding_may_hold_anything(microbatch_size):
    params, batch = problem()
    padded = jax.tree.map(lambda x: jnp.concatenate([x, jnp.full_like(x[:3], jnp.nan)]), batch)
    weights = jnp.array([1.0] * 10 + [0.0] * 3)
    grad_fn = snrgate.value_and_moments(loss_fn, microbatch_size=microbatch_size, block="parameter")
    loss, got = grad_fn(params, padded, weights=weights)
    expected_loss, expected = snrgate.value_and_moments(loss_fn, block="parameter")(params, batch)
    assert_moments(got, expected.mean, expected.sum_sq_diff)
    assert got.sample_size == 10
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)


@pytest.mark.parametrize("method", ["vmap", "factored"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_padding_may_hold_anything_where_a_convolution_mixes_examples(method, bad):
    """XLA on CPU computes the gradients of a batched float64 convolution through zeros."""
    rng = np.random.default_rng(0)

    def loss(params, x):
        kernel = params["kernel"][::-1, :, ::-1]
        layout = ("NHWC", "HWIO", "NHWC")
        return jnp.sum(
            jnp.tanh(
                jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", None, None, layout)
            )
        )

    with jax.enable_x64(True):
        params = {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 2)))}
        x = rng.normal(size=(6, 4, 4, 2))
        weights = np.ones(6)
        x[2], weights[2] = bad, 0
        grad_fn = jax.jit(snrgate.value_and_moments(loss, method=method, block="parameter"))
        got = grad_fn(params, jnp.asarray(x), weights=weights)
        expected = grad_fn(params, jnp.delete(jnp.asarray(x), 2, axis=0))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_what_is_said_of_padding_is_what_was_given_where_it_is_finite():
    grad_fn = snrgate.value_and_moments(lambda p, x: (jnp.sum(p * x), x), has_aux=True)
    x, weights = jnp.array([[1.0, 2.0], [3.0, jnp.nan], [5.0, 6.0]]), jnp.array([1.0, 0.0, 0.0])
    (_, seen), _ = grad_fn(jnp.ones(2), x, weights=weights)
    np.testing.assert_array_equal(seen, [[1, 2], [3, 0], [5, 6]])


def test_an_auxiliary_output_may_be_empty_in_microbatches():
    grad_fn = snrgate.value_and_moments(
        lambda p, x: (p @ x, x[:0]), has_aux=True, microbatch_size=np.int64(2)
    )
    (_, seen), _ = grad_fn(jnp.ones(3), jnp.ones((5, 3)))
    assert seen.shape == (5, 0)


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_a_weight_is_a_number_of_repetitions(microbatch_size):
    params, batch = problem()
    weights = np.array([0, 1, 2, 3, 0, 1, 1, 5, 1, 2])
    grad_fn = snrgate.value_and_moments(loss_fn, microbatch_size=microbatch_size, block="parameter")
    _, got = grad_fn(params, batch, weights=jnp.asarray(weights))
    assert_moments(got, *brute_force(params, batch, weights))
    assert got.sample_size == weights.sum()


def test_a_batch_of_padding_only_has_no_moments():
    params, batch = problem()
    loss, got = snrgate.value_and_moments(loss_fn, block="parameter")(
        params, batch, weights=jnp.zeros(10)
    )
    assert loss == 0
    assert got.sample_size == 0
    assert all(not jnp.any(x) for x in jax.tree.leaves((got.mean, got.sum_sq_diff, got.noise)))


@pytest.mark.parametrize(
    ("block", "axes"),
    [
        ("unit", {"kernel": (0,), "bias": ()}),
        ("tensor", {"kernel": (0, 1), "bias": (0,)}),
        (lambda path, shape: (-1,), {"kernel": (1,), "bias": (0,)}),
    ],
)
def test_pooled_sums_are_sums_over_the_block(block, axes):
    params, batch = problem()
    _, full = snrgate.value_and_moments(loss_fn, block="parameter")(params, batch)
    _, pooled = snrgate.value_and_moments(loss_fn, block=block, microbatch_size=3)(params, batch)
    for name, over in axes.items():
        expected = np.sum(full.sum_sq_diff[name], axis=over, keepdims=True)
        assert pooled.sum_sq_diff[name].shape == expected.shape
        np.testing.assert_allclose(pooled.sum_sq_diff[name], expected, rtol=1e-5)


def test_auxiliary_output_keeps_its_example_axis_and_order():
    params, batch = problem()

    def with_aux(params, example):
        return loss_fn(params, example), {"first": example["x"][0]}

    for microbatch_size in (None, 3):
        grad_fn = snrgate.value_and_moments(
            with_aux, has_aux=True, microbatch_size=microbatch_size, block="parameter"
        )
        (_, aux), got = grad_fn(params, batch)
        np.testing.assert_array_equal(aux["first"], batch["x"][:, 0])
        assert_moments(got, *brute_force(params, batch))


def test_random_keys_are_part_of_the_example():
    params, batch = problem()
    keys = jax.random.split(jax.random.key(7), 10)

    def dropout(params, example):
        x, key = example
        kept = jax.random.bernoulli(key, 0.5, x["x"].shape)
        return loss_fn(params, {**x, "x": jnp.where(kept, x["x"], 0)})

    expected = [
        jax.grad(dropout)(params, (jax.tree.map(lambda x, i=i: x[i], batch), keys[i]))
        for i in range(10)
    ]
    for microbatch_size in (None, 4):
        grad_fn = snrgate.value_and_moments(
            dropout, microbatch_size=microbatch_size, block="parameter"
        )
        _, got = grad_fn(params, (batch, keys))
        stacked = np.stack([g["kernel"] for g in expected])
        np.testing.assert_allclose(got.mean["kernel"], stacked.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            got.sum_sq_diff["kernel"], stacked.var(0) * 10, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_moments_of_16_bit_gradients_are_float32(dtype):
    """4,096 gradients near 1: in 16 bits their sum would stop growing long before."""
    rng = np.random.default_rng(0)
    g = jnp.asarray(1 + 0.25 * rng.normal(size=(4096, 5)), dtype)
    got = moments_of_examples(g, jnp.ones(4096))
    exact = np.asarray(g, np.float64)
    np.testing.assert_allclose(got.mean, exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.sum_sq_diff, 4096 * exact.var(0), rtol=1e-4)

    params, batch = problem(dtype=dtype)
    _, got = snrgate.value_and_moments(loss_fn, microbatch_size=3, block="parameter")(params, batch)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(got))


def test_memory_is_bounded_by_the_microbatch():
    params = {"kernel": jnp.ones((64, 64)), "bias": jnp.ones(64)}
    batch = {"x": jnp.ones((256, 64)), "y": jnp.ones((256, 64))}

    def temp_bytes(microbatch_size):
        grad_fn = snrgate.value_and_moments(
            loss_fn, method="vmap", microbatch_size=microbatch_size, block="parameter"
        )
        compiled = jax.jit(grad_fn).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temp_bytes(8) < temp_bytes(None) / 8


def test_a_large_mean_does_not_swallow_a_small_variance():
    grads = {"w": jnp.float32(1e4) + jnp.arange(8, dtype=jnp.float32)}
    got = moments_of_examples(grads, jnp.ones(8))
    assert float(got.sum_sq_diff["w"]) == pytest.approx(42.0, rel=1e-5)
    halves = [
        moments_of_examples(jax.tree.map(lambda g, s=s: g[s], grads), jnp.ones(4))
        for s in (slice(0, 4), slice(4, 8))
    ]
    assert float(merge(*halves).sum_sq_diff["w"]) == pytest.approx(42.0, rel=1e-4)


# ---- identities ----------------------------------------------------------------------------


@SETTINGS
@given(g=GRADS)
def test_leave_one_out_form_by_brute_force_over_pairs(g):
    """mu**2 > sigma2/(b-1)  <=>  sum over i != j of g_i g_j > 0  <=>  S**2 > Q."""
    b = len(g)
    pairs = sum(g[i] * g[j] for i, j in itertools.permutations(range(b), 2))
    excess = g.mean(0) ** 2 - g.var(0) / (b - 1)
    np.testing.assert_allclose(excess, pairs / (b * (b - 1)), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(pairs, g.sum(0) ** 2 - (g**2).sum(0), rtol=1e-7, atol=1e-7)


@settings(max_examples=15, deadline=None)  # every shape compiles anew
@given(g=GRADS, data=st.data())
def test_merging_any_two_groups_gives_the_whole(g, data):
    cut = data.draw(st.integers(0, len(g)))
    with jax.enable_x64(True):

        def of(rows):
            if len(rows) == 0:
                zero = jnp.zeros(g.shape[1:])
                return Moments(zero, zero, jnp.zeros(()))
            return moments_of_examples(jnp.asarray(rows), jnp.ones(len(rows)))

        both = merge(of(g[:cut]), of(g[cut:]))
        assert float(both.sample_size) == len(g)
    np.testing.assert_allclose(both.mean, g.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(both.sum_sq_diff, len(g) * g.var(0), rtol=1e-7, atol=1e-7)


def test_the_excess_is_an_unbiased_estimate_of_the_squared_expectation():
    """E[mu**2 - sigma2/(b-1)] = (E g)**2, within four standard errors over 20,000 batches."""
    rng = np.random.default_rng(0)
    b, expectation = 5, 0.3
    # Skewed on purpose: unbiasedness must not need a normal distribution.
    g = expectation + (rng.exponential(size=(b, 20_000)) - 1)
    got = moments_of_examples(jnp.asarray(g, jnp.float32), jnp.ones(b))
    excess = np.asarray(got.mean) ** 2 - np.asarray(got.noise)
    error = excess.std() / np.sqrt(excess.size)
    assert excess.mean() == pytest.approx(expectation**2, abs=4 * error)
    assert np.mean(np.asarray(got.mean) ** 2) - expectation**2 > 10 * error  # training risk is not


def test_noise_is_the_variance_of_the_batch_mean():
    rng = np.random.default_rng(1)
    b, size = 6, 50_000
    g = rng.normal(2.0, 3.0, size=(b, size)).astype(np.float32)
    got = moments_of_examples(jnp.asarray(g), jnp.ones(b))
    assert float(jnp.mean(got.noise)) == pytest.approx(9.0 / b, rel=0.02)
    assert float(jnp.var(got.mean)) == pytest.approx(9.0 / b, rel=0.02)


def test_one_example_counts_as_noise_entirely():
    one = moments_of_examples({"w": jnp.array([[3.0, -2.0]])}, jnp.ones(1))
    np.testing.assert_array_equal(one.noise["w"], [9.0, 4.0])


def test_moments_in_float64_are_float64():
    with jax.enable_x64(True):
        params, batch = problem(dtype=jnp.float64)
        _, got = snrgate.value_and_moments(loss_fn, microbatch_size=3, block="parameter")(
            params, batch
        )
        assert got.mean["kernel"].dtype == jnp.float64
        mean, ssd = brute_force(params, batch)
        np.testing.assert_allclose(got.sum_sq_diff["kernel"], ssd["kernel"], rtol=1e-12)
        np.testing.assert_allclose(got.mean["kernel"], mean["kernel"], rtol=1e-12)


# ---- refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "exact"}, "method='exact' is unknown"),
        ({"block": "row"}, "block='row' is unknown"),
        ({"microbatch_size": 0}, "microbatch_size=0"),
        # A tree of arrays is told by its type, and never printed.
        ({"block": {"kernel": np.full(3, 7.25)}}, "block=a dict is unknown"),
    ],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        snrgate.value_and_moments(loss_fn, **settings)


def test_bad_batches_are_refused_by_name():
    params, batch = problem()
    grad_fn = snrgate.value_and_moments(loss_fn, block="parameter")
    with pytest.raises(ValueError, match="'y': 9"):
        grad_fn(params, {**batch, "y": batch["y"][:9]})
    with pytest.raises(ValueError, match="batch leaf 'y' is a scalar"):
        grad_fn(params, {**batch, "y": 1.0})
    with pytest.raises(ValueError, match="batch is empty"):
        grad_fn(params, jax.tree.map(lambda x: x[:0], batch))
    with pytest.raises(ValueError, match="one example, which shows no noise"):
        grad_fn(params, jax.tree.map(lambda x: x[:1], batch))
    with pytest.raises(ValueError, match=r"Pad a ragged last batch .* weights="):
        grad_fn(params, jax.tree.map(lambda x: x[:1], batch))
    with pytest.raises(ValueError, match="there are no leaves"):
        grad_fn(params, {})


def test_bad_losses_are_refused():
    params, batch = problem()
    with pytest.raises(ValueError, match=r"must be a scalar, not \(3,\)"):
        snrgate.value_and_moments(lambda p, e: p["bias"] * e["y"], block="parameter")(params, batch)
    with pytest.raises(ValueError, match="has_aux=True if it returns"):
        snrgate.value_and_moments(lambda p, e: (loss_fn(p, e), 1.0), block="parameter")(
            params, batch
        )
    with pytest.raises(ValueError, match=r"must return \(loss, aux\)"):
        snrgate.value_and_moments(loss_fn, has_aux=True, block="parameter")(params, batch)


def test_bad_parameters_and_weights_are_refused():
    params, batch = problem()
    grad_fn = snrgate.value_and_moments(loss_fn, block="parameter")
    with pytest.raises(TypeError, match="parameter 'table' has dtype int32"):
        grad_fn({**params, "table": jnp.arange(3)}, batch)
    for call in (grad_fn, functools.partial(snrgate.explain_moments, loss_fn)):
        with pytest.raises(TypeError, match="'act' is no array but 'relu'; keep it out"):
            call({**params, "act": jax.nn.relu}, batch)
        with pytest.raises(TypeError, match="'name' is no array but 'str'"):
            call({**params, "name": "dense"}, batch)
    with pytest.raises(ValueError, match=r"weights have shape \(3,\)"):
        grad_fn(params, batch, weights=jnp.ones(3))
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match="numbers >= 0"):
            grad_fn(params, batch, weights=np.array([bad] + [1.0] * 9))


def test_a_block_with_axes_that_do_not_exist_is_refused_by_name():
    params, batch = problem()
    with pytest.raises(ValueError, match=r"'bias' of shape \(3,\)"):
        snrgate.value_and_moments(loss_fn, block=lambda path, shape: (1,))(params, batch)


# ---- what a loss may be --------------------------------------------------------------------


METHODS = ("vmap", "factored")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_a_loss_may_close_over_traced_values(method, microbatch_size):
    params, batch = problem()
    scale = jnp.linspace(0.5, 1.5, 5)

    def moments(scale):
        def scaled(params, example):
            return loss_fn(params, {**example, "x": scale * example["x"]})

        return snrgate.value_and_moments(
            scaled, method=method, microbatch_size=microbatch_size, block="parameter"
        )(params, batch)[1]

    got = jax.jit(moments)(scale)
    mean, ssd = brute_force(params, {**batch, "x": scale[None] * batch["x"]})
    assert_moments(got, mean, ssd)
    # ... and over what vmap maps, and may be differentiated by it.
    both = jax.vmap(moments)(jnp.stack([scale, 2 * scale]))
    assert_moments(jax.tree.map(lambda x: x[0], both), mean, ssd)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_loss_closes_over_is_read_at_every_call(method):
    params, batch = problem()
    factor = [1.0]
    grad_fn = snrgate.value_and_moments(
        lambda p, e: factor[0] * loss_fn(p, e), method=method, block="parameter"
    )
    once = grad_fn(params, batch)[0]
    factor[0] = 3.0
    assert float(grad_fn(params, batch)[0]) == pytest.approx(3 * float(once), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_complex_numbers_inside_a_loss(method):
    k = jax.random.split(jax.random.key(0), 3)
    signals = jax.random.normal(k[0], (6, 4)) + 1j * jax.random.normal(k[1], (6, 4))
    kernel = jax.random.normal(k[2], (4, 3))

    def loss(kernel, signal):
        return jnp.sum(jnp.abs(signal @ kernel - 1) ** 2)

    _, got = snrgate.value_and_moments(loss, method=method, block="parameter")(kernel, signals)
    grads = np.stack([np.asarray(jax.grad(loss)(kernel, s), np.float64) for s in signals])
    assert got.mean.dtype == jnp.float32
    np.testing.assert_allclose(got.mean, grads.mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.sum_sq_diff, 6 * grads.var(0), rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_trees_with_nothing_in_them(method):
    _, batch = problem()
    loss, got = snrgate.value_and_moments(
        lambda p, e: jnp.sum(e["x"]), method=method, block="parameter"
    )({}, batch)
    assert float(loss) == pytest.approx(float(batch["x"].sum(1).mean()), rel=1e-5)
    assert got.mean == {}
    params = {"empty": jnp.zeros((5, 0)), "w": jnp.ones(5)}

    def loss_fn(p, e):
        return jnp.sum(e["x"] @ p["empty"]) + e["x"] @ p["w"]

    _, got = snrgate.value_and_moments(loss_fn, method=method, block="parameter")(params, batch)
    np.testing.assert_allclose(got.mean["w"], batch["x"].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("microbatch_size", [None, 2])
def test_traced_weights_that_are_no_counts_do_not_count(method, microbatch_size):
    params, batch = problem()
    grad_fn = snrgate.value_and_moments(
        loss_fn, method=method, microbatch_size=microbatch_size, block="parameter"
    )
    weights = np.ones(10, np.float32)
    weights[3] = 0
    expected = grad_fn(params, batch, weights=jnp.asarray(weights))
    for bad in (-1.0, np.nan):
        weights[3] = bad
        got = jax.jit(lambda w: grad_fn(params, batch, weights=w))(jnp.asarray(weights))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", ["parameter", "unit"])
def test_one_example_with_weights_has_a_mean_and_counts_as_noise_entirely(method, block):
    params, batch = problem()
    grad_fn = jax.jit(snrgate.value_and_moments(loss_fn, method=method, block=block))
    one = jax.tree.map(lambda x: x[:1], batch)
    _, got = grad_fn(params, one, weights=jnp.ones(1))
    mean, _ = brute_force(params, one)
    assert float(got.sample_size) == 1
    for name in mean:
        np.testing.assert_allclose(got.mean[name], mean[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.sum_sq_diff[name], 0, atol=1e-4 * (mean[name] ** 2).max())
    # Merged with the others it gives what all of them have together.
    rest = grad_fn(params, jax.tree.map(lambda x: x[1:], batch), weights=jnp.ones(9))[1]
    whole = grad_fn(params, batch, weights=jnp.ones(10))[1]
    merged = snrgate.moments.merge(got, rest)
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_padding_alone_is_the_same_eagerly_and_jitted(method, microbatch_size):
    params, batch = problem()
    batch = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), batch)
    grad_fn = functools.partial(
        snrgate.value_and_moments(
            loss_fn, method=method, microbatch_size=microbatch_size, block="parameter"
        ),
        weights=jnp.zeros(10),
    )
    for run in (grad_fn, jax.jit(grad_fn)):
        loss, got = run(params, batch)
        assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.all(x == 0)), (loss, got, got.noise)))


@pytest.mark.parametrize("method", METHODS)
def test_parameters_may_be_numbers_of_python(method):
    def line(params, example):
        x, y = example
        return (params["slope"] * x + params["offset"] - y) ** 2

    batch = jnp.arange(5.0), jnp.ones(5)
    grad_fn = snrgate.value_and_moments(line, method=method, block="unit")
    for run in (grad_fn, jax.jit(grad_fn)):
        value, got = run({"slope": 0.5, "offset": 1.0}, batch)
        wanted = run({"slope": jnp.array(0.5), "offset": jnp.array(1.0)}, batch)
        for a, b in zip(jax.tree.leaves((value, got)), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("block", ["parameter", "unit"])
def test_a_batch_of_symbolic_size_is_exported(method, block):
    params, batch = problem()
    (n,) = jax.export.symbolic_shape("n")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), batch)
    grad_fn = snrgate.value_and_moments(loss_fn, method=method, block=block)
    exported = jax.export.export(jax.jit(grad_fn))(params, shapes)
    for size in (10, 7):
        part = jax.tree.map(lambda x, size=size: x[:size], batch)
        for a, b in zip(
            *map(jax.tree.leaves, (exported.call(params, part), grad_fn(params, part))), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    refused = snrgate.value_and_moments(loss_fn, method=method, block=block, microbatch_size=4)
    with pytest.raises(ValueError, match="batch of symbolic size n; export without microbatches"):
        jax.export.export(jax.jit(refused))(params, shapes)
