"""The transformation against NumPy loops in float64, written down from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate

SHAPE = (4, 3)
B1, B2, EPS, RHO = 0.9, 0.99, 1e-8, 0.95


def gradients(steps, b=6, seed=0):
    """Per-example gradients with signal in the first column and none in the others."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(SHAPE)
    signal[:, 0] = 1.0
    return signal + rng.normal(size=(steps, b, *SHAPE))


def moments_args(g):
    return {
        "sum_sq_diff_grads": {"w": jnp.asarray(len(g) * g.var(0))},
        "sample_size": jnp.asarray(float(len(g))),
    }


def run(tx, gs, w0, *, exact):
    """Parameters after every step, driven through jit."""
    update = jax.jit(tx.update)
    params = {"w": jnp.asarray(w0)}
    state = tx.init(params)
    path = []
    for g in gs:
        grads = {"w": jnp.asarray(g.mean(0))}
        updates, state = update(grads, state, params, **(moments_args(g) if exact else {}))
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params["w"]))
    return np.stack(path), state


def soft_gate(signal_sq, noise, alpha, lam):
    d = np.maximum(signal_sq - alpha * noise, 0)
    return np.divide(d, d + lam * noise, out=np.zeros_like(d), where=d > 0)


NUMPY_GATES = {
    # A tie is shut, whatever rounding makes of it: the first streaming step always is one.
    "hard": lambda m2, s, alpha, lam: (m2 > alpha * s * (1 + 1e-14)).astype(float),
    "soft": soft_gate,
    "snr": lambda m2, s, alpha, lam: m2 / (m2 + lam * s),
}


@pytest.mark.parametrize("gate", NUMPY_GATES)
@pytest.mark.parametrize(("alpha", "lam"), [(1.0, 1.0), (0.1, 0.5)])
def test_algorithm_1_step_for_step(gate, alpha, lam):
    gs = gradients(50)
    lr, wd = 1e-2, 0.1
    w0 = np.random.default_rng(1).normal(size=SHAPE)

    w, m, v, s = w0.copy(), np.zeros(SHAPE), np.zeros(SHAPE), np.zeros(SHAPE)
    expected = []
    for t, batch in enumerate(gs, start=1):
        g = batch.mean(0)
        s = RHO * s + (1 - RHO) * (g - m) ** 2
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        mh, vh, sh = m / (1 - B1**t), v / (1 - B2**t), s / (1 - RHO**t)
        q = NUMPY_GATES[gate](mh**2, sh, alpha, lam)
        w = w - lr * q * mh / (np.sqrt(vh) + EPS) - lr * wd * w
        expected.append(w)

    with jax.enable_x64(True):
        tx = snrgate.adamw(
            lr, B1, B2, EPS, weight_decay=wd,
            gate=gate, alpha=alpha, softness=lam,
            noise="streaming", noise_decay=RHO, block="parameter", gate_weight_decay=False,
        )  # fmt: skip
        got, _ = run(tx, gs, w0, exact=False)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert not np.allclose(got[-1], w0, atol=1e-2)


def averaged_exact(gs, w0, lr, axes, threshold, gate="soft", floor=0.0):
    """Adam behind the gate with averaged exact noise, pooled over ``axes``."""
    w, m, v, s = w0.copy(), np.zeros(SHAPE), np.zeros(SHAPE), 0.0
    for t, batch in enumerate(gs, start=1):
        g, b = batch.mean(0), len(batch)
        noise = batch.var(0) / (b - 1)
        s = RHO * s + (1 - RHO) * noise.sum(axes, keepdims=True)
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        mh, vh, sh = m / (1 - B1**t), v / (1 - B2**t), s / (1 - RHO**t)
        alpha = threshold(t)
        q = NUMPY_GATES[gate]((mh**2).sum(axes, keepdims=True), sh, alpha, alpha)
        q = floor + (1 - floor) * q
        w = w - lr * q * mh / (np.sqrt(vh) + EPS)
        yield w, q


