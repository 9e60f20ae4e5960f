"""Mean and noise belong together: whatever comes between them is refused, with the way out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate

PARAMS = {"kernel": jnp.full((3, 2), 0.5), "bias": jnp.zeros(2)}
BATCH = (jnp.ones((8, 3)) * jnp.arange(8.0)[:, None], jnp.ones((8, 2)))


def loss_fn(params, example):
    x, y = example
    return jnp.sum((x @ params["kernel"] + params["bias"] - y) ** 2)


GRAD_FN = snrgate.value_and_moments(loss_fn)


def step(tx, state, change=lambda g: g, lose=False):
    _, moments = GRAD_FN(PARAMS, BATCH)
    extra = {} if lose else moments.extra_args()
    return tx.update(change(moments.mean), state, PARAMS, **extra)


def run(tx, how, **kwargs):
    one = functools.partial(step, tx, **kwargs)
    if how == "jit":
        one = jax.jit(one)
    if how == "scan":
        return jax.lax.scan(lambda s, _: (one(s)[1], None), tx.init(PARAMS), None, length=2)
    return one(tx.init(PARAMS))


@pytest.mark.parametrize("how", ["eager", "jit", "scan"])
@pytest.mark.parametrize(
    "before",
    [optax.clip_by_global_norm(0.1), optax.clip(0.1), optax.scale(0.5)],
    ids=["global norm", "clip", "scale"],
)
def test_what_changes_the_mean_in_front_of_the_gate_is_refused(before, how):
    tx = optax.chain(before, snrgate.adamw(1e-2))
    with pytest.raises(ValueError, match=r"is not the mean .* inside the gate"):
        run(tx, how)


@pytest.mark.parametrize(
    "change", [lambda g: jax.tree.map(lambda x: 2 * x, g), optax.tree.zeros_like]
)
def test_a_mean_changed_by_hand_is_refused(change):
    with pytest.raises(ValueError, match="'bias' is not the mean"):
        run(snrgate.adamw(1e-2), "jit", change=change)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g,
        lambda g: jax.tree.map(lambda x: x.astype(jnp.bfloat16), g),
        lambda g: jax.tree.map(jnp.copy, g),
        lambda g: jax.tree.map(np.asarray, g),
        lambda g: optax.tree.cast(optax.tree.cast(g, jnp.bfloat16), jnp.float32),
    ],
    ids=["itself", "a cast", "a copy", "numpy", "bfloat16 and back"],
)
def test_the_mean_itself_is_not_refused(change):
    run(snrgate.adamw(1e-2), "eager", change=change)


def _place(g):
    sharding = jax.sharding.NamedSharding(jax.make_mesh((1,), ("d",)), jax.sharding.PartitionSpec())
    return jax.lax.with_sharding_constraint(g, sharding)


PASSED_ON = {
    "a cast and back": lambda g: optax.tree.cast(optax.tree.cast(g, jnp.bfloat16), jnp.float32),
    "a copy": lambda g: jax.tree.map(jnp.copy, g),
    "a sharding": _place,
    "a device": lambda g: jax.device_put(g, jax.devices()[0]),
    "a barrier": jax.lax.optimization_barrier,
    "no gradient": jax.lax.stop_gradient,
}


@pytest.mark.parametrize("lose", [False, True])
@pytest.mark.parametrize("how", PASSED_ON)
def test_a_traced_mean_is_followed_through_what_leaves_its_numbers(how, lose):
    gate = snrgate.adamw(1e-2)
    one = functools.partial(step, gate, change=PASSED_ON[how], lose=lose)
    if not lose:
        jax.eval_shape(one, gate.init(PARAMS))
        return
    with pytest.raises(ValueError, match=r"moments.extra_args\(\)"):
        jax.eval_shape(one, gate.init(PARAMS))


def test_wrappers_that_leave_the_mean_alone_are_not_refused():
    gate = snrgate.adamw(1e-2)
    for tx in (
        optax.masked(gate, {"kernel": True, "bias": False}),
        optax.partition({"a": gate, "b": optax.with_extra_args_support(optax.sgd(1.0))},
                        {"kernel": "a", "bias": "b"}),
        optax.apply_if_finite(gate, 3),
        optax.chain(optax.identity(), gate),
        optax.inject_hyperparams(snrgate.adamw)(1e-2),
    ):  # fmt: skip
        run(tx, "jit")
    # Of what was made elsewhere nothing is known.
    _, moments = jax.jit(GRAD_FN)(PARAMS, BATCH)
    jax.jit(gate.update)(moments.mean, gate.init(PARAMS), PARAMS, **moments.extra_args())


@pytest.mark.parametrize("how", ["eager", "jit"])
def test_statistics_that_are_lost_on_the_way_are_missed(how):
    with pytest.raises(ValueError, match=r"moments.extra_args\(\).*noise='streaming'"):
        run(snrgate.adamw(1e-2), how, lose=True)
    run(snrgate.adamw(1e-2, noise="streaming"), how, lose=True)
    with pytest.raises(ValueError, match=r"moments.extra_args\(\)"):
        run(snrgate.adamw(1e-2, noise="exact"), how, lose=True)
    with pytest.raises(ValueError, match=r"moments.extra_args\(\)"):
        run(snrgate.adamw(1e-2, dataset_size=100), how, lose=True)


@pytest.mark.parametrize("noise", ["auto", "exact"])
def test_wrappers_that_swallow_extra_arguments_are_named(noise):
    gate = snrgate.adamw(1e-2, noise=noise)
    swallow = optax.with_extra_args_support(optax.contrib.split_real_and_imaginary(gate))
    with pytest.raises(ValueError, match="does not hand"):
        run(swallow, "jit")
    params = optax.LookaheadParams.init_synced(PARAMS)
    tx = optax.with_extra_args_support(optax.lookahead(gate, 5, 0.5))
    _, moments = GRAD_FN(PARAMS, BATCH)
    with pytest.raises(ValueError, match="lookahead, which takes no gate around it"):
        tx.update(moments.mean, tx.init(params), params, **moments.extra_args())
    # What the error names works: streaming noise within.
    tx = optax.lookahead(snrgate.adamw(1e-2, noise="streaming"), 5, 0.5)
    tx.update(moments.mean, tx.init(params), params)


def test_multi_steps_that_is_given_no_statistics_is_seen_to_lose_them():
    """A chain drops the extra arguments of MultiSteps, whose mean is a new one."""
    tx = optax.chain(optax.MultiSteps(snrgate.adamw(1e-2), 2))
    with pytest.raises(ValueError, match="MultiSteps in a chain"):
        jax.eval_shape(functools.partial(step, tx), tx.init(PARAMS))
    tx = optax.chain(optax.MultiSteps(snrgate.adamw(1e-2, noise="streaming"), 2))
    jax.eval_shape(functools.partial(step, tx), tx.init(PARAMS))


def test_flatten_inside_keeps_the_gates_own_momentum_and_outside_is_refused():
    plain, state = run(snrgate.snr_gate(optax.scale_by_adam()), "jit")
    inside, flat = run(snrgate.snr_gate(optax.flatten(optax.scale_by_adam())), "jit")
    assert state.momentum == ()
    np.testing.assert_allclose(flat.signal["kernel"], state.signal["kernel"], rtol=1e-5)
    np.testing.assert_allclose(inside["kernel"], plain["kernel"], rtol=1e-4)
    with pytest.raises(ValueError, match="sum_sq_diff_grads does not have the tree structure"):
        run(optax.with_extra_args_support(optax.flatten(snrgate.adamw(1e-2))), "jit")


def test_a_state_of_numpy_arrays_goes_on():
    """As a checkpoint gives it back."""
    tx = snrgate.adamw(1e-2)
    _, state = run(tx, "jit")
    updates, _ = jax.jit(functools.partial(step, tx))(state)
    again, _ = step(tx, jax.tree.map(np.asarray, state))
    np.testing.assert_allclose(updates["kernel"], again["kernel"], rtol=1e-5)


# ---- states of other gates -----------------------------------------------------------------


OTHER_BLOCKS = ["parameter", "tensor", lambda path, shape: (1,) if len(shape) == 2 else ()]


@pytest.mark.parametrize("other", OTHER_BLOCKS)
def test_a_state_of_another_block_is_refused(other):
    _, state = run(snrgate.snr_gate(optax.identity()), "jit")
    for do in (lambda f: f, jax.jit):
        tx = snrgate.snr_gate(optax.identity(), block=other)
        with pytest.raises(ValueError, match=r"holds the noise of '.*in the shapes .*block="):
            do(functools.partial(step, tx))(state)


@pytest.mark.parametrize(
    ("made", "used"),
    [({"z": 1.0}, {"alpha": 1.0}), ({"noise": "instantaneous"}, {}), ({"alpha": 1.0}, {"z": 1.0})],
)
def test_a_state_of_another_threshold_is_refused(made, used):
    _, state = run(snrgate.snr_gate(optax.scale_by_adam(), **made), "jit")
    with pytest.raises(ValueError, match="it was made by a gate with another"):
        step(snrgate.snr_gate(optax.scale_by_adam(), **used), state)
