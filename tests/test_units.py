"""``block="unit"`` takes the units from the program: any layout, any library, any name."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_factored import cast, draw, models_broadcast  # noqa: F401

import snrgate

EXAMPLES = 4
T, I, O, L, H, D, V = 3, 4, 5, 2, 2, 3, 6  # noqa: E741


def conv(spec, stride=1, groups=1):
    places = "HW"[: len(spec) - 2]

    def apply(w, x):
        return jax.lax.conv_general_dilated(
            x[None],
            w,
            (stride,) * len(places),
            "SAME",
            dimension_numbers=(f"N{places}C", spec, f"N{places}C"),
            feature_group_count=groups,
        )

    return apply


def scanned(step, remat=False):
    def apply(w, x):
        body = jax.checkpoint(step) if remat else step
        return jax.lax.scan(lambda x, w: (jnp.tanh(body(x, w)), None), x, w)[0]

    return apply


def over_time(w, x):
    return jax.lax.scan(lambda s, x: (jnp.tanh(x + s @ w), None), jnp.zeros_like(x[0]), x)[0]


def ids(w, x):
    """Whole numbers from the example's real ones."""
    return jnp.argsort(x) % V


# Shape of the parameter, of its sums, of an example, and how it is used.
TOLD = {
    "in, out": ((I, O), (1, O), (I,), lambda w, x: x @ w),
    "out, in": ((O, I), (O, 1), (I,), lambda w, x: w @ x),
    "square in, out": ((I, I), (1, I), (I,), lambda w, x: x @ w),
    "square out, in": ((I, I), (I, 1), (I,), lambda w, x: w @ x),
    "tokens, in, out": ((I, O), (1, O), (T, I), lambda w, x: x @ w),
    "tokens, out, in": ((O, I), (O, 1), (T, I), lambda w, x: jnp.tanh(x) @ w.T),
    "tokens side by side": ((O, I), (O, 1), (I, T), lambda w, x: w @ x),
    "used twice": ((I, I), (1, I), (I,), lambda w, x: jnp.tanh(x @ w) @ w),
    "to one output": ((I, 1), (1, 1), (T, I), lambda w, x: x @ w),
    "from one input": ((1, O), (1, O), (T, 1), lambda w, x: jnp.sin(x @ w)),
    "in, heads, dim": ((I, H, D), (1, H, D), (T, I), lambda w, x: jnp.einsum("ti,ihd->thd", x, w)),
    "heads, dim, in": ((H, D, I), (H, D, 1), (T, I), lambda w, x: jnp.einsum("ti,hdi->thd", x, w)),
    "heads, dim, out": (
        (H, D, O),
        (1, 1, O),
        (T, H, D),
        lambda w, x: jnp.einsum("thd,hdo->to", x, w),
    ),
    "out, heads, dim": (
        (O, H, D),
        (O, 1, 1),
        (T, H, D),
        lambda w, x: jnp.einsum("thd,ohd->to", x, w),
    ),
    "each head its own": (
        (H, D, O),
        (H, 1, O),
        (T, H, D),
        lambda w, x: jnp.einsum("thd,hdo->tho", x, w),
    ),
    "grouped": ((3, 3, I // 2, 6), (1, 1, 1, 6), (5, 5, I), conv("HWIO", groups=2)),
    "grouped, OIHW": ((6, I // 2, 3, 3), (6, 1, 1, 1), (5, 5, I), conv("OIHW", 2, groups=2)),
    "grouped along one axis": ((3, I // 2, 6), (1, 1, 6), (5, I), conv("HIO", groups=2)),
    "depthwise along one axis": ((3, 1, I), (1, 1, I), (5, I), conv("HIO", groups=I)),
    "depthwise, OIH": ((I, 1, 3), (I, 1, 1), (5, I), conv("OIH", groups=I)),
    "experts": ((L, I, O), (L, 1, O), (L, I), jax.vmap(lambda w, x: x @ w)),
    "experts, out, in": ((L, O, I), (L, O, 1), (L, I), jax.vmap(lambda w, x: w @ x)),
    "stored flat": (
        (I, H * D),
        (1, H * D),
        (I,),
        lambda w, x: jnp.einsum("i,ihd->hd", x, w.reshape(I, H, D)),
    ),
    "masked": ((I, O), (1, O), (I,), lambda w, x: x @ (w * np.tri(I, O))),
    "of norm 1": ((O, I), (O, 1), (I,), lambda w, x: (w / jnp.linalg.norm(w, axis=1)[:, None]) @ x),
    "layers, in, out": ((L, I, I), (L, 1, I), (I,), scanned(lambda x, w: x @ w)),
    "layers, out, in": ((L, I, I), (L, I, 1), (I,), scanned(lambda x, w: w @ x)),
    "layers again": ((L, I, I), (L, I, 1), (T, I), scanned(lambda x, w: x @ w.T, remat=True)),
    "over time": ((I, I), (1, I), (T, I), over_time),
    "again": ((I, O), (1, O), (T, I), jax.checkpoint(lambda w, x: jnp.tanh(x @ w))),
    "HWIO": ((2, 3, 2, O), (1, 1, 1, O), (4, 4, 2), conv("HWIO")),
    "OIHW": ((O, 2, 3, 2), (O, 1, 1, 1), (4, 4, 2), conv("OIHW", 2)),
    "rows": ((V, D), (V, 1), (T,), lambda w, x: w[ids(w, x)]),
    "columns": ((D, V), (1, V), (T,), lambda w, x: w[:, ids(w, x)]),
    "tied": ((V, D), (V, 1), (T,), lambda w, x: jnp.tanh(w[ids(w, x)]) @ w.T),
    "single numbers": ((V,), (V,), (T,), lambda w, x: w[ids(w, x)]),
    "vector": ((I,), (I,), (T, I), lambda w, x: x @ w),
    "gain": ((I,), (I,), (T, I), lambda w, x: x * w),
    "scalar": ((), (), (I,), lambda w, x: x * w),
    "derivative": (
        (I, O),
        (1, O),
        (I,),
        lambda w, x: jax.jvp(lambda x: jnp.tanh(x @ w), (x,), (jnp.ones_like(x),))[1],
    ),
}
# The program does not tell: the sums are not pooled, unless the name tells.
UNTOLD = {
    "both ways": ((I, O), (I, O), (I,), lambda w, x: jnp.tanh(x @ w) @ w.T),
    "element by element": ((T, I), (T, I), (T, I), lambda w, x: x * w),
    "in a branch": (
        (I, O),
        (I, O),
        (I,),
        lambda w, x: jax.lax.cond(x[0] > 0, lambda x: x @ w, lambda x: jnp.tanh(x @ w), x),
    ),
    "matrices of a table": ((V, I, O), (V, I, O), (I,), lambda w, x: x @ w[ids(w, x)[0]]),
}
NAMED = {
    "named/both/kernel": ((I, O), (1, O), (I,), UNTOLD["both ways"][3]),
    "named/rows/embedding": ((T, I), (T, 1), (T, I), UNTOLD["element by element"][3]),
    "named/query/kernel": ((T, I, O), (1, I, O), (T, I, O), UNTOLD["element by element"][3]),
    # What the program tells counts, whatever the name says.
    "named/dense/kernel": ((O, I), (O, 1), (I,), lambda w, x: w @ x),
    "named/bias": ((O, I), (O, 1), (I,), lambda w, x: w @ x),
}


def pooled_by_hand(loss, params, batch, shapes):
    """Sums of squared differences of what vmap of grad gives, summed to the ``shapes``."""
    grads = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, batch)

    def one(g, shape):
        squares = ((g - g.mean(0)) ** 2).sum(0)
        axes = tuple(i for i, n in enumerate(shape) if n != squares.shape[i])
        return np.asarray(squares).sum(axis=axes, keepdims=True)

    return [one(np.asarray(g), s) for g, s in zip(jax.tree.leaves(grads), shapes, strict=True)]


def check_units(loss, params, batch, shapes):
    """Both methods and the report have sums of these shapes, and the values are right."""
    with jax.enable_x64(True):
        params, batch = cast(params, jnp.float64), cast(batch, jnp.float64)
        expected = pooled_by_hand(loss, params, batch, shapes)
        factored, by_vmap = (
            snrgate.value_and_moments(loss, method=method, block="unit")
            for method in ("factored", "vmap")
        )
        got = jax.jit(factored)(params, batch)[1].sum_sq_diff
        for (path, g), e in zip(jax.tree.leaves_with_path(got), expected, strict=True):
            assert g.shape == e.shape, path
            atol = 1e-12 * max(1, e.max())
            np.testing.assert_allclose(g, e, rtol=1e-9, atol=atol, err_msg=str(path))
        same = jax.eval_shape(by_vmap, params, batch)[1].sum_sq_diff
        assert [x.shape for x in jax.tree.leaves(same)] == [e.shape for e in expected]
        example = jax.tree.map(lambda x: x[0], batch)
        table = snrgate.explain_moments(loss, params, example, block="unit")
    for line, shape in zip(table.splitlines()[1:], shapes, strict=True):
        assert ("x".join(map(str, shape)) or "scalar") in line.split(), table


@pytest.mark.parametrize("cases", [TOLD, UNTOLD, NAMED], ids=["told", "untold", "named"])
def test_layouts(cases):
    """Every layout in one loss, which is one compilation."""
    names = sorted(cases)
    # Names of one's own, in a list; those that Flax knows where the name is what is tested.
    params = draw(0, {name: cases[name][0] for name in names})
    batch = draw(1, {name: (EXAMPLES, *cases[name][2]) for name in names})

    def read(params, name):
        return params[name] if cases is NAMED else params[names.index(name)]

    def loss(params, example):
        parts = (cases[n][3](read(params, n), example[n]) for n in names)
        return sum(jnp.sum(jnp.sin(part) * (1 + part)) for part in parts)

    if cases is not NAMED:
        params = [params[name] for name in names]
    check_units(loss, params, batch, [cases[name][1] for name in names])


def test_a_derivative_by_the_input_uses_a_kernel_both_ways():
    """What comes back from an inner loss is no delta of the outer one: the kernel is not told."""

    def loss(params, x):
        slope = jax.grad(lambda x: jnp.sum(jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"])))(x)
        return jnp.sum(slope**2)

    params = draw(0, {"a": (I, O), "b": (O, T)})
    check_units(loss, params, draw(1, (EXAMPLES, I)), [(I, O), (O, T)])

    def named(params, x):
        return loss({name: p["kernel"] for name, p in params.items()}, x)

    params = {name: {"kernel": p} for name, p in params.items()}
    check_units(named, params, draw(1, (EXAMPLES, I)), [(1, O), (1, T)])


def test_equinox():
    class Net(eqx.Module):
        linear: eqx.nn.Linear
        conv: eqx.nn.Conv2d
        embedding: eqx.nn.Embedding
        norm: eqx.nn.LayerNorm
        cell: eqx.nn.GRUCell

        def __call__(self, x):
            image = self.conv(jnp.outer(x, x)[None])
            y = self.linear(x) + self.embedding(jnp.argmax(x)) + jnp.mean(image, (1, 2))
            return self.cell(self.norm(y), y)

    keys = jax.random.split(jax.random.key(0), 4)
    net = Net(
        eqx.nn.Linear(I, O, key=keys[0]),
        eqx.nn.Conv2d(1, O, 3, key=keys[1]),
        eqx.nn.Embedding(V, O, key=keys[2]),
        eqx.nn.LayerNorm(O),
        eqx.nn.GRUCell(O, O, key=keys[3]),
    )
    shapes = {
        ".linear.weight": (O, 1),
        ".conv.weight": (O, 1, 1, 1),
        ".embedding.weight": (V, 1),
        ".cell.weight_ih": (3 * O, 1),
        ".cell.weight_hh": (3 * O, 1),
    }
    params, static = eqx.partition(net, eqx.is_inexact_array)
    expected = [
        shapes.get(jax.tree_util.keystr(path), x.shape)
        for path, x in jax.tree.leaves_with_path(params)
    ]

    def loss(params, x):
        return jnp.sum(eqx.combine(params, static)(x) ** 2)

    check_units(loss, params, draw(1, (EXAMPLES, I)), expected)


def test_flax():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = x + nn.MultiHeadDotProductAttention(H, qkv_features=H * D)(nn.LayerNorm()(x))
            return x + nn.Dense(I, use_bias=False)(jnp.tanh(x)), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Embed(V, I, name="embed")(jnp.argsort(x[:, 0]) % V) + x
            layers = nn.scan(
                Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=L
            )
            x, _ = layers(name="layers")(x, None)
            return nn.Conv(O, (2,), name="conv")(x)

    batch = draw(1, (EXAMPLES, T, I))
    net = Net()
    params = net.init(jax.random.key(0), batch[0])["params"]
    shapes = {
        "embed/embedding": (V, 1),
        "conv/kernel": (1, 1, O),
        "Dense_0/kernel": (L, 1, I),
        "query/kernel": (L, 1, H, D),
        "key/kernel": (L, 1, H, D),
        "value/kernel": (L, 1, H, D),
        "out/kernel": (L, 1, 1, I),
    }
    expected = []
    for path, x in jax.tree.leaves_with_path(params):
        name = "/".join(jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-2:])
        bias = name.endswith(("bias", "scale"))
        expected.append(x.shape if bias else shapes[name])

    def loss(params, x):
        return jnp.sum(net.apply({"params": params}, x) ** 2)

    # Biases of scanned layers are matrices (layers, out): nothing is pooled.
    check_units(loss, params, batch, expected)


@pytest.mark.parametrize("method", ["factored", "vmap"])
def test_microbatches_and_devices_have_the_units_of_the_program(method):
    def loss(params, x):
        return jnp.sum(jnp.tanh(params @ x) ** 2)

    params, batch = jnp.asarray(draw(0, (O, I))), jnp.asarray(draw(1, (8, I)))
    (expected,) = pooled_by_hand(loss, params, batch, [(O, 1)])
    ways = {"microbatch_size": 3}, {"axis_name": "data"}
    in_parts, spread = (
        snrgate.value_and_moments(loss, method=method, block="unit", **way) for way in ways
    )
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    mapped = jax.shard_map(
        spread, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec(), check_vma=False
    )
    for grad_fn in (in_parts, mapped):
        got = jax.jit(grad_fn)(params, batch)[1].sum_sq_diff
        assert got.shape == (O, 1)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
