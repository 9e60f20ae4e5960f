"""``block="kronecker"``: the sums along both sides of a kernel, against brute force."""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from communication import collectives
from jax import export
from jax.sharding import PartitionSpec as P

import snrgate
from snrgate.block import MAX_SIDE, Sides, block_axes, default_sides, sides_of
from snrgate.moments import Moments, add_groups, merge
from snrgate.moments.factored.kronecker import COSTS
from snrgate.moments.kronecker import SideSums, fold, outer_sums, side_shapes, unfold
from snrgate.moments.origin import mean_of
from snrgate.moments.per_example import moments_of_examples

NAMED_SIDES = {
    "two axes": ("w", (3, 4), Sides((), (0,), (1,))),
    "OIHW": ("conv/weight", (64, 3, 3, 3), Sides((), (0,), (1, 2, 3))),
    "HWIO": ("conv/weight", (3, 3, 3, 64), Sides((), (0, 1, 2), (3,))),
    "heads": ("w", (8, 2, 4), Sides((), (0,), (1, 2))),
    "query": ("query/kernel", (2, 8, 9), Sides((), (0,), (1, 2))),
    "out": ("out/kernel", (2, 8, 9), Sides((), (0, 1), (2,))),
    "bias of heads": ("query/bias", (2, 8), Sides((), (0, 1), ())),
    "to one output": ("w", (5, 1), Sides((), (0,), ())),
    "from one input": ("w", (1, 5), Sides((), (1,), ())),
    "one number": ("w", (1, 1), Sides((), (), ())),
    "nothing in it": ("w", (0, 3), Sides((), (0,), (1,))),
    "vector": ("w", (5,), None),
    "scalar": ("w", (), None),
}


@pytest.mark.parametrize("name", NAMED_SIDES)
def test_sides_by_name_and_shape(name):
    path, shape, expected = NAMED_SIDES[name]
    assert default_sides(path, shape) == expected


def test_rows_hold_the_first_axis_that_is_not_of_the_stack():
    assert sides_of((1,), (3, 2), (0,)) == Sides((1,), (0,), (2, 3))
    assert sides_of((), (), (1, 0)) == Sides((), (0, 1), ())


@pytest.mark.parametrize(
    ("shape", "sides"),
    [
        ((2, 3, 4), Sides((1,), (0,), (2,))),
        ((2, 1, 3, 4), Sides((), (0, 3), (2,))),
        ((2, 3), Sides((0,), (1,), ())),
        ((MAX_SIDE + 1, 2), Sides((), (0,), (1,))),
    ],
)
def test_unfolding_and_the_products_of_one_array(shape, sides):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    matrix = np.asarray(unfold(jnp.asarray(x), sides))
    np.testing.assert_array_equal(fold(jnp.asarray(matrix), sides, shape), x)
    # By hand: every axis has a letter, that of the side twice.
    letters = "abcd"[: len(shape)]
    other = {"abcd"[i]: "wxyz"[i] for i in sides.rows}
    product = np.einsum(
        f"{letters},{''.join(other.get(c, c) for c in letters)}->"
        + "".join("abcd"[i] for i in sides.stack)
        + "".join("abcd"[i] for i in sides.rows)
        + "".join(other["abcd"[i]] for i in sides.rows),
        x,
        x,
    )
    m = matrix.shape[-2]
    product = product.reshape(*matrix.shape[:-2], m, m)
    sums = outer_sums(jnp.asarray(x), sides)
    assert (sums.rows.shape, sums.columns.shape) == side_shapes(shape, sides)
    if m > MAX_SIDE:
        product = np.diagonal(product, axis1=-2, axis2=-1)
    np.testing.assert_allclose(sums.rows, product, rtol=1e-5, atol=1e-6)
    columns = np.swapaxes(matrix, -1, -2) @ matrix
    np.testing.assert_allclose(sums.columns, columns, rtol=1e-5, atol=1e-5)
    # Two arrays that stand for one leaf, through any transformation of trees.
    assert jax.tree.map(lambda a: 2 * a, sums).sides == sides


T, I, O, L, H, D, V, B = 3, 4, 5, 2, 2, 3, 6, 5  # noqa: E741


def conv(spec, stride=1, groups=1):
    def apply(w, x):
        return jax.lax.conv_general_dilated(
            x[None],
            w,
            (stride,) * 2,
            "SAME",
            dimension_numbers=("NHWC", spec, "NHWC"),
            feature_group_count=groups,
        )

    return apply


