"""The factored moments are those of the per-example gradients, for any loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import snrgate

BATCH = 6


@pytest.fixture(autouse=True)
def models_broadcast():
    """Models may add a bias to a sequence; the library is held to its rank elsewhere."""
    with jax.numpy_rank_promotion("allow"):
        yield


def draw(seed, shapes):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: rng.normal(size=s) / np.sqrt(max(np.prod(s[:-1]), 1)),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple) and all(isinstance(n, int) for n in s),
    )


def cast(tree, dtype):
    """Real numbers as ``dtype``; whole numbers and keys as they are."""

    def one(x):
        return jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.asarray(x)

    return jax.tree.map(one, tree)


def assert_close(got, expected, rtol, rounding=None):
    """Every leaf to ``rtol`` of its largest entry, and to 1e-13 of that of ``rounding``."""
    leaves = [
        jax.tree.leaves(t) for t in (got, expected, expected if rounding is None else rounding)
    ]
    for a, e, r in zip(*leaves, strict=True):
        e = np.asarray(e, np.float64)
        assert a.shape == e.shape
        atol = rtol * np.abs(e).max(initial=0) + 1e-13 * np.abs(r).max(initial=0) + 1e-30
        np.testing.assert_allclose(np.asarray(a), e, rtol=0, atol=atol)


def both(loss, block="parameter", options=None, **keywords):
    """``(params, batch, weights) -> (by vmap, factored)``, compiled together."""
    vmapped, factored = (
        snrgate.value_and_moments(loss, method=method, block=block, **keywords)
        for method in ("vmap", "factored")
    )

    def run(params, batch, weights):
        return vmapped(params, batch, weights=weights), factored(params, batch, weights=weights)

    return jax.jit(run, compiler_options=options)


def check(loss, params, batch, block="parameter", weights=None, rtol=1e-9, **keywords):
    """Factored against vmap, both in float64; returns the factored result."""
    with jax.enable_x64(True):
        wide = cast(params, jnp.float64), cast(batch, jnp.float64), weights
        expected, got = both(loss, block, **keywords)(*wide)
        (value, moments), (expected_value, expected_moments) = got, expected
        assert_close((value, moments.mean), (expected_value, expected_moments.mean), rtol)
        assert moments.sample_size == expected_moments.sample_size
        # Where all examples agree, what is left of the difference is rounding of the squares.
        rounding = second_moment(expected_moments)
        assert_close(moments.sum_sq_diff, expected_moments.sum_sq_diff, rtol, rounding)
    return got


def check_float32(loss, params, batch, block="parameter", rtol=1e-5, expected=None):
    """Factored in float32 against vmap in float64, or what :func:`check` says is the same."""
    with jax.enable_x64(True):
        wide = cast(params, jnp.float64), cast(batch, jnp.float64)
        by_vmap = jax.jit(snrgate.value_and_moments(loss, method="vmap", block=block))
        value, expected = by_vmap(*wide) if expected is None else expected
    narrow = cast(params, jnp.float32), cast(batch, jnp.float32)
    got_value, got = jax.jit(snrgate.value_and_moments(loss, method="factored", block=block))(
        *narrow
    )
    assert_close((got_value, got.mean), (value, expected.mean), rtol)
    assert_close(second_moment(got), second_moment(expected), rtol)


def second_moment(moments):
    """``Q / n``, in whose units float32 is precise: differences of it may nearly cancel."""
    n = float(moments.sample_size)

    def one(mean, squares):
        mean, squares = np.asarray(mean), np.asarray(squares)
        pooled = tuple(i for i, size in enumerate(squares.shape) if size == 1)
        return (squares + n * np.square(mean).sum(axis=pooled, keepdims=True)) / n

    return jax.tree.map(one, moments.mean, moments.sum_sq_diff)


def mlp_params(sizes, seed=0):
    return draw(
        seed,
        [{"kernel": (m, n), "bias": (n,)} for m, n in itertools.pairwise(sizes)],
    )


def mlp(params, x, activation=jnp.tanh):
    for layer in params[:-1]:
        x = activation(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def regression(params, example):
    x, y = example
    return jnp.mean((mlp(params, x, jax.nn.relu) - y) ** 2)


SIZES = [2, 8, 8, 3]
POINTS = draw(1, ((BATCH, 2), (BATCH, 3)))


def pinn_reverse(params, example):
    def u(x, t):
        return mlp(params, jnp.stack([x, t]))[0]

    u_x, u_t = jax.grad(u, (0, 1))(example[0], example[1])
    return (u_t + 3.0 * u_x) ** 2


def pinn_forward(params, example):
    _, residual = jax.jvp(
        lambda z: mlp(params, z)[0], (example,), (jnp.array([3.0, 1.0], example.dtype),)
    )
    return residual**2


BLOCKS = ["parameter", "unit", "tensor", lambda path, shape: (len(shape) - 1,)]


@pytest.mark.parametrize("block", ["parameter", "unit"])
@pytest.mark.parametrize("loss", [regression, pinn_reverse, pinn_forward])
def test_float32_is_precise(loss, block):
    sizes, batch = (SIZES, POINTS) if loss is regression else ([2, 8, 8, 1], POINTS[0])
    check_float32(loss, mlp_params(sizes), batch, block)


@pytest.mark.parametrize("block", BLOCKS)
def test_dense_layers_used_once(block):
    check(regression, mlp_params(SIZES), POINTS, block)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("loss", [pinn_reverse, pinn_forward])
def test_derivatives_inside_the_loss_are_several_uses(loss, block):
    check(loss, mlp_params([2, 8, 8, 1]), POINTS[0], block)


@pytest.mark.parametrize("block", ["parameter", "unit"])
@pytest.mark.parametrize("uses", [1, 2, 3, 9, 40])
def test_a_layer_used_at_every_position(uses, block):
    def loss(params, example):
        return jnp.mean((mlp(params, example, jax.nn.gelu)) ** 2)

    check(loss, mlp_params(SIZES), draw(2, (BATCH, uses, 2)), block)


def test_a_layer_shared_by_two_places_keeps_the_cross_terms():
    def loss(params, example):
        return jnp.sum(jnp.tanh(jnp.tanh(example @ params["w"]) @ params["w"]))

    check(loss, draw(3, {"w": (4, 4)}), draw(4, (BATCH, 4)))


def test_a_transposed_use_of_a_square_layer_is_not_mistaken_for_a_straight_one():
    def loss(params, example):
        return jnp.sum(jnp.tanh(jnp.tanh(example @ params["w"]) @ params["w"].T))

    check(loss, draw(3, {"w": (4, 4)}), draw(4, (BATCH, 4)))


def test_a_penalty_moves_the_mean_and_not_the_spread():
    params, batch = mlp_params(SIZES), POINTS

    def penalised(params, example):
        return regression(params, example) + 0.3 * sum(
            jnp.sum(x**2) for x in jax.tree.leaves(params)
        )

    with_penalty, without = check(penalised, params, batch)[1], check(regression, params, batch)[1]
    assert_close(with_penalty.sum_sq_diff, without.sum_sq_diff, 1e-6)


@pytest.mark.parametrize("block", BLOCKS)
def test_weights_count_examples_and_padding_may_hold_anything(block):
    x, y = POINTS
    weights = np.array([1.0, 0.0, 2.0, 1.0, 0.0, 1.0])
    padded = (np.where(weights[:, None] == 0, np.nan, x), y)
    repeated = tuple(v[[0, 2, 2, 3, 5]] for v in (x, y))
    result = check(regression, mlp_params(SIZES), padded, block, weights=weights)
    expected = check(regression, mlp_params(SIZES), repeated, block)
    assert_close(result, expected, 1e-5)


def test_no_examples_have_zero_moments():
    grad_fn = snrgate.value_and_moments(regression, method="factored", block="parameter")
    batch = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, jnp.float32), POINTS)
    _, moments = grad_fn(cast(mlp_params(SIZES), jnp.float32), batch, weights=jnp.zeros(BATCH))
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(moments))


def test_auxiliary_output_and_microbatches():
    def loss(params, example):
        value = regression(params, example)
        return value, {"loss": value, "constant": jnp.zeros(2)}

    for size in (None, 4):
        check(loss, mlp_params(SIZES), POINTS, has_aux=True, microbatch_size=size)


def test_sixteen_bit_gradients_are_accumulated_in_float32():
    params, batch = mlp_params([2, 64, 3]), draw(5, ((512, 2), (512, 3)))
    args = cast(params, jnp.bfloat16), cast(batch, jnp.bfloat16)
    _, factored = snrgate.value_and_moments(regression, method="factored", block="parameter")(*args)
    _, plain = snrgate.value_and_moments(regression, method="vmap", block="parameter")(*args)
    for tree in (factored.mean, factored.sum_sq_diff):
        assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float32)}
    assert_close(factored.sum_sq_diff, plain.sum_sq_diff, 2e-2)


def embedding_loss(tied, padding_idx=None):
    def loss(params, example):
        ids, target = example
        x = jnp.tanh(params["embedding"][ids] @ params["w"])
        logits = x @ (params["embedding"].T if tied else params["out"])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=-1)
        return -jnp.mean(chosen)

    return loss


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tokens", [1, 5])
def test_embeddings_with_repeated_tokens(tied, tokens, block):
    shapes = {"embedding": (7, 4), "w": (4, 4)}
    params = draw(7, shapes if tied else shapes | {"out": (4, 7)})
    rng = np.random.default_rng(8)
    # Row 7 is outside the table; a few rows make sure that tokens repeat.
    ids = rng.integers(0, 4, (BATCH, tokens))
    ids[0, 0] = -1
    batch = ids, rng.integers(0, 7, (BATCH, tokens))
    check(embedding_loss(tied), params, batch, block, weights=np.array([1.0, 1, 0, 2, 1, 1]))


@pytest.mark.parametrize("block", ["parameter", "unit"])
@pytest.mark.parametrize(
    ("kernel", "keywords"),
    [
        ((3, 3, 2, 4), {"padding": "SAME", "window_strides": (2, 1)}),
        (
            (2, 3, 2, 4),
            {"padding": [(0, 1), (2, 0)], "window_strides": (1, 1), "rhs_dilation": (2, 1)},
        ),
        ((3, 2, 2, 4), {"padding": "VALID", "window_strides": (3, 2)}),
        ((3, 3, 1, 4), {"padding": "SAME", "window_strides": (1, 1), "feature_group_count": 2}),
        (
            (4, 3, 2, 4),
            {"padding": [(2, 1), (0, 3)], "window_strides": (1, 1), "lhs_dilation": (3, 2)},
        ),
        (
            (2, 3, 2, 4),
            {
                "padding": [(-1, 4), (5, -2)],
                "window_strides": (1, 1),
                "lhs_dilation": (2, 3),
                "rhs_dilation": (2, 1),
            },
        ),
        (
            (3, 3, 2, 4),
            {"padding": [(1, 1), (3, 2)], "window_strides": (2, 1), "lhs_dilation": (3, 4)},
        ),
    ],
)
def test_convolutions(kernel, keywords, block):
    def loss(params, example):
        for name in ("first", "second"):
            if name == "first":
                out = jax.lax.conv_general_dilated(
                    example[None],
                    params["first"],
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    **keywords,
                )
            else:
                out = jax.lax.conv_general_dilated(
                    out,
                    params["second"],
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "OIHW", "NHWC"),
                )
            out = jnp.tanh(out)
        return jnp.sum(out**2)

    check(
        loss, draw(9, {"first": kernel, "second": (3, 4, 2, 2)}), draw(10, (BATCH, 7, 6, 2)), block
    )


def test_a_transposed_convolution_is_used_at_every_place_of_its_input():
    def loss(params, example):
        out = jax.lax.conv_transpose(example[None], params, (4, 4), "SAME")
        return jnp.sum(jnp.tanh(out) ** 2)

    params, example = draw(9, (4, 4, 3, 2)), draw(10, (7, 7, 3))
    line = snrgate.explain_moments(loss, params, example, block="unit").splitlines()[1]
    assert " 49 " in line, line


def recurrent(params, example):
    def step(state, x):
        state = jnp.tanh(x @ params["in"] + state @ params["state"] + params["bias"])
        return state, state @ params["out"]

    _, outputs = jax.lax.scan(step, jnp.zeros(4, example.dtype), example)
    return jnp.mean(outputs**2)


@pytest.mark.parametrize("block", ["parameter", "unit"])
def test_a_scan_over_time_adds_uses(block):
    params = draw(11, {"in": (3, 4), "state": (4, 4), "bias": (4,), "out": (4, 2)})
    check(recurrent, params, draw(12, (BATCH, 5, 3)), block)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_over_layers_stacks_groups(remat, block):
    def layer(x, p):
        return x + jnp.tanh(x @ p["kernel"] + p["bias"]), None

    def loss(params, example):
        body = jax.checkpoint(layer) if remat else layer
        x, _ = jax.lax.scan(body, example, params)
        return jnp.sum(x**2)

    params = draw(13, {"kernel": (3, 4, 4), "bias": (3, 4)})
    for shape in ((BATCH, 4), (BATCH, 6, 4)):
        check(loss, params, draw(14, shape), block)


def test_loops_within_loops_and_a_layer_used_in_and_outside_of_one():
    def loss(params, example):
        def layer(x, p):
            def step(state, x_t):
                state = jnp.tanh(state @ p + x_t @ params["shared"])
                return state, state

            _, states = jax.lax.scan(step, jnp.zeros(4, x.dtype), x)
            return states, None

        x, _ = jax.lax.scan(layer, example, params["layers"])
        return jnp.sum(jnp.tanh(x @ params["shared"]))

    check(loss, draw(15, {"layers": (2, 4, 4), "shared": (4, 4)}), draw(16, (BATCH, 3, 4)))


def test_a_loss_that_looks_at_other_examples_is_refused():
    def loss(params, example):
        return (params["w"] * (example - jax.lax.pmean(example, "data"))) ** 2

    params, batch = {"w": jnp.ones(())}, jnp.arange(4.0)
    grad_fn = snrgate.value_and_moments(
        loss, method="factored", axis_name="data", block="parameter"
    )
    with pytest.raises(ValueError, match="looks at other examples"):
        snrgate.value_and_moments(loss, method="factored", block="parameter")(params, batch)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        lambda p, b: grad_fn(p, b),
        mesh=mesh,
        in_specs=(jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")),
        out_specs=jax.sharding.PartitionSpec(),
    )
    with pytest.raises(ValueError, match="communicates over"):
        spread(params, batch)


def test_nearly_equal_gradients_lose_precision_but_stay_positive():
    """The error is that of the squares, a float32 epsilon of them, however small the variance."""
    x = 1 + 1e-3 * np.random.default_rng(0).normal(size=(256, 5))

    def loss(params, example):
        return jnp.sum(example @ params["w"])

    params, batch = {"w": jnp.ones((5, 3), jnp.float32)}, jnp.asarray(x, jnp.float32)
    _, moments = snrgate.value_and_moments(loss, method="factored", block="parameter")(
        params, batch
    )
    variance = np.asarray(moments.sum_sq_diff["w"])[:, 0] / len(x)
    # The squared mean is 1e6 variances, the squares are precise to about 1e-7.
    np.testing.assert_allclose(variance, np.asarray(batch).var(axis=0), atol=1e-6)
    same = jnp.broadcast_to(batch[:1], batch.shape)
    _, moments = snrgate.value_and_moments(loss, method="factored", block="parameter")(params, same)
    assert np.all(np.asarray(moments.sum_sq_diff["w"]) >= 0)


def test_a_jitted_step_traces_the_loss_once_and_not_again():
    traced = []

    def loss(params, example):
        traced.append(1)
        return regression(params, example)

    grad_fn = jax.jit(snrgate.value_and_moments(loss, method="factored", block="parameter"))
    args = cast(mlp_params(SIZES), jnp.float32), cast(POINTS, jnp.float32)
    for _ in range(3):
        grad_fn(*args)
    assert len(traced) == 1


def test_many_uses_compile_as_few_operations():
    """Every pair of uses as its own code would take minutes to compile."""

    def loss(params, example, times):
        for _ in range(times):
            example = jnp.tanh(example @ params["w"])
        return jnp.sum(example)

    def equations(times, block):
        grad_fn = snrgate.value_and_moments(
            lambda p, e: loss(p, e, times), method="factored", block=block
        )
        args = cast((draw(3, {"w": (4, 4)}), draw(4, (BATCH, 4))), jnp.float32)
        return len(jax.make_jaxpr(grad_fn)(*args).eqns)

    for block in ("parameter", "unit"):
        few, more, many = (equations(times, block) for times in (10, 20, 30))
        assert many - more == more - few
