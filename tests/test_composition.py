"""The gate inside everything that people put optax transformations into."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate

OPTIMIZERS = {
    "adamw": functools.partial(snrgate.adamw, 1e-2),
    "adamw streaming, algorithm 1": functools.partial(
        snrgate.adamw,
        1e-2,
        noise="streaming",
        block="parameter",
        alpha=1.0,
        gate_weight_decay=False,
    ),
    "adam tensor snr": functools.partial(snrgate.adam, 1e-2, block="tensor", gate="snr"),
    "sgd, own momentum": lambda: snrgate.snr_gate(optax.sgd(1e-2), gate="hard"),
    "lion": lambda: optax.chain(
        snrgate.snr_gate(optax.scale_by_lion()), optax.scale_by_learning_rate(1e-3)
    ),
    "muon": lambda: snrgate.snr_gate(optax.contrib.muon(1e-3)),
    "kernels": functools.partial(snrgate.adamw, 1e-2, block="kronecker"),
    "soap": functools.partial(snrgate.soap, 1e-2),
    "from_per_example": lambda: snrgate.from_per_example(snrgate.adamw(1e-2)),
}
PARAMS = {"kernel": jnp.full((3, 2), 0.5, jnp.float32), "bias": jnp.zeros(2)}


def loss_fn(params, example):
    x, y = example
    return jnp.sum((x @ params["kernel"] + params["bias"] - y) ** 2)


def batches(steps=4, b=8):
    k = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(k[0], (steps, b, 3))
    y = jnp.stack([x[..., 0] - x[..., 1], 2 * x[..., 2]], -1)
    return x, y + 0.3 * jax.random.normal(k[1], y.shape)


GRAD_FN = snrgate.value_and_moments(loss_fn, method="vmap", block="parameter")
BY_SIDES = snrgate.value_and_moments(loss_fn, method="vmap", block="kronecker")


def step(tx, carry, batch, **extra):
    params, state = carry
    grads, statistics, loss = gradients(tx, params, batch)
    updates, state = tx.update(grads, state, params, **statistics, **extra)
    return (optax.apply_updates(params, updates), state), loss


def gradients(tx, params, batch):
    """What ``tx.update`` takes: a mean and its statistics, or one gradient an example."""
    views = optax.tree.get(jax.eval_shape(tx.init, params), "views", ())
    loss, moments = (GRAD_FN if views == () else BY_SIDES)(params, batch)
    if "from_per_example" in tx.update.__qualname__:
        return jax.vmap(jax.grad(loss_fn), (None, 0))(params, batch), {}, loss
    return moments.mean, moments.extra_args(), loss


def train(tx, params=PARAMS, *, compiled=True, **extra):
    """The plain loop that everything else is compared with."""
    one = functools.partial(step, tx, **extra)
    one = jax.jit(one) if compiled else one
    carry = (params, tx.init(params))
    for batch in zip(*batches(), strict=True):
        carry, _ = one(carry, batch)
    return carry


@pytest.fixture(params=OPTIMIZERS, name="tx")
def _tx(request):
    return OPTIMIZERS[request.param]()


def test_unknown_extra_arguments_are_passed_by(tx):
    chex.assert_trees_all_close(train(tx, value=1.0, nobody_expects=2), train(tx))


def test_jit_scan_vmap_and_cond_give_the_eager_numbers(tx):
    expected = train(tx, compiled=False)
    carry = (PARAMS, tx.init(PARAMS))
    close = functools.partial(chex.assert_trees_all_close, rtol=2e-4, atol=1e-5)

    jitted = jax.jit(functools.partial(step, tx))
    now = carry
    for batch in zip(*batches(), strict=True):
        now, _ = jitted(now, batch)
    close(now, expected)

    ensemble = jax.tree.map(lambda x: jnp.stack([x, x]), carry)
    both, _ = jax.lax.scan(
        jax.vmap(functools.partial(step, tx), in_axes=(0, None)), ensemble, batches()
    )
    close(jax.tree.map(lambda x: x[1], both), expected)

    def conditional(carry, xs):
        on, batch = xs
        return jax.lax.cond(on, lambda: step(tx, carry, batch)[0], lambda: carry), None

    # A scan of every other step is the scan too.
    on = jnp.array([True, False] * 4)
    doubled = jax.tree.map(lambda x: jnp.repeat(x, 2, 0), batches())
    close(jax.lax.scan(conditional, carry, (on, doubled))[0], expected)


def test_second_call_does_not_compile_again(tx):
    update = jax.jit(functools.partial(step, tx))
    carry = (PARAMS, jax.jit(tx.init)(PARAMS))
    one = jax.tree.map(lambda x: x[0], batches())
    carry, _ = update(carry, one)
    for _ in range(3):
        carry, _ = update(carry, one)
    assert update._cache_size() == 1


def test_state_keeps_structure_shapes_and_dtypes(tx):
    before = tx.init(PARAMS)
    _, after = train(tx)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, jax.eval_shape(tx.init, PARAMS))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_updates_keep_the_dtype_of_the_parameters(tx, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    state = tx.init(params)
    batch = jax.tree.map(lambda x: x[0].astype(dtype), batches())
    grads, statistics, _ = gradients(tx, params, batch)
    grads = jax.tree.map(lambda m: m.astype(dtype), grads)
    updates, state = jax.jit(tx.update)(grads, state, params, **statistics)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    gates = optax.tree.get(state, "SnrGateState")
    assert {n.dtype for n in jax.tree.leaves((gates.noise, gates.momentum))} == {
        jnp.dtype(jnp.float32)
    }


def test_tree_map_params_reaches_noise_and_momentum(tx):
    state = tx.init(PARAMS)
    marked = optax.tree.map_params(tx, lambda x: x + 7, state)
    noise = optax.tree.get(marked, "SnrGateState").noise
    assert all(jnp.all(x == 7) for x in jax.tree.leaves(noise))
    assert optax.tree.get(marked, "SnrGateState").count == 0


def test_masked_and_partition_gate_what_they_select():
    everything = train(snrgate.adamw(1e-2, weight_decay=0.0))[0]
    plain = train(optax.with_extra_args_support(optax.adam(1e-2)))[0]
    labels = {"kernel": "gated", "bias": "plain"}
    partition = optax.partition(
        {"gated": snrgate.adamw(1e-2, weight_decay=0.0), "plain": optax.adam(1e-2)}, labels
    )

    def one_step(tx, carry):
        one = functools.partial(step, tx, batch=jax.tree.map(lambda x: x[0], batches()))
        return jax.jit(one)(carry)

    for tx in (
        partition,
        optax.chain(
            optax.masked(snrgate.adamw(1e-2, weight_decay=0.0), {"kernel": True, "bias": False}),
            optax.masked(optax.adam(1e-2), {"kernel": False, "bias": True}),
        ),
    ):
        got = one_step(tx, (PARAMS, tx.init(PARAMS)))[0][0]
        gated = snrgate.adamw(1e-2, weight_decay=0.0)
        expected = one_step(gated, (PARAMS, gated.init(PARAMS)))[0][0]
        ungated = optax.with_extra_args_support(optax.adam(1e-2))
        open_ = one_step(ungated, (PARAMS, ungated.init(PARAMS)))[0][0]
        np.testing.assert_allclose(got["kernel"], expected["kernel"], rtol=1e-5)
        np.testing.assert_allclose(got["bias"], open_["bias"], rtol=1e-5)
    assert not np.allclose(everything["bias"], plain["bias"])


def test_inject_hyperparams_and_schedules():
    fixed = train(snrgate.adamw(1e-2, z=1.5, noise_decay=0.9, dataset_size=100))
    injected = optax.inject_hyperparams(snrgate.adamw)(
        1e-2, z=1.5, noise_decay=0.9, dataset_size=100
    )
    params, state = train(injected)
    chex.assert_trees_all_close(params, fixed[0], rtol=1e-5)
    jitted, _ = jax.lax.scan(
        functools.partial(step, injected), (PARAMS, injected.init(PARAMS)), batches()
    )
    chex.assert_trees_all_close(jitted[0], fixed[0], rtol=1e-5)
    assert state.hyperparams["z"] == 1.5

    # A memory that is an array has its place in the state, whatever it is at first; an infinite
    # size may be one too.
    for values in ({"signal_decay": 0.0}, {"dataset_size": math.inf}):
        given = {"dataset_size": 100, **values}
        fixed_too = train(snrgate.adamw(1e-2, **given))[0]
        by_injection = train(optax.inject_hyperparams(snrgate.adamw)(1e-2, **given))[0]
        chex.assert_trees_all_close(by_injection, fixed_too, rtol=1e-5)
    memory = optax.piecewise_constant_schedule(0.5, {3: 0.0})
    train(optax.inject_hyperparams(snrgate.adamw)(1e-2, signal_decay=memory))

    schedule = optax.linear_schedule(1e-2, 0.0, 4)
    by_schedule = train(snrgate.adamw(schedule))[0]
    by_injection = train(optax.inject_hyperparams(snrgate.adamw)(schedule))[0]
    chex.assert_trees_all_close(by_schedule, by_injection, rtol=1e-5, atol=1e-7)
    # A threshold may follow a schedule too: 0 at first (everything passes), then 1.
    opening = optax.inject_hyperparams(snrgate.adamw)(
        1e-2, alpha=optax.piecewise_constant_schedule(0.0, {3: 1.0}), gate="hard"
    )
    assert optax.tree.get(train(opening)[1], "gate_fraction") == 1


FACTORIES = {
    "adamw": (snrgate.adamw, {"learning_rate": 1e-2, "weight_decay": 0.1}),
    "adam": (snrgate.adam, {"learning_rate": 1e-2, "b1": 0.8}),
    "soap": (snrgate.soap, {"learning_rate": 1e-2, "b1": 0.8, "weight_decay": 0.1}),
    "snr_gate": (snrgate.snr_gate, {"inner": optax.scale_by_lion(), "z": 1.2}),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", FACTORIES)
def test_every_factory_under_inject_hyperparams(name, dtype):
    """Numbers that were rounded to 16 bits on the way are the defaults again."""
    make, settings = FACTORIES[name]
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    plain, state = train(make(**settings), params)
    injected, other = train(optax.inject_hyperparams(make)(**settings), params)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    chex.assert_trees_all_close(injected, plain, rtol=tolerance, atol=tolerance)
    fractions = [optax.tree.get(s, "gate_fraction") for s in (state, other)]
    np.testing.assert_allclose(*fractions, rtol=tolerance)
    assert all(jnp.any(p != q) for p, q in zip(*map(jax.tree.leaves, (plain, params)), strict=True))


def test_a_number_that_rounds_out_of_range_is_refused_with_the_way_out():
    params = {"w": jnp.zeros(3, jnp.bfloat16)}
    tx = optax.inject_hyperparams(snrgate.adamw)(1e-2, noise_decay=0.9999)
    with pytest.raises(ValueError, match=r"came as bfloat16.*hyperparam_dtype"):
        tx.init(params)


class _Module(dict):
    """A tree of flags that can be called, as a module of Equinox or Flax can."""

    def __call__(self, x):
        raise AssertionError("a mask is not to be called where it is a tree")


jax.tree_util.register_pytree_node(
    _Module,
    lambda m: (list(m.values()), tuple(m)),
    lambda keys, values: _Module(zip(keys, values, strict=True)),
)


def test_a_module_of_flags_is_a_tree_and_not_a_function():
    params = _Module(kernel=jnp.ones((3, 2)), bias=jnp.zeros(2))
    flags = _Module(kernel=True, bias=False)
    tx = snrgate.adamw(1e-2, mask=flags, gate_mask=flags)
    state = tx.init(params)
    assert optax.tree.get(state, "gate_fractions").shape == (2,)
    tx.update(params, state, params)
    snrgate.adam(1e-2, mask=flags).init(params)


def test_the_inner_transformation_sees_nothing_but_the_users_tree():
    """A mask or a schedule may read shapes, a line search may call the loss."""
    seen = []

    def look(tree):
        seen.append([jnp.shape(x) for x in jax.tree.leaves(tree)])
        return {"kernel": tree["kernel"].shape[1] == 2, "bias": False}

    def value_fn(params):
        return jnp.sum(jnp.square(params["kernel"])) + jnp.sum(jnp.square(params["bias"]))

    inner = optax.chain(
        optax.scale_by_adam(b1=0.8),
        optax.add_decayed_weights(0.1, look),
        optax.scale_by_backtracking_linesearch(5),
    )
    tx = snrgate.snr_gate(inner)
    grads = jax.grad(value_fn)(PARAMS)
    given = {"value": value_fn(PARAMS), "grad": grads, "value_fn": value_fn}
    _, state = jax.jit(lambda state: tx.update(grads, state, PARAMS, **given))(tx.init(PARAMS))
    assert {tuple(map(tuple, shapes)) for shapes in seen} == {((2,), (3, 2))}
    assert float(state.momentum_decay) == pytest.approx(0.8, abs=1e-6)
    lbfgs = snrgate.snr_gate(optax.lbfgs())
    jax.jit(lambda state: lbfgs.update(grads, state, PARAMS, **given))(lbfgs.init(PARAMS))


def test_python_numbers_and_empty_tensors_are_parameters():
    tx = snrgate.adam(1e-2)
    updates, _ = tx.update(1.0, tx.init(3.0), 3.0)
    assert jnp.shape(updates) == ()
    params = {"kernel": jnp.ones((3, 2)), "none": jnp.ones((4, 0))}
    tx = snrgate.adamw(1e-2)
    _, state = tx.update(params, tx.init(params), params, sample_size=4,
                         sum_sq_diff_grads=params)  # fmt: skip
    assert float(optax.tree.get(state, "gate_fraction")) > 0


def test_a_gate_rule_may_be_a_function():
    def half(signal, noise, threshold, softness):
        return 0.5 * (signal > threshold * noise)

    hard = train(snrgate.adamw(1e-2, gate="hard", weight_decay=0.0))[1]
    own = train(snrgate.adamw(1e-2, gate=half, weight_decay=0.0))[1]
    fractions = [optax.tree.get(state, "gate_fraction") for state in (hard, own)]
    assert fractions[0] == 2 * fractions[1] > 0


@pytest.mark.parametrize("learning_rate", [1e-2, 1e-1])
def test_a_noiseless_problem_is_solved_at_the_speed_of_adam(learning_rate):
    """Rosenbrock's valley, with streaming noise: what the default promises."""

    def rosenbrock(p):
        return (1 - p["w"][0]) ** 2 + 100 * (p["w"][1] - p["w"][0] ** 2) ** 2

    def steps_to(tx, loss=1e-4, most=20_000):
        def cond(carry):
            params, _, t = carry
            return (rosenbrock(params) > loss) & (t < most)

        def body(carry):
            params, state, t = carry
            updates, state = tx.update(jax.grad(rosenbrock)(params), state, params)
            return optax.apply_updates(params, updates), state, t + 1

        start = {"w": jnp.array([-1.0, 1.0])}
        return int(jax.lax.while_loop(cond, body, (start, tx.init(start), 0))[2])

    adam, gated = (steps_to(make(learning_rate)) for make in (optax.adam, snrgate.adam))
    assert adam < 10_000
    assert gated < 3 * adam