def ids(w, x):
    """Whole numbers from the example's real ones, some of them equal."""
    return (jnp.argsort(x) % 3).astype(jnp.int32)


def scanned(w, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]


def normalised(w, x):
    return x @ (w / jnp.linalg.norm(w, axis=0, keepdims=True))


# Shape of the parameter and of an example, how it is used, and its sides by hand.
ROWS_COLUMNS = Sides((), (0,), (1,))
CASES = {
    "in, out": ((I, O), (I,), lambda w, x: x @ w, ROWS_COLUMNS),
    "out, in": ((O, I), (I,), lambda w, x: w @ x, ROWS_COLUMNS),
    "tokens": ((I, O), (T, I), lambda w, x: x @ w, ROWS_COLUMNS),
    "both ways": ((I, O), (I,), lambda w, x: jnp.tanh(x @ w) @ w.T, ROWS_COLUMNS),
    "heads": (
        (I, H, D),
        (T, I),
        lambda w, x: jnp.einsum("ti,ihd->thd", x, w),
        Sides((), (0,), (1, 2)),
    ),
    "heads out": (
        (H, D, O),
        (T, H, D),
        lambda w, x: jnp.einsum("thd,hdo->to", x, w),
        Sides((), (0, 1), (2,)),
    ),
    "axes apart": (
        (H, I, D),
        (T, I),
        lambda w, x: jnp.einsum("ti,hid->thd", x, w),
        Sides((), (0, 2), (1,)),
    ),
    "axes exchanged": (
        (D, H, 1, I),
        (I,),
        lambda w, x: jnp.einsum("i,dhi->hd", x, w[:, :, 0]),
        Sides((), (0, 1), (3,)),
    ),
    "each head its own": (
        (H, D, O),
        (T, H, D),
        lambda w, x: jnp.einsum("thd,hdo->tho", x, w),
        Sides((0,), (1,), (2,)),
    ),
    "experts of layers": (
        (H, I, L, O),
        (L, H, I),
        lambda w, x: jnp.einsum("lhi,hilo->lho", x, w),
        Sides((0, 2), (1,), (3,)),
    ),
    "layers of tokens": ((L, I, I), (T, I), scanned, Sides((0,), (1,), (2,))),
    "over time": (
        (I, I),
        (T, I),
        lambda w, x: jax.lax.scan(lambda s, x: (jnp.tanh(x + s @ w), None), 0 * x[0], x)[0],
        ROWS_COLUMNS,
    ),
    "OIHW": ((O, 2, 3, 2), (4, 4, 2), conv("OIHW", 2), Sides((), (0,), (1, 2, 3))),
    "depthwise": ((2, 2, 1, 4), (3, 3, 4), conv("HWIO", groups=4), Sides((), (0, 1), (3,))),
    "columns": ((D, V), (T,), lambda w, x: w[:, ids(w, x)], ROWS_COLUMNS),
    "rows twice": ((V, D), (7,), lambda w, x: w[ids(w, x)], ROWS_COLUMNS),
    "tied": ((V, D), (T,), lambda w, x: jnp.tanh(w[ids(w, x)]) @ w.T, ROWS_COLUMNS),
    "matrices of a table": (
        (V, I, O),
        (I,),
        lambda w, x: x @ w[ids(w, x)[0]],
        Sides((), (0,), (1, 2)),
    ),
    "numbers of a table": (
        (V, D),
        (T,),
        lambda w, x: w[ids(w, x), 1] + 2 * w[1, ids(w, x)],
        Sides((), (0, 1), ()),
    ),
    "scaled": ((I, O), (T, I), lambda w, x: x @ (w * np.tri(I, O)), ROWS_COLUMNS),
    "normalised": ((I, O), (T, I), normalised, ROWS_COLUMNS),
    "two scales": (
        (I, O),
        (T, I),
        lambda w, x: jnp.tanh(x @ w) + x @ (w * np.tri(I, O)),
        ROWS_COLUMNS,
    ),
    "element by element": ((T, I), (T, I), lambda w, x: x * w, ROWS_COLUMNS),
    "three axes": ((2, 3, 5), (2, 3, 5), lambda w, x: x * w, Sides((), (0, 1), (2,))),
    "in a branch": (
        (I, O),
        (I,),
        lambda w, x: jax.lax.cond(x[0] > 0, lambda x: x @ w, lambda x: jnp.tanh(x @ w), x),
        ROWS_COLUMNS,
    ),
    "penalty": (
        (I, O),
        (I,),
        lambda w, x: jnp.append(x @ w, jnp.sqrt(jnp.sum(w**2))),
        ROWS_COLUMNS,
    ),
    "unused": ((I, O), (I,), lambda w, x: x, ROWS_COLUMNS),
    "nothing in it": ((0, 3), (I,), lambda w, x: jnp.append(x, w), None),
    "to one output": ((I, 1), (T, I), lambda w, x: x @ w, Sides((), (0,), ())),
    "from one input": ((1, O), (T, 1), lambda w, x: x @ w, Sides((), (1,), ())),
    "vector": ((I,), (T, I), lambda w, x: x @ w, None),
    "gain": ((I,), (T, I), lambda w, x: x * w[None], None),
    "scalar": ((), (I,), lambda w, x: x * w, None),
    "derivative": (
        (I, O),
        (I,),
        lambda w, x: jax.jvp(lambda x: jnp.tanh(x @ w), (x,), (jnp.ones_like(x),))[1],
        ROWS_COLUMNS,
    ),
}


