"""A mesh over batch and parameters: the same moments; the state lies where its parameters do."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from communication import collectives
from flax import linen
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import snrgate

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
SIZES = (8, 16, 8, 4)
KEYS = jax.random.split(jax.random.key(0), 5)
PARAMS = [
    {"kernel": jax.random.normal(key, (m, n)) / m**0.5, "bias": jnp.zeros(n)}
    for key, m, n in zip(KEYS, SIZES, SIZES[1:], strict=False)
]
BATCH = (jax.random.normal(KEYS[3], (32, 8)), 1 + jax.random.normal(KEYS[4], (32, 4)))

REPLICATED = [{"kernel": P(), "bias": P()}] * 3
SHARDED_OVER_DATA = [{"kernel": P("data"), "bias": P("data")}] * 3
# A column-parallel layer, and a row-parallel one behind it.
TENSOR_PARALLEL = [
    {"kernel": P(None, "model"), "bias": P("model")},
    {"kernel": P("model", None), "bias": P()},
    {"kernel": P(), "bias": P()},
]
BOTH = [
    {"kernel": P("data", "model"), "bias": P("model")},
    {"kernel": P("model", "data"), "bias": P("data")},
    {"kernel": P("data"), "bias": P()},
]
LAYOUTS = {
    "replicated": REPLICATED,
    "sharded over data": SHARDED_OVER_DATA,
    "tensor parallel": TENSOR_PARALLEL,
    "both": BOTH,
}
KINDS = {
    "auto": (AUTO, AUTO),
    "explicit": (EXPLICIT, EXPLICIT),
    "explicit data, auto model": (EXPLICIT, AUTO),
}


def loss_fn(params, example, *, out_sharding=None):
    """Three layers; with explicit axes the row-parallel product must say how its sum lies."""
    x, y = example
    first, second, last = params
    x = jnp.tanh(x @ first["kernel"] + first["bias"])
    x = jnp.tanh(jnp.dot(x, second["kernel"], out_sharding=out_sharding) + second["bias"])
    return jnp.sum((x @ last["kernel"] + last["bias"] - y) ** 2)


def put(tree, mesh, specs):
    place = functools.partial(jax.tree.map, lambda s: NamedSharding(mesh, s))
    return jax.device_put(tree, place(specs, is_leaf=lambda s: isinstance(s, P)))


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=KINDS[kind])


def loss_on(kind):
    return functools.partial(loss_fn, out_sharding=P(None)) if kind == "explicit" else loss_fn


@functools.cache
def expected(block):
    grad_fn = snrgate.value_and_moments(loss_fn, method="vmap", block=block)
    return jax.jit(grad_fn)(PARAMS, BATCH)


def assert_same(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * (1 + np.abs(b).max()))


@pytest.mark.parametrize(
    ("method", "block", "layout"),
    [("vmap", "parameter", "both"), *(("factored", "unit", layout) for layout in LAYOUTS)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_moments(kind, layout, method, block):
    mesh = mesh_of(kind)
    grad_fn = snrgate.value_and_moments(loss_on(kind), method=method, block=block)
    with jax.set_mesh(mesh):
        got = jax.jit(grad_fn)(put(PARAMS, mesh, LAYOUTS[layout]), put(BATCH, mesh, P("data")))
    assert_same(got, expected(block))


@pytest.mark.parametrize(
    ("method", "block", "microbatch_size"), [("factored", "parameter", None), ("vmap", "unit", 3)]
)
def test_explicit_batches_with_padding_and_auxiliary_output(method, block, microbatch_size):
    weights = np.array([1, 1, 0, 2] * 8, np.float32)
    how = {"block": block, "has_aux": True}

    def with_aux(params, example):
        return loss_fn(params, example), example[0].sum()

    mesh = jax.make_mesh((8,), ("data",))
    assert mesh.axis_types == (EXPLICIT,)  # what JAX makes if it is not told otherwise
    run = snrgate.value_and_moments(with_aux, method=method, microbatch_size=microbatch_size, **how)
    got = jax.jit(run)(put(PARAMS, mesh, P()), put(BATCH, mesh, P("data")), weights=weights)
    plain = jax.jit(snrgate.value_and_moments(with_aux, method="vmap", **how))
    assert_same(got, plain(PARAMS, BATCH, weights=weights))
    assert jax.typeof(got[0][1]).sharding.spec == P("data")


def test_explicit_batches_without_jit_or_a_mesh_in_context():
    mesh = jax.make_mesh((8,), ("data",))
    x = np.arange(16, dtype=np.float32)
    grad_fn = snrgate.value_and_moments(lambda w, x: w * x, method="vmap", block="parameter")
    weights = np.array([1, 0] * 8, np.float32)  # on the host
    _, moments = grad_fn(put(jnp.ones(()), mesh, P()), put(x, mesh, P("data")), weights=weights)
    np.testing.assert_allclose(moments.mean, x[::2].mean(), rtol=1e-6)
    np.testing.assert_allclose(moments.sum_sq_diff, x[::2].var() * 8, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, np.array([1, 1, 0, 2] * 8, np.float32)])
@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
def test_an_explicit_model_axis_needs_no_mesh_in_context(compiled, weights):
    mesh = mesh_of("explicit")

    def column_parallel(params, example):
        (first, *_), (x, y) = params, example
        return jnp.sum((jnp.tanh(x @ first["kernel"] + first["bias"]) - y[0]) ** 2)

    grad_fn = snrgate.value_and_moments(column_parallel, block="kronecker")
    run = jax.jit(grad_fn) if compiled else grad_fn
    params, batch = put(PARAMS, mesh, TENSOR_PARALLEL), put(BATCH, mesh, P("data"))
    got = run(params[:1], batch, weights=weights)
    assert_same(got, grad_fn(PARAMS[:1], BATCH, weights=weights))


@pytest.mark.parametrize("in_context", [True, False])
def test_a_loop_that_begins_with_a_constant_runs_on_explicit_batches(in_context):
    """As every recurrent network has one."""
    rnn = linen.RNN(linen.GRUCell(3))
    x = jax.random.normal(KEYS[3], (8, 5, 3))
    params = rnn.init(jax.random.key(0), x[0])
    grad_fn = snrgate.value_and_moments(lambda p, x: jnp.sum(rnn.apply(p, x) ** 2))
    mesh = jax.make_mesh((8,), ("data",))
    spread = put(x, mesh, P("data"))
    with jax.set_mesh(mesh) if in_context else contextlib.nullcontext():
        got = jax.jit(grad_fn)(params, spread)
    assert_same(got, jax.jit(grad_fn)(params, x))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_over_data_alone_leaves_the_model_axis_to_the_compiler(check_vma):
    mesh = mesh_of("auto")
    grad_fn = snrgate.value_and_moments(loss_fn, axis_name="data", block="parameter")
    run = jax.shard_map(
        lambda params, batch: grad_fn(params, batch),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
        check_vma=check_vma,
    )
    got = jax.jit(run)(put(PARAMS, mesh, TENSOR_PARALLEL), put(BATCH, mesh, P("data")))
    assert_same(got, expected("parameter"))


GATED = {
    "a unit": (snrgate.adamw(1e-2), "unit"),
    "a parameter": (snrgate.adamw(1e-2, block="parameter"), "parameter"),
    "own momentum": (snrgate.snr_gate(optax.sgd(1e-2, momentum=0.9)), "unit"),
}

CASES = [
    *((name, "both") for name in GATED),
    ("a unit", "sharded over data"),
    ("a parameter", "tensor parallel"),
]


def gated_step(tx, block, params, state, batch):
    _, moments = snrgate.value_and_moments(loss_fn, block=block)(params, batch)
    updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
    return optax.apply_updates(params, updates), state


def plain_step(tx, params, state, batch):
    grads = jax.grad(lambda p: jnp.mean(jax.vmap(loss_fn, (None, 0))(p, batch)))(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def assert_lies_like_its_parameter(state, mesh, specs):
    """Momentum, second moment and noise are sharded as the parameters, less what is pooled."""
    trees = [
        tree for key in ("mu", "nu", "noise", "momentum", "trace") for tree in every(state, key)
    ]
    assert len(trees) >= 3
    specs = jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, P))
    for tree in trees:
        for x, p, spec in zip(jax.tree.leaves(tree), jax.tree.leaves(PARAMS), specs, strict=True):
            spec = (*spec, *(None,) * (p.ndim - len(spec)))
            pooled = [n == 1 and m != 1 for n, m in zip(x.shape, p.shape, strict=True)]
            wanted = P(*(None if off else e for off, e in zip(pooled, spec, strict=True)))
            assert x.sharding.is_equivalent_to(NamedSharding(mesh, wanted), x.ndim)


def every(state, key):
    return [x for _, x in optax.tree.get_all_with_path(state, key) if jax.tree.leaves(x)]


@pytest.mark.parametrize(("name", "layout"), CASES)
@pytest.mark.parametrize("kind", ["auto", "explicit data, auto model"])
def test_the_state_lies_where_its_parameters_do(kind, layout, name):
    mesh, (tx, block) = mesh_of(kind), GATED[name]
    step = jax.jit(functools.partial(gated_step, tx, block))
    params, batch = put(PARAMS, mesh, LAYOUTS[layout]), put(BATCH, mesh, P("data"))
    with jax.set_mesh(mesh):
        state = tx.init(params)
        assert_lies_like_its_parameter(state, mesh, LAYOUTS[layout])
        params, state = step(params, state, batch)
    assert_lies_like_its_parameter(state, mesh, LAYOUTS[layout])
    wanted, _ = step(PARAMS, tx.init(PARAMS), BATCH)
    assert_same(params, wanted)


def test_state_made_under_jit_is_sharded_by_explicit_axes():
    mesh = mesh_of("explicit")
    with jax.set_mesh(mesh):
        state = jax.jit(snrgate.adamw(1e-2).init)(put(PARAMS, mesh, BOTH))
    assert_lies_like_its_parameter(state, mesh, BOTH)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_no_matrix_is_gathered_that_plain_training_does_not_gather(layout, name):
    mesh, (tx, block) = mesh_of("auto"), GATED[name]
    params, batch = put(PARAMS, mesh, LAYOUTS[layout]), put(BATCH, mesh, P("data"))

    def gathered(step, tx):
        program = jax.jit(step).lower(params, tx.init(params), batch).compile().as_text()
        found = [c for c in collectives(program) if c.kind == "all-gather"]
        return sorted(shape for c in found for shape in c.shapes if len(shape) > 1)

    plain = optax.adamw(1e-2)
    needed = gathered(functools.partial(plain_step, plain), plain)
    assert gathered(functools.partial(gated_step, tx, block), tx) == needed