def test_apply_if_finite_leaves_the_state_unharmed():
    tx = optax.apply_if_finite(snrgate.adamw(1e-2), max_consecutive_errors=5)
    carry = train(tx)
    bad = jax.tree.map(lambda x: jnp.full_like(x[0], jnp.nan), batches())
    (params, state), _ = step(tx, carry, bad)
    chex.assert_trees_all_equal(params, carry[0])
    chex.assert_trees_all_equal(state.inner_state, carry[1].inner_state)
    assert state.total_notfinite == 1


def test_multi_steps_works_with_streaming_noise():
    tx = optax.MultiSteps(snrgate.adamw(1e-2, noise="streaming"), every_k_schedule=2)
    whole = snrgate.adamw(1e-2, noise="streaming")
    x, y = batches()
    by_halves, by_batches = (jax.jit(functools.partial(step, t)) for t in (tx, whole))
    carry, expected = (PARAMS, tx.init(PARAMS)), (PARAMS, whole.init(PARAMS))
    for i in range(4):
        for half in (slice(0, 4), slice(4, 8)):
            carry, _ = by_halves(carry, (x[i, half], y[i, half]))
        expected, _ = by_batches(expected, (x[i], y[i]))
    chex.assert_trees_all_close(carry[0], expected[0], rtol=1e-4)