def loss_fn(params, example):
    """Every case is a term of its own: one program holds them all."""
    outputs = {name: CASES[name][2](w, example[name]) for name, w in params.items()}
    return sum(jnp.sum(jnp.sin(2 * y)) for y in jax.tree.leaves(outputs))


def compiled(f):
    """Compiled fast rather than to be fast: the programs are large, and run once."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def data():
    draw = np.random.default_rng(0).standard_normal
    params = {name: 0.5 * draw(case[0]) for name, case in CASES.items()}
    batch = {name: draw((B, *case[1])) for name, case in CASES.items()}
    with jax.enable_x64(True):
        grads = compiled(jax.vmap(jax.grad(loss_fn), (None, 0)))(params, batch)
    return params, batch, jax.tree.map(np.asarray, grads)


def by_hand(name, grads, weights, limit=MAX_SIDE):
    """The mean and the sums of one parameter from the gradients of its examples."""
    weights = np.asarray(weights)
    mean = np.tensordot(weights, grads, 1) / weights.sum()
    difference, sides = grads - mean, CASES[name][3]
    if sides is None:
        return mean, np.tensordot(weights, difference**2, 1)
    shape = mean.shape
    order = [0, *(1 + i for i in (*sides.stack, *sides.rows, *sides.columns))]
    order += [i + 1 for i in range(len(shape)) if i + 1 not in order]
    m, n = (int(np.prod([shape[i] for i in axes])) for axes in (sides.rows, sides.columns))
    stack = [shape[i] for i in sides.stack]
    g = difference.transpose(order).reshape(len(grads), *stack, m, n)
    rows = np.einsum("b,b...mn,b...kn->...mk", weights, g, g)
    columns = np.einsum("b,b...mn,b...mk->...nk", weights, g, g)
    return mean, tuple(
        np.diagonal(x, axis1=-2, axis2=-1) if x.shape[-1] > limit else x for x in (rows, columns)
    )


def check(moments, grads, weights, limit=MAX_SIDE):
    assert np.asarray(moments.sample_size) == np.sum(weights)
    for name in moments.mean:
        sides = CASES[name][3]
        mean, sums = by_hand(name, grads[name], weights, limit)
        got = moments.sum_sq_diff[name]
        kind = {"rtol": 1e-9, "atol": 1e-11, "err_msg": name}
        np.testing.assert_allclose(moments.mean[name], mean, **kind)
        if sides is None:
            np.testing.assert_allclose(got, sums, **kind)
            continue
        assert got.sides == sides, name
        for side, expected in zip((got.rows, got.columns), sums, strict=True):
            np.testing.assert_allclose(side, expected, **kind)


def test_sums_of_every_layout(data):
    params, batch, grads = data
    grad_fn = snrgate.value_and_moments(loss_fn, block="kronecker")
    with jax.enable_x64(True):
        moments = compiled(grad_fn)(params, batch)[1]
    check(moments, grads, np.ones(B))
    by_vmap = snrgate.value_and_moments(loss_fn, method="vmap", block="kronecker")
    shapes = jax.eval_shape(by_vmap, params, batch)[1]
    assert jax.tree.structure(shapes) == jax.tree.structure(moments)


# The rules differ in what they make of several uses, stacks, orders of axes, tables and scales.
FEW = {
    "sides": (
        *("heads out", "axes exchanged", "each head its own", "OIHW", "depthwise"),
        *("columns", "rows twice", "tied", "two scales", "to one output"),
    ),
    "formed": ("axes apart", "each head its own", "OIHW", "tied", "two scales"),
    "vmap": ("axes apart", "each head its own", "element by element", "vector"),
}


@pytest.mark.parametrize("rule", FEW)
def test_every_rule_in_turns_with_weights_and_padding(rule, data, monkeypatch):
    """Each way by force, a few examples at a time, in microbatches, with diagonals."""
    params, batch, grads = ({name: tree[name] for name in FEW[rule]} for tree in data)
    method, limit = ("vmap" if rule == "vmap" else "factored"), 3
    monkeypatch.setattr("snrgate.block.MAX_SIDE", limit)
    monkeypatch.setitem(COSTS, "formed" if rule == "sides" else "sides", lambda *_: math.inf)
    monkeypatch.setattr("snrgate.moments.factored.plan.AT_ONCE", 1)
    monkeypatch.setattr("snrgate.moments.factored.cut.SMALL", 0)  # the rule "whole", too
    weights = np.array([2.0, 0.0, 1.0, 1.5, 3.0])
    padded = jax.tree.map(np.copy, batch)
    for x in padded.values():
        x[weights == 0] = np.nan
    grad_fn = snrgate.value_and_moments(
        loss_fn, method=method, block="kronecker", microbatch_size=3
    )
    with jax.enable_x64(True):
        moments = compiled(grad_fn)(params, padded, weights=weights)[1]
    check(moments, grads, weights, limit)


M, N, K, DEVICES = 4, 3, 2, 4
SMALL = {"bias": np.zeros(N), "first": np.ones((M, N)) / 3, "last": np.eye(N, K)}
X, Y = (np.random.default_rng(1).standard_normal((8, T, n)) for n in (M, K))
SMALL, X, Y = jax.tree.map(np.float32, (SMALL, X, Y))
BLOCKS = ["kronecker", "unit", "parameter"]


def small_loss(params, example):
    x, y = example
    h = jnp.tanh(x @ params["first"] + params["bias"][None])
    return jnp.mean((h @ params["last"] - y) ** 2)


@functools.cache
def small(block="kronecker", weights=None):
    grad_fn = snrgate.value_and_moments(small_loss, block=block)
    weights = None if weights is None else np.float32(weights)
    return compiled(grad_fn)(SMALL, (X, Y), weights=weights)


def assert_close(got, expected, rtol=1e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1e-30 + np.abs(b).max()))


def test_traces_and_diagonals_are_the_sums_of_the_other_blocks():
    kronecker, numbers = (small(block)[1].sum_sq_diff for block in ("kronecker", "parameter"))
    for name in ("first", "last"):
        for axis, side in ((1, kronecker[name].rows), (0, kronecker[name].columns)):
            np.testing.assert_allclose(np.trace(side), numbers[name].sum(), rtol=1e-5)
            np.testing.assert_allclose(np.diag(side), numbers[name].sum(axis), rtol=1e-5)
    np.testing.assert_allclose(kronecker["bias"], numbers["bias"], rtol=1e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_measure_says_whether_the_sums_are_computed(block):
    """Under a condition, in microbatches; all else is the same to the last digit."""
    grad_fn = snrgate.value_and_moments(small_loss, block=block, microbatch_size=3)
    run = compiled(lambda measure: grad_fn(SMALL, (X, Y), measure=measure))
    loss, on = run(True)
    other, off = run(False)
    expected = small(block)
    assert_close((loss, on), expected)
    assert other == loss
    assert on.sample_size == off.sample_size == len(X)
    jax.tree.map(np.testing.assert_array_equal, off.mean, on.mean)
    assert jax.tree.structure(off) == jax.tree.structure(expected[1])
    for none, sums in zip(*map(jax.tree.leaves, (off.sum_sq_diff, on.sum_sq_diff)), strict=True):
        assert none.shape == sums.shape
        assert np.all(none == -1)


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def test_one_dense_layer_costs_the_products_of_its_sides_and_nothing_if_not_measured():
    b, m, n = 128, 256, 256

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    w, x = np.ones((m, n), np.float32), np.ones((b, m), np.float32)
    plain = flops(jax.grad(lambda w, x: jnp.mean(jax.vmap(loss, (None, 0))(w, x))), w, x)
    grad_fn = snrgate.value_and_moments(loss, block="kronecker")
    compiled = jax.jit(grad_fn).lower(w, x).compile()
    of_examples, of_mean = 2 * b * (m**2 + n**2), 2 * m * n * (m + n)
    assert compiled.cost_analysis()["flops"] < plain + 1.05 * (of_examples + of_mean)
    assert compiled.memory_analysis().temp_size_in_bytes < b * m * n  # a quarter of the gradients
    assert flops(lambda w, x: grad_fn(w, x, measure=False), w, x) < 1.05 * plain
    # Where it is traced, the products of the sides are in one branch alone.
    traced = jax.make_jaxpr(lambda w, x, on: grad_fn(w, x, measure=on))(w, x, True)
    (branches,) = (e.params["branches"] for e in traced.eqns if e.primitive.name == "cond")
    products = [sum(e.primitive.name == "dot_general" for e in b.eqns) for b in branches]
    assert products == [1, 5]  # the mean; and two for either side


@pytest.mark.parametrize("measure", [1, None, np.ones(2, bool), "no"])
def test_measure_is_one_boolean(measure):
    with pytest.raises(TypeError, match="give one boolean"):
        snrgate.value_and_moments(small_loss, block="parameter")(SMALL, (X, Y), measure=measure)


def test_devices_merge_in_one_reduction():
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    grad_fn = snrgate.value_and_moments(small_loss, block="kronecker", axis_name="data")
    run = jax.jit(
        jax.shard_map(
            lambda params, batch, measure: grad_fn(params, batch, measure=measure),
            mesh=mesh,
            in_specs=(P(), P("data"), P()),
            out_specs=P(),
        )
    )
    expected = small()
    loss, moments = run(SMALL, (X, Y), True)
    assert_close((loss, moments), (expected[0], expected[1]._replace(sample_size=moments[2])))
    _, off = run(SMALL, (X, Y), False)
    jax.tree.map(np.testing.assert_array_equal, off.mean, moments.mean)
    assert all(np.all(x == -1) for x in jax.tree.leaves(off.sum_sq_diff))
    (only,) = collectives(run.lower(SMALL, (X, Y), True).compile().as_text())
    numbers = (N + M * N + N * K) + (N + M**2 + N**2 + N**2 + K**2) + 2
    assert only.bytes == 4 * numbers


@pytest.mark.parametrize("spread", ["batch", "kernels", "both"])
def test_explicit_axes(spread):
    """The batch is spread, and the kernels are; the sums are the same on all devices."""
    mesh = jax.make_mesh((2, 2), ("data", "model"))
    place = lambda x, *spec: jax.device_put(x, jax.NamedSharding(mesh, P(*spec)))  # noqa: E731
    params = {name: place(x) for name, x in SMALL.items()}
    if spread != "batch":
        params["first"] = place(SMALL["first"], "model")
    weights = (1, 0, 2, 1, 1, 1, 0, 3)

    def loss(params, example):
        x, y = example
        h = jnp.dot(x, params["first"], out_sharding=P(None, None))
        return jnp.mean((jnp.tanh(h + params["bias"][None]) @ params["last"] - y) ** 2)

    def run(params, batch, measure):
        grad_fn = snrgate.value_and_moments(loss, block="kronecker")
        return grad_fn(params, batch, weights=np.float32(weights), measure=measure)

    with jax.set_mesh(mesh):
        batch = tuple(place(x, None if spread == "kernels" else "data") for x in (X, Y))
        loss_of_batch, moments = jax.jit(run)(params, batch, True)
        off = jax.jit(run)(params, batch, False)[1]
    expected = small(weights=weights)
    got = loss_of_batch, moments._replace(sample_size=expected[1].sample_size)
    assert_close(got, expected)
    assert all(np.all(x == -1) for x in jax.tree.leaves(off.sum_sq_diff))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    params, batch = jax.tree.map(lambda x: jnp.asarray(x, dtype), (SMALL, (X, Y)))
    got, expected = (
        compiled(snrgate.value_and_moments(small_loss, method=method, block="kronecker"))
        for method in ("factored", "vmap")
    )
    moments = got(params, batch)[1]
    assert {x.dtype for x in jax.tree.leaves(moments[:2])} == {jnp.dtype(jnp.float32)}
    assert_close(moments[:2], expected(params, batch)[1][:2], rtol=float(8 * jnp.finfo(dtype).eps))


def test_export_with_a_batch_of_any_size():
    (b,) = export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((b, *x.shape[1:]), x.dtype) for x in (X, Y)]
    leaves = lambda p, x, y: jax.tree.leaves(  # noqa: E731
        snrgate.value_and_moments(small_loss, block="kronecker")(p, (x, y))
    )
    exported = export.export(jax.jit(leaves))(SMALL, *shapes)
    assert_close(exported.call(SMALL, X, Y), jax.tree.leaves(small()))


def test_a_diagonal_is_not_negative_where_all_examples_agree():
    x = np.full((7, 40), 1 / 3, np.float32)
    grad_fn = snrgate.value_and_moments(lambda w, x: jnp.sum(x @ w), block="kronecker")
    sums = jax.jit(grad_fn)(np.ones((40, 5), np.float32), x)[1].sum_sq_diff
    for side in (sums.rows, sums.columns):
        assert np.all(np.diag(side) >= 0)
        np.testing.assert_allclose(side, 0, atol=1e-4)


def test_noise_groups_and_merging():
    both = small()[1]
    grad_fn = compiled(snrgate.value_and_moments(small_loss, block="kronecker"))
    parts = [grad_fn(SMALL, (X[i], Y[i]))[1] for i in (slice(0, 4), slice(4, 8))]
    assert_close(jax.jit(merge)(*parts)[:2], both[:2])
    one = both._replace(sample_size=jnp.asarray(1.0)).noise["first"]
    assert_close(one, outer_sums(both.mean["first"], one.sides))  # one example shows no noise
    noise = add_groups(parts, [None, None]).noise["first"]
    assert_close(noise, jax.tree.map(operator.add, *(p.noise["first"] for p in parts)))
    grads = compiled(jax.vmap(jax.grad(small_loss), (None, 0)))(SMALL, (X, Y))
    assert_close(moments_of_examples(grads, jnp.ones(8), "kronecker")[:2], both[:2])
    assert both.extra_args()["sum_sq_diff_grads"] is both.sum_sq_diff


def test_sums_know_their_mean():
    grad_fn = snrgate.value_and_moments(
        lambda w, x: jnp.sum(x @ w["a"] + w["b"]), block="kronecker"
    )
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
    moments = grad_fn(params, jnp.eye(2))[1]
    again = jax.tree.map(lambda x: x, moments.sum_sq_diff)
    for name in params:
        assert mean_of(again[name]) is moments.mean[name]


def test_diagnostics_are_those_of_plain_sums():
    by_sides, plain = (small(block)[1] for block in ("kronecker", "parameter"))
    for f in (snrgate.diagnostics.noise_scale, snrgate.diagnostics.risk_decrease):
        np.testing.assert_allclose(f(by_sides), f(plain), rtol=1e-5)
    with pytest.raises(ValueError, match="preconditioner of 'first'"):
        snrgate.diagnostics.risk_decrease(by_sides, SMALL)


def test_groups_must_agree_on_the_sides():
    one, other = (
        Moments({"w": jnp.ones((2, 3))}, {"w": outer_sums(jnp.ones((2, 3)), sides)}, 2.0)
        for sides in (Sides((), (0,), (1,)), Sides((), (0, 1), ()))
    )
    for combine in (merge, lambda *groups: add_groups(groups, [None, None])):
        with pytest.raises(ValueError, match="'w' differ in their sides"):
            combine(one, other)


def test_the_report_shows_both_sides():
    example = X[0], Y[0]
    lines = snrgate.explain_moments(small_loss, SMALL, example, block="kronecker").splitlines()
    assert "4x4 + 3x3" in lines[2]
    assert isinstance(small()[1].sum_sq_diff["first"], SideSums)


def test_a_gate_takes_axes_to_pool():
    with pytest.raises(ValueError, match="'kronecker' is unknown"):
        block_axes("kronecker", "w", (2, 3))
