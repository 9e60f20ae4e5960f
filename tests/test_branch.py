"""A state that changes seldom: not copied in between, and differentiated as by a condition."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate.branch import where_due


def changed(flag, factor, state):
    """A state of two arrays, changed by a number from outside where a flag is set."""

    def change(old):
        return {"x": factor * old["x"] ** 2, "count": old["count"] + 1, "rate": jnp.float32(0.9)}

    return where_due(flag, change, state)


def selected(flag, factor, state):
    """The same by a selection."""
    new = {"x": factor * state["x"] ** 2, "count": state["count"] + 1, "rate": jnp.float32(0.9)}
    return optax.tree.where(flag, new, state)


STATE = {"x": jnp.arange(1.0, 4.0), "count": jnp.zeros((), jnp.int32), "rate": jnp.float32(0.8)}


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jitted"])
def test_the_state_changes_where_the_flag_is_set(flag, wrap):
    found = wrap(changed)(jnp.array(flag), 3.0, STATE)
    chex.assert_trees_all_close(found, selected(jnp.array(flag), 3.0, STATE))


def test_runs_that_are_mapped_over_change_as_their_own_flags_say():
    flags, factors = jnp.array([True, False, True]), jnp.array([1.0, 2.0, 3.0])
    states = jax.tree.map(lambda x: jnp.stack([x, x + 1, x + 2]), STATE)
    found = jax.jit(jax.vmap(changed))(flags, factors, states)
    chex.assert_trees_all_close(found, jax.vmap(selected)(flags, factors, states))


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_derivatives_are_those_of_the_branch_that_is_taken(flag, mode):
    def of(function, x, factor):
        return function(jnp.array(flag), factor, STATE | {"x": x})["x"]

    for argument in (0, 1):
        found, wanted = (
            jax.jit(mode(functools.partial(of, f), argument))(STATE["x"], 3.0)
            for f in (changed, selected)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_a_gate_remembers_is_not_copied_where_nothing_is_measured():
    size = 128

    def loss(params, example):
        return jnp.sum(jnp.square(jnp.tanh(example[0] @ params["kernel"]) - example[1]))

    tx = snrgate.adamw(1e-3, block="kronecker")
    grad_fn = snrgate.value_and_moments(loss, block="kronecker")

    def step(carried, _):
        params, state = carried
        measure = snrgate.measures_next(state)
        _, moments = grad_fn(params, (jnp.ones((4, size)),) * 2, measure=measure)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return (optax.apply_updates(params, updates), state), None

    params = {"kernel": jnp.eye(size)}
    steps = jax.jit(lambda carried: jax.lax.scan(step, carried, length=4)[0], donate_argnums=0)
    program = steps.lower((params, tx.init(params))).compile()
    # In sizes of the kernel: 15.1, of which the sums of a measurement take most. The results of a
    # condition would be another three.
    assert program.memory_analysis().temp_size_in_bytes < 16.5 * params["kernel"].nbytes


def test_a_learning_rate_can_be_learned_through_a_gate_that_measures_seldom():
    x, y = (jax.random.normal(jax.random.key(k), (16, n)) for k, n in ((0, 3), (1, 2)))

    def loss(params, example):
        return jnp.sum(jnp.square(example[0] @ params["kernel"] - example[1]))

    def last(learning_rate):
        tx = snrgate.adamw(learning_rate, block="kronecker")
        grad_fn = snrgate.value_and_moments(loss, block="kronecker")

        def step(carried, _):
            params, state = carried
            value, moments = grad_fn(params, (x, y))
            updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
            return (optax.apply_updates(params, updates), state), value

        params = {"kernel": jnp.full((3, 2), 0.1)}
        return jax.lax.scan(step, (params, tx.init(params)), length=4)[1][-1]

    at = jax.jit(last)
    wanted = (at(0.101) - at(0.099)) / 0.002
    np.testing.assert_allclose(jax.grad(last)(0.1), wanted, rtol=1e-2)
    np.testing.assert_allclose(jax.jvp(last, (0.1,), (1.0,))[1], wanted, rtol=1e-2)