@pytest.mark.parametrize("jit", [False, True])
def test_multi_steps_with_exact_noise_is_refused(jit):
    for inner in (snrgate.adamw(1e-2), optax.chain(optax.clip(1.0), snrgate.adamw(1e-2))):
        tx = optax.MultiSteps(inner, every_k_schedule=2)
        run = functools.partial(step, tx)
        with pytest.raises(ValueError, match="microbatch_size"):
            (jax.jit(run) if jit else run)(
                (PARAMS, tx.init(PARAMS)), jax.tree.map(lambda x: x[0], batches())
            )


def test_microbatches_inside_value_and_moments_are_the_way_out():
    tx = snrgate.adamw(1e-2)
    carry = (PARAMS, tx.init(PARAMS))
    micro = snrgate.value_and_moments(loss_fn, microbatch_size=3)

    @jax.jit
    def micro_step(params, state, batch):
        _, moments = micro(params, batch)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state

    for batch in zip(*batches(), strict=True):
        carry = micro_step(*carry, batch)
    chex.assert_trees_all_close(carry[0], train(tx)[0], rtol=1e-4)


@pytest.mark.parametrize("block", ["unit", "kronecker", "tensor", "parameter"])
def test_a_tensor_without_numbers_takes_a_step(block):
    params = {"kernel": jnp.zeros((0, 3)), "w": jnp.ones((2, 3))}
    grad_fn = snrgate.value_and_moments(lambda p, x: jnp.sum(p["w"] @ x), block=block)
    _, moments = grad_fn(params, jnp.arange(12.0).reshape(4, 3))
    tx = snrgate.adamw(1e-2, block=block)
    updates, _ = tx.update(moments.mean, tx.init(params), params, **moments.extra_args())
    assert updates["kernel"].shape == (0, 3)
    assert np.all(np.isfinite(updates["w"]))