@pytest.mark.parametrize(("block", "axes"), [("parameter", ()), ("unit", (0,)), ("tensor", (0, 1))])
@pytest.mark.parametrize("given", ["alpha", "z", "neither", "dataset_size"])
def test_averaged_exact_noise_step_for_step(block, axes, given):
    gs = gradients(30)
    w0 = np.random.default_rng(1).normal(size=SHAPE)
    n, b = 50, gs.shape[1]

    def level(t, share=0.0):
        weights = B1 ** np.arange(t) * (1 - B1) / (1 - B1**t)
        return share + (1 - share) * np.sum(weights**2)

    threshold, kwargs = {
        "alpha": (lambda t: 0.3, {"alpha": 0.3}),
        "z": (lambda t: 4 * level(t), {"z": 2.0}),
        "neither": (level, {}),
        "dataset_size": (lambda t: level(t, b / n), {"dataset_size": n}),
    }[given]
    expected = [w for w, _ in averaged_exact(gs, w0, 1e-2, axes, threshold)]
    with jax.enable_x64(True):
        tx = snrgate.adam(1e-2, B1, B2, EPS, noise_decay=RHO, block=block, **kwargs)
        got, _ = run(tx, gs, w0, exact=True)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gate", NUMPY_GATES)
def test_a_floor_keeps_the_gate_open_that_far(gate):
    gs = gradients(30)
    w0 = np.random.default_rng(1).normal(size=SHAPE)
    expected = averaged_exact(gs, w0, 1e-2, (0,), lambda t: 0.9, gate, floor=0.25)
    steps, gates = zip(*expected, strict=True)
    assert min(q.min() for q in gates) < 0.5  # the floor matters
    with jax.enable_x64(True):
        tx = snrgate.adam(1e-2, B1, B2, EPS, noise_decay=RHO, gate=gate, alpha=0.9, floor=0.25)
        got, state = run(tx, gs, w0, exact=True)
    np.testing.assert_allclose(got, steps, rtol=1e-9, atol=1e-10)
    fraction = optax.tree.get(state, "gate_fraction")
    np.testing.assert_allclose(fraction, np.mean(gates[-1]), rtol=1e-6)


def test_pooled_sums_from_outside_equal_pooling_inside():
    gs = gradients(10)
    w0 = np.zeros(SHAPE)
    tx = snrgate.adam(1e-2, noise="exact", block="unit")
    inside, _ = run(tx, gs, w0, exact=True)
    params = {"w": jnp.asarray(w0)}
    state = tx.init(params)
    for g in gs:
        args = moments_args(g)
        args["sum_sq_diff_grads"]["w"] = args["sum_sq_diff_grads"]["w"].sum(0, keepdims=True)
        updates, state = tx.update({"w": jnp.asarray(g.mean(0))}, state, params, **args)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], inside[-1], rtol=1e-5)


def test_instantaneous_noise_is_the_papers_rule_on_this_batch():
    gs = gradients(5)
    w0 = np.zeros(SHAPE)
    tx = snrgate.adam(1e-2, noise="instantaneous", gate="hard", block="parameter")
    got, state = run(tx, gs, w0, exact=True)
    plain, _ = run(optax.with_extra_args_support(optax.adam(1e-2)), gs, w0, exact=True)
    moved = np.diff(np.concatenate([w0[None], got]), axis=0)
    step = np.diff(np.concatenate([w0[None], plain]), axis=0)
    keep = gs.mean(1) ** 2 > gs.var(1) / (gs.shape[1] - 1)
    np.testing.assert_allclose(moved, np.where(keep, step, 0), atol=1e-6)
    assert 0 < keep.mean() < 1
    assert jax.tree.leaves(optax.tree.get(state, "noise")) == []


def test_auto_takes_the_noise_it_is_given():
    gs, w0 = gradients(10), np.zeros(SHAPE)
    for exact, noise in ((True, "exact"), (False, "streaming")):
        auto, _ = run(snrgate.adam(1e-2), gs, w0, exact=exact)
        named, _ = run(snrgate.adam(1e-2, noise=noise), gs, w0, exact=exact)
        np.testing.assert_array_equal(auto, named)
    # streaming on request, although the exact noise is there
    named, _ = run(snrgate.adam(1e-2, noise="streaming"), gs, w0, exact=True)
    np.testing.assert_array_equal(auto, named)


