"""What the moments cost beside a plain gradient, by the compiler's own count.

The compiler counts the body of a loop once. With four examples every loop over them has a single
turn, so there its count is exact; the memory is that of a whole batch.
"""

import jax
import jax.numpy as jnp
import pytest
import workloads
from jax.extend import core

import snrgate

BLOCKS = ("unit", "parameter")


@pytest.fixture(autouse=True)
def models_broadcast():
    """Models may add a bias to a sequence."""
    with jax.numpy_rank_promotion("allow"):
        yield


def costs(grad_fn, work):
    compiled = jax.jit(grad_fn).lower(work.params, work.batch).compile()
    return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes


def ratios(work):
    """FLOPs and temporary memory of each block's moments, as ratios to a plain gradient's."""

    def mean(params, batch):
        return jnp.mean(jax.vmap(work.loss, (None, 0))(params, batch))

    plain = costs(jax.value_and_grad(mean), work)
    exact = [costs(snrgate.value_and_moments(work.loss, block=b), work) for b in BLOCKS]
    return [tuple(a / b for a, b in zip(of_block, plain, strict=True)) for of_block in exact]


# A little above what is measured: FLOPs, then memory, each of a unit and of a parameter. One layer
# of a transformer costs what each of its layers does.
LIMITS = {
    "coordinate": ({}, {}, (1.02, 1.36), (1.05, 1.40)),
    "pinn": ({}, {}, (1.05, 1.53), (1.40, 1.70)),
    "grokking": ({"depth": 1}, {"batch_size": 4}, (1.00, 1.30), (1.05, 1.15)),
    "gpt": ({"depth": 1}, {"batch_size": 4}, (1.05, 1.05), (1.05, 1.05)),
}


@pytest.mark.parametrize("name", LIMITS)
def test_moments_cost_little_more_than_a_gradient(name):
    sizes, counted, flops_limits, memory_limits = LIMITS[name]
    make = workloads.WORKLOADS[name]
    flops, memory = zip(*ratios(make(**sizes)), strict=True)
    if counted:
        flops, _ = zip(*ratios(make(**sizes, **counted)), strict=True)
    for i, block in enumerate(BLOCKS):
        assert flops[i] <= flops_limits[i], block
        assert memory[i] <= memory_limits[i], block


def equations(jaxpr):
    nested = (e for eqn in jaxpr.eqns for e in core.jaxprs_in_params(eqn.params))
    return len(jaxpr.eqns) + sum(map(equations, nested))


@pytest.mark.parametrize(("block", "limit"), [("unit", 3.3), ("parameter", 3.0)])
def test_a_layer_adds_few_equations_to_compile(block, limit):
    def loss(params, x):
        for layer in params:
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        return jnp.sum(x**2)

    def mean(params, batch):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, batch))

    def of_a_layer(grad_fn):
        params = [{"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}] * 6
        more, fewer = (
            equations(jax.make_jaxpr(grad_fn)(p, jnp.ones((8, 4))).jaxpr)
            for p in (params, params[:4])
        )
        return more - fewer

    plain, exact = map(
        of_a_layer, (jax.value_and_grad(mean), snrgate.value_and_moments(loss, block=block))
    )
    assert exact <= limit * plain, (exact, plain)