def test_what_may_be_fitted_does_not_depend_on_the_other_parameters():
    """A bias has the same update beside a kernel as alone, where nothing may be fitted."""
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(20, 16, 5)).astype(np.float32)

    def end(**settings):
        tx = snrgate.adam(1e-2, block="kronecker", dataset_size=32, **settings)
        params, total = {"bias": jnp.zeros(5)}, 0.0
        state = tx.init(params)
        for g in grads:
            sums = {"bias": jnp.asarray(np.square(g - g.mean(0)).sum(0))}
            updates, state = tx.update(
                {"bias": jnp.asarray(g.mean(0))},
                state,
                params,
                sum_sq_diff_grads=sums,
                sample_size=16,
            )
            total += updates["bias"]
        return total

    np.testing.assert_array_equal(end(), end(fitted=0.0))
    assert not np.array_equal(end(), end(fitted=0.2))


def test_empty_and_odd_trees():
    tx = snrgate.adamw(1e-2)
    _, state = tx.update({}, tx.init({}), {})
    assert state[0].gate_fraction == 1
    scalar = jnp.array(1.0)
    for noise in ({}, {"sum_sq_diff_grads": jnp.array(2.0), "sample_size": 4}):
        updates, _ = tx.update(jnp.array(0.5), tx.init(scalar), scalar, **noise)
        assert updates.shape == ()