def test_gate_opens_on_signal_and_stays_shut_on_noise():
    gs = gradients(200, b=16)
    tx = snrgate.snr_gate(optax.scale_by_adam())
    state = tx.init({"w": jnp.zeros(SHAPE)})
    update, total = jax.jit(tx.update), 0.0
    for g in gs:
        updates, state = update({"w": jnp.asarray(g.mean(0))}, state, None, **moments_args(g))
        total = total + np.abs(updates["w"])
    per_unit = total.mean(0)
    assert per_unit[0] > 100  # signal: nearly Adam's step of 1 every time
    assert np.all(per_unit[1:] < 0.2 * per_unit[0])


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scale_of_the_loss_changes_no_gate(scale):
    gs, w0 = gradients(20), np.zeros(SHAPE)
    # A power of two near the scale: then not even rounding may differ.
    factor = 2.0 ** np.round(np.log2(scale))
    for noise, exact in (("exact", True), ("streaming", False), ("instantaneous", True)):
        tx = snrgate.snr_gate(optax.scale_by_sign(), noise=noise, gate="soft")
        _, one = run(tx, gs.astype(np.float32), w0, exact=exact)
        _, other = run(tx, (gs * factor).astype(np.float32), w0, exact=exact)
        assert one.gate_fraction == other.gate_fraction


# ---- where the momentum comes from ---------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "decay"),
    [
        (optax.scale_by_adam(b1=0.8), 0.8),
        (optax.scale_by_adam(b1=0.8, mu_dtype="bfloat16"), 0.8),
        (optax.scale_by_lion(b2=0.97), 0.97),
        (optax.adamw(1e-3, b1=0.7), 0.7),
        (optax.chain(optax.scale_by_adam(b1=0.6), optax.scale(2.0)), 0.6),
    ],
)
def test_an_inner_momentum_is_shared_at_its_own_decay(inner, decay):
    params = {"w": jnp.zeros(SHAPE)}
    state = snrgate.snr_gate(inner).init(params)
    assert state.momentum == ()
    from snrgate.momentum import measured_decay

    measured = measured_decay(optax.with_extra_args_support(inner), params)
    assert float(measured) == pytest.approx(decay, abs=1e-3)


@pytest.mark.parametrize(
    "inner",
    [
        optax.identity(),
        optax.trace(0.9),
        optax.scale_by_rms(),
        # The momentum behind clipping is not in the units of the noise.
        optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam()),
    ],
)
def test_otherwise_the_gate_keeps_its_own(inner):
    gs, w0 = gradients(20), np.zeros(SHAPE)
    tx = snrgate.snr_gate(inner, b1=0.5, block="parameter")
    _, state = run(tx, gs, w0, exact=True)
    m = np.zeros(SHAPE)
    for g in gs:
        m = 0.5 * m + 0.5 * g.mean(0)
    np.testing.assert_allclose(state.momentum["w"], m, rtol=1e-5)


def test_own_and_shared_momentum_gate_alike():
    gs, w0 = gradients(20), np.zeros(SHAPE)
    shared, _ = run(snrgate.snr_gate(optax.scale_by_adam()), gs, w0, exact=True)
    hidden = optax.chain(optax.identity(), optax.scale_by_adam())
    own, _ = run(snrgate.snr_gate(hidden, b1=0.9), gs, w0, exact=True)
    np.testing.assert_allclose(shared, own, rtol=1e-5, atol=1e-6)


def test_clipping_inside_is_right_where_outside_is_not():
    """The noise belongs to the unclipped gradient; so must the signal."""
    gs, w0 = 100 * gradients(50), np.zeros(SHAPE)
    clip = optax.clip_by_global_norm(1.0)
    inside = snrgate.snr_gate(optax.chain(clip, optax.scale_by_adam()))
    plain = snrgate.snr_gate(optax.scale_by_adam())
    _, with_clip = run(inside, gs, w0, exact=True)
    _, without = run(plain, gs, w0, exact=True)
    assert float(with_clip.gate_fraction) == pytest.approx(float(without.gate_fraction), rel=1e-5)


# ---- state ---------------------------------------------------------------------------------


def count_numbers(tree):
    return sum(x.size for x in jax.tree.leaves(tree) if x.ndim)


def test_adam_with_the_gate_holds_one_vector_more():
    params = {"kernel": jnp.zeros((50, 20)), "bias": jnp.zeros(20)}
    size = count_numbers(params)
    adam = count_numbers(optax.adam(1e-3).init(params))
    leaves = len(params)  # one gate fraction each
    assert adam == 2 * size
    per_parameter = count_numbers(snrgate.adam(1e-3, block="parameter").init(params))
    assert per_parameter - adam == size + leaves
    per_unit = count_numbers(snrgate.adam(1e-3, block="unit").init(params))
    assert per_unit - adam == 20 + 20 + leaves
    per_tensor = count_numbers(snrgate.adam(1e-3, block="tensor").init(params))
    assert per_tensor - adam == 1 + 1 + leaves
    none = count_numbers(snrgate.adam(1e-3, noise="instantaneous").init(params))
    assert none - adam == leaves


