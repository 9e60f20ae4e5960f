"""A kernel that is a function of parameters: its parameters keep the cost of a plain kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_factored import BATCH, check, draw, models_broadcast  # noqa: F401

import snrgate

M, N = 6, 4
MASK = np.arange(M * N).reshape(M, N) % 3 > 0
KERNELS = {
    "scaled outputs": ({"v": (M, N), "g": (N,)}, lambda p: p["v"] * p["g"]),
    "scaled inputs": ({"v": (M, N), "g": (M,)}, lambda p: p["g"][:, None] * p["v"]),
    "scaled both": (
        {"v": (M, N), "g": (N,), "h": (M, 1)},
        lambda p: jnp.exp(p["g"]) * p["v"] / jnp.cosh(p["h"]),
    ),
    "one scale": ({"v": (M, N), "g": ()}, lambda p: p["v"] * p["g"]),
    "weight norm": (
        {"v": (M, N), "g": (N,)},
        lambda p: p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0),
    ),
    "weight norm of inputs": (
        {"v": (M, N), "g": (M, 1)},
        lambda p: p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=1, keepdims=True),
    ),
    "weight norm of all": (
        {"v": (M, N), "g": ()},
        lambda p: p["g"] * p["v"] / jnp.linalg.norm(p["v"]),
    ),
    "mask": ({"v": (M, N)}, lambda p: p["v"] * MASK),
    "where": ({"v": (M, N)}, lambda p: jnp.where(MASK, p["v"], 0)),
    "positive": ({"v": (M, N)}, lambda p: jax.nn.softplus(p["v"])),
    "merged": (
        {"w": (M, N), "a": (M, 2), "b": (2, N)},
        lambda p: p["w"] + 0.5 * p["a"] @ p["b"],
    ),
    "rank one": ({"a": (M, 1), "b": (1, N)}, lambda p: p["a"] @ p["b"]),
    "three": (
        {"a": (M, 3), "b": (3, 5), "c": (N, 5)},
        lambda p: p["a"] @ p["b"] @ p["c"].T,
    ),
    "pieces": (
        {"a": (M, 1), "b": (M, N - 1), "c": (M + 2, N)},
        lambda p: jnp.concatenate([p["a"], p["b"]], axis=1) + p["c"][1:-1],
    ),
    "strided": ({"v": (2 * M, N)}, lambda p: p["v"][::2] - p["v"][1::2]),
    "copies": ({"v": (M, 2)}, lambda p: jnp.concatenate([p["v"], p["v"]], axis=1)),
    "barriers": (
        {"v": (M, N)},
        lambda p: jax.lax.reduce_precision(jax.lax.optimization_barrier(p["v"]), 11, 52),
    ),
    "penalised": ({"v": (M, N), "g": (N,)}, lambda p: p["v"] * p["g"]),
}
SQUARE = {
    "symmetric": ({"v": (M, M)}, lambda p: 0.5 * (p["v"] + p["v"].T)),
    "skew": ({"v": (M, M)}, lambda p: p["v"] - p["v"].T),
    "triangle": ({"v": (M, M)}, lambda p: jnp.tril(p["v"]) + jnp.eye(M)),
}
ALL = KERNELS | SQUARE


def loss_of(names):
    def loss(params, example):
        total = 0.0
        for name in names:
            kernel = ALL[name][1](params[name])
            total += jnp.sum(jnp.tanh(example @ kernel) ** 2)
            if name == "penalised":
                total += 0.1 * jnp.sum(kernel**2)
        return total

    return loss


@pytest.mark.parametrize(("uses", "block"), [(1, "unit"), (2, "parameter"), (9, "unit")])
def test_parameters_of_a_kernel(uses, block):
    params = draw(3, {name: shapes for name, (shapes, _) in ALL.items()})
    batch = draw(4, (BATCH, uses, M) if uses > 1 else (BATCH, M))
    check(loss_of(ALL), params, batch, block, weights=np.array([1.0, 1, 0, 2, 1, 1]))


def test_they_are_products_not_gradients():
    params = draw(3, {name: shapes for name, (shapes, _) in ALL.items()})
    table = snrgate.explain_moments(loss_of(ALL), params, np.ones(M), block="parameter")
    assert "whole" not in table, table


def test_a_constraint_on_where_a_kernel_lies_is_walked_through():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None))

    def loss(params, x):
        return jnp.sum(jnp.tanh(x @ jax.lax.with_sharding_constraint(params, everywhere)) ** 2)

    kernel, batch = draw(5, (M, N)), draw(4, (BATCH, M))
    check(loss, kernel, batch)
    table = snrgate.explain_moments(loss, kernel, batch[0], block="parameter")
    assert "single" in table, table


def test_a_parameter_with_nothing_in_it_changes_nothing_for_the_others():
    def loss(params, x):
        return jnp.sum(jnp.tanh(x @ params["w"]) ** 2) + jnp.sum(params["nothing"] ** 2)

    params, batch = draw(5, {"w": (M, N), "nothing": (0, N)}), draw(4, (BATCH, M))
    for block in ("parameter", "unit"):
        check(loss, params, batch, block)
    table = snrgate.explain_moments(loss, params, batch[0], block="parameter")
    assert "whole" not in table, table
    wide = {"w": jnp.ones((64, 64)), "nothing": jnp.ones((0, 64))}
    _, memory = ratios(loss, wide, jnp.ones((256, 64)), "parameter")
    assert memory < 4  # not a kernel an example


def ratios(loss, params, batch, block):
    """FLOPs and temporary memory of the moments, as ratios to those of a plain gradient."""

    def plain(params, batch):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    costs = []
    for grad_fn in (jax.value_and_grad(plain), snrgate.value_and_moments(loss, block=block)):
        done = jax.jit(grad_fn).lower(params, batch).compile()
        memory = done.memory_analysis()
        bytes_ = memory.temp_size_in_bytes + memory.output_size_in_bytes
        costs.append((done.cost_analysis()["flops"], bytes_))
    return [b / a for a, b in zip(*costs, strict=True)]


# A little above what is counted: each product is half of the two of a plain gradient by parameters.
LIMITS = {
    "scaled outputs": {"unit": 1.55, "parameter": 2.05},
    "weight norm": {"unit": 2.1, "parameter": 2.6},
    "mask": {"unit": 1.55, "parameter": 1.55},
    "merged": {"unit": 1.1, "parameter": 1.6},
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_kernel_of_parameters_costs_a_few_products(name, monkeypatch):
    monkeypatch.setitem(globals(), "MASK", np.tri(256))
    wide = {M: 256, N: 256, 2: 8}
    shapes = {k: tuple(wide[n] for n in shape) for k, shape in ALL[name][0].items()}
    params, batch = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), (draw(3, {name: shapes}), draw(4, (256, 256)))
    )
    for block, limit in LIMITS[name].items():
        flops, memory = ratios(loss_of([name]), params, batch, block)
        assert flops < limit, block
        assert memory < 4, block  # not a kernel an example