def test_a_parabola_converges():
    target = jnp.array([1.0, -1.0, 1.0])
    tx = snrgate.adam(optax.exponential_decay(0.3, 100, 0.5))

    def body(carry, key):
        params, state = carry
        noise = 0.1 * jax.random.normal(key, (16, 3))
        grads = (params - target)[None] + noise
        mean = grads.mean(0)
        updates, state = tx.update(
            mean, state, params,
            sum_sq_diff_grads=jnp.sum((grads - mean[None]) ** 2, 0), sample_size=16,
        )  # fmt: skip
        return (optax.apply_updates(params, updates), state), None

    start = jnp.array([-1.0, 10.0, 1.0])
    keys = jax.random.split(jax.random.key(0), 1000)
    (params, _), _ = jax.lax.scan(body, (start, tx.init(start)), keys)
    np.testing.assert_allclose(params, target, atol=0.02)


@pytest.mark.parametrize(
    "mask", [{"kernel": True, "bias": False}, lambda p: {"kernel": True, "bias": False}]
)
def test_a_weight_decay_mask_inside_the_gate(mask):
    tx = snrgate.adamw(1e-2, mask=mask, weight_decay=0.1, gate_weight_decay=True, alpha=0.0)
    expected = optax.with_extra_args_support(optax.adamw(1e-2, mask=mask, weight_decay=0.1))
    chex.assert_trees_all_close(train(tx)[0], train(expected)[0], rtol=1e-5)