def test_state_is_read_by_name():
    gs, w0 = gradients(3), np.zeros(SHAPE)
    _, state = run(snrgate.adamw(1e-2), gs, w0, exact=True)
    assert 0 <= float(optax.tree.get(state, "gate_fraction")) <= 1
    assert optax.tree.get(state, "noise")["w"].dtype == jnp.float32
    assert optax.tree.get(state, "SnrGateState").count == 3


def test_gate_fraction_is_the_mean_over_parameters():
    params = {"big": jnp.zeros((90,)), "small": jnp.zeros((10,))}
    grads = {"big": jnp.zeros((90,)), "small": jnp.ones((10,))}
    ssd = {"big": jnp.ones((90,)), "small": jnp.zeros((10,))}
    tx = snrgate.snr_gate(optax.identity(), gate="hard", block="parameter")
    _, state = tx.update(grads, tx.init(params), params, sum_sq_diff_grads=ssd, sample_size=4)
    assert float(state.gate_fraction) == pytest.approx(0.1)
    np.testing.assert_array_equal(state.gate_fractions, [0, 1])


def test_warmup_leaves_the_gate_open_for_its_steps():
    gs, w0 = gradients(6), np.zeros(SHAPE)
    tx = snrgate.adam(1e-2, gate="hard", alpha=1e9, block="parameter", warmup_steps=4)
    got, _ = run(tx, gs, w0, exact=True)
    plain, _ = run(optax.with_extra_args_support(optax.adam(1e-2)), gs, w0, exact=True)
    np.testing.assert_allclose(got[:4], plain[:4], rtol=1e-6)
    np.testing.assert_array_equal(got[4:], np.broadcast_to(got[3], got[4:].shape))


@pytest.mark.parametrize("gate_weight_decay", [False, True])
def test_weight_decay_is_gated_unless_told_otherwise(gate_weight_decay):
    gs, w0 = gradients(5), np.ones(SHAPE)
    tx = snrgate.adamw(
        0.1, weight_decay=0.5, gate="hard", alpha=1e9, gate_weight_decay=gate_weight_decay
    )
    got, _ = run(tx, gs, w0, exact=True)
    expected = 1.0 if gate_weight_decay else (1 - 0.1 * 0.5) ** 5
    np.testing.assert_allclose(got[-1], expected, rtol=1e-5)


@pytest.mark.parametrize("mask", [{"w": True, "b": False}, lambda p: {"w": True, "b": False}])
def test_mask_leaves_a_parameter_ungated(mask):
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = snrgate.snr_gate(optax.identity(), gate="hard", alpha=1e9, mask=mask)
    state = tx.init(params)
    assert isinstance(state.noise["b"], optax.MaskedNode)
    updates, state = tx.update(grads, state, params, sum_sq_diff_grads=params, sample_size=4)
    np.testing.assert_array_equal(updates["w"], 0)
    np.testing.assert_array_equal(updates["b"], 1)
    assert state.gate_fraction == 0
    np.testing.assert_array_equal(state.gate_fractions, [1, 0])


# ---- the other doors -----------------------------------------------------------------------


def test_per_example_gradients_are_the_same_door():
    gs, w0 = gradients(10), np.zeros(SHAPE)
    direct, _ = run(snrgate.adamw(1e-2), gs, w0, exact=True)
    tx = snrgate.from_per_example(snrgate.adamw(1e-2))
    params = {"w": jnp.asarray(w0)}
    state = tx.init(params)
    for g in gs:
        updates, state = jax.jit(tx.update)({"w": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], direct[-1], rtol=1e-5)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_optax_aggregating_drives_the_gate(accumulation_steps):
    from optax.experimental import aggregating

    gs, w0 = gradients(12, b=8), np.zeros(SHAPE)
    direct, _ = run(snrgate.adamw(1e-2), gs, w0, exact=True)
    tx = aggregating.process(
        optax.identity(),
        aggregating.get_per_element_mean_and_sum_sq_diff_grads(
            accumulation_steps=accumulation_steps
        ),
        snrgate.adamw(1e-2),
        aggregator_has_aux=True,
    )
    params = {"w": jnp.asarray(w0)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in gs:
        for part in np.split(g, accumulation_steps):
            updates, state = update({"w": jnp.asarray(part)}, state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], direct[-1], rtol=1e-4, atol=1e-6)