def test_an_inner_transformation_may_need_extra_arguments():
    inner = optax.chain(optax.scale_by_adam(), optax.contrib.reduce_on_plateau())
    params, _ = train(snrgate.snr_gate(inner), value=jnp.array(1.0))
    assert all(jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(params))


@pytest.mark.parametrize("noise", ["exact", "streaming"])
def test_a_16_bit_model_trains_in_a_scan(tx, noise):
    """The moments are float32; the state keeps the dtypes that it began with."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), batches())

    def body(carry, batch):
        params, state = carry
        grads, extra, _ = gradients(tx, params, batch)
        if noise == "streaming" and extra:
            of_batch = jax.vmap(loss_fn, (None, 0))
            grads, extra = jax.grad(lambda p: jnp.mean(of_batch(p, batch)))(params), {}
        updates, state = tx.update(grads, state, params, **extra)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(body, (params, tx.init(params)), inputs)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("noise", ["exact", "instantaneous"])
def test_overflowing_statistics_sit_out_one_step(noise):
    tx = snrgate.adamw(1e-2, weight_decay=0.0, noise=noise, gate="hard", alpha=1e-3)
    params, state = train(tx)
    grads = jax.tree.map(jnp.ones_like, params)
    none, inf = (jax.tree.map(lambda p, x=x: jnp.full_like(p, x), params) for x in (0, jnp.inf))
    updates, after = tx.update(grads, state, params, sum_sq_diff_grads=inf, sample_size=8)
    assert not any(jnp.any(u) for u in jax.tree.leaves(updates))
    before = optax.tree.get(state, "SnrGateState").noise
    chex.assert_trees_all_equal(optax.tree.get(after, "SnrGateState").noise, before)
    updates, _ = tx.update(grads, after, params, sum_sq_diff_grads=none, sample_size=8)
    assert all(jnp.all(u != 0) for u in jax.tree.leaves(updates))


def test_a_wrong_data_set_size_is_refused_under_jit_too():
    tx = snrgate.adamw(1e-2, dataset_size=2)
    one = jax.tree.map(lambda x: x[0], batches())
    with pytest.raises(ValueError, match=r"sample_size=8.*more than dataset_size=2"):
        jax.jit(functools.partial(step, tx))((PARAMS, tx.init(PARAMS)), one)
