"""The transformation against NumPy loops in float64, written down from the formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import snrgate

SHAPE = (4, 3)
B1, B2, EPS, RHO, RHO_SIGNAL = 0.9, 0.99, 1e-8, 0.95, 0.9


def gradients(steps, b=6, seed=0):
    """Per-example gradients with signal in the first column and none in the others."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(SHAPE)
    signal[:, 0] = 1.0
    return signal + rng.normal(size=(steps, b, *SHAPE))


def moments_args(g):
    return {
        "sum_sq_diff_grads": {"kernel": jnp.asarray(len(g) * g.var(0))},
        "sample_size": jnp.asarray(float(len(g))),
    }


def run(tx, gs, w0, *, exact):
    """Parameters after every step, driven through jit."""
    update = jax.jit(tx.update)
    params = {"kernel": jnp.asarray(w0)}
    state = tx.init(params)
    path = []
    for g in gs:
        grads = {"kernel": jnp.asarray(g.mean(0))}
        updates, state = update(grads, state, params, **(moments_args(g) if exact else {}))
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params["kernel"]))
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


def averaged_exact(gs, w0, lr, axes, threshold, gate="soft", floor=0.0, *, unit=None, lam=None):
    """Adam behind the gate with averaged exact noise, pooled over ``axes``.

    With ``unit`` the squared signal is taken in its units and averaged like the noise. ``unit``,
    ``threshold`` and ``lam`` (by default the threshold) are functions of the step.
    """
    w, m, v, s, signal = w0.copy(), np.zeros(SHAPE), np.zeros(SHAPE), 0.0, 0.0
    for t, batch in enumerate(gs, start=1):
        g, b = batch.mean(0), len(batch)
        noise = batch.var(0) / (b - 1)
        s = RHO * s + (1 - RHO) * noise.sum(axes, keepdims=True)
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        mh, vh, sh = m / (1 - B1**t), v / (1 - B2**t), s / (1 - RHO**t)
        now = (mh**2).sum(axes, keepdims=True)
        if unit is not None:
            signal = RHO_SIGNAL * signal + (1 - RHO_SIGNAL) * now / unit(t)
            now = signal / (1 - RHO_SIGNAL**t)
        q = NUMPY_GATES[gate](now, sh, threshold(t), (lam or threshold)(t))
        q = floor + (1 - floor) * q
        w = w - lr * q * mh / (np.sqrt(vh) + EPS)
        yield w, q


def variance_of_momentum(t):
    """Of a bias-corrected momentum, from its weights."""
    weights = B1 ** np.arange(t) * (1 - B1) / (1 - B1**t)
    return np.sum(weights**2)


# A data set of 50 examples, of which a batch shows 6; what is left of its own noise unfitted.
SHARE, LEFT = 6 / 50, (1 - 0.3) ** 2


def null(t):
    return SHARE + (1 - SHARE) * variance_of_momentum(t)


STEP_FOR_STEP = {
    "alpha": ({"alpha": 0.3}, None, lambda t: 0.3, None),
    "z": ({"z": 1.2}, variance_of_momentum, lambda t: 1.44, None),
    "neither": ({}, variance_of_momentum, lambda t: 1.0, None),
    "fresh": ({"dataset_size": math.inf}, variance_of_momentum, lambda t: 1.0, lambda t: 0.0),
    "finite": (
        {"dataset_size": 50, "fitted": 0.3, "z": 1.2},
        null,
        lambda t: 1.44 * (SHARE * LEFT + (1 - SHARE) * variance_of_momentum(t)) / null(t),
        lambda t: 1.44 * SHARE * LEFT / null(t),
    ),
}
"""What the gate is told; the unit of the signal, threshold and softness, by step."""


@pytest.mark.parametrize(
    ("gate", "block", "axes"),
    [
        *((gate, "unit", (0,)) for gate in NUMPY_GATES),
        ("soft", "parameter", ()),
        ("soft", "tensor", (0, 1)),
    ],
)
@pytest.mark.parametrize("given", STEP_FOR_STEP)
def test_averaged_exact_noise_step_for_step(gate, block, axes, given):
    gs = gradients(30)
    w0 = np.random.default_rng(1).normal(size=SHAPE)
    kwargs, unit, threshold, lam = STEP_FOR_STEP[given]
    lam = None if gate == "snr" else lam
    memory = {} if unit is None else {"signal_decay": RHO_SIGNAL}
    expected = averaged_exact(gs, w0, 1e-2, axes, threshold, gate, unit=unit, lam=lam)
    with jax.enable_x64(True):
        tx = snrgate.adam(
            1e-2, B1, B2, EPS, gate=gate, noise_decay=RHO, block=block, **memory, **kwargs
        )
        got, _ = run(tx, gs, w0, exact=True)
    np.testing.assert_allclose(got, [w for w, _ in expected], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("signal", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("noise", ["exact", "streaming"])
def test_what_gets_through_is_the_populations_share_of_the_training_gradient(signal, noise):
    """Sixty examples that come back: the gradient of all of them has noise of 1 / 60 a parameter.

    3,000 parameters share a gate, so that share is known to about 2 %; with nothing fitted, it is
    what the soft gate is to be, however much single batches differ. Where nobody knows that they
    come back, all that differs from batch to batch is held back.
    """
    rng = np.random.default_rng(5)
    n, b, size, steps = 60, 12, 3000, 400
    examples = signal + rng.normal(size=(n, size)).astype(np.float32)
    told = snrgate.snr_gate(optax.scale_by_adam(), noise=noise, dataset_size=n, fitted=0.0)
    not_told = snrgate.snr_gate(optax.scale_by_adam(), noise=noise)
    fractions = []
    for tx in (told, not_told):
        batches = (examples[rng.choice(n, b, replace=False)][..., None] for _ in range(steps))
        _, state = run(tx, batches, np.zeros((size, 1)), exact=True)
        fractions.append(float(state.gate_fraction))
    assert fractions[0] == pytest.approx(signal**2 / (signal**2 + 1 / n), abs=0.05)
    # A mean of b of n examples varies by (n - b) / (n - 1) / b around that of all of them.
    kappa = (1 - B1) / (1 + B1)
    batches = (n - b) / (n - 1) / b
    trained = np.mean(examples.mean(0) ** 2) + kappa * batches
    level, seen = (
        (kappa, 1 / b) if noise == "exact" else (kappa / (1 + kappa), (1 + kappa) * batches)
    )
    assert fractions[1] == pytest.approx(1 - level * seen / trained, abs=0.05)


@pytest.mark.parametrize("signal", [0.0, 0.1])
def test_where_every_batch_is_fresh_any_signal_is_let_through_and_noise_half_of_the_time(signal):
    """200 units of 100 parameters; signal of 0.1 is a third of the noise of 12 examples."""
    rng = np.random.default_rng(6)
    tx = snrgate.snr_gate(optax.scale_by_adam(), dataset_size=math.inf)
    params = {"kernel": jnp.zeros((100, 200))}
    state, update = tx.init(params), jax.jit(tx.update)
    fractions = []
    for _ in range(300):
        batch = signal + rng.normal(size=(12, 100, 200)).astype(np.float32)
        grads = {"kernel": jnp.asarray(batch.mean(0))}
        _, state = update(grads, state, params, **moments_args(batch))
        fractions.append(float(state.gate_fraction))
    # The mean of noise squared is a little above its median.
    assert np.mean(fractions[100:]) == pytest.approx(1 if signal else 0.48, abs=0.04)


@pytest.mark.parametrize("noise", ["exact", "streaming"])
def test_the_first_steps_are_not_open_on_noise(noise):
    rng = np.random.default_rng(7)
    tx = snrgate.snr_gate(optax.scale_by_adam(), noise=noise, dataset_size=50_000, fitted=0.0)
    params = {"kernel": jnp.zeros((500, 50))}
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(20):
        batch = rng.normal(size=(16, 500, 50)).astype(np.float32)
        grads = {"kernel": jnp.asarray(batch.mean(0))}
        _, state = update(grads, state, params, **moments_args(batch))
        # At the mean of noise half of the units are above it; none is so by much.
        assert float(state.gate_fraction) < 0.7


@pytest.mark.parametrize("z", [1.0, 2.0])
def test_z_of_a_single_step_is_a_z_score(z):
    rng = np.random.default_rng(8)
    tx = snrgate.snr_gate(
        optax.scale_by_adam(), gate="hard", block="parameter", z=z, signal_decay=0.0
    )
    size = 20_000
    batches = (rng.normal(size=(64, size)).astype(np.float32) for _ in range(30))
    _, state = run(tx, batches, np.zeros(size), exact=True)
    expected = 2 * scipy.stats.norm.sf(z)
    assert float(state.gate_fraction) == pytest.approx(expected, abs=0.02)


def test_softness_beside_z_is_on_signal_over_noise():
    gs, w0 = gradients(10), np.zeros(SHAPE)
    level = (1 - B1) / (1 + B1)
    for steps in (9, 10):
        same = {"noise_decay": RHO, "signal_decay": 0.0, "softness": 0.2}
        _, by_z = run(snrgate.adam(1e-2, B1, z=1.0, **same), gs[:steps], w0, exact=True)
        alpha = float(snrgate.gate.null_level("exact", B1, steps))
        assert alpha > level
        _, by_alpha = run(
            snrgate.adam(1e-2, B1, alpha=alpha, noise_decay=RHO, softness=0.2),
            gs[:steps], w0, exact=True,
        )  # fmt: skip
        one, other = (optax.tree.get(state, "gate_fractions") for state in (by_z, by_alpha))
        np.testing.assert_allclose(one, other, rtol=1e-5)
        assert 0 < float(one[0]) < 1


def test_fitted_noise_is_not_missed():
    """A gradient that has lost 30 % of its noise to training still is at the threshold."""
    rng = np.random.default_rng(6)
    n, b, size = 60, 12, 3000
    examples = rng.normal(size=(n, size)).astype(np.float32)
    left = examples - 0.3 * examples.mean(0)
    for fitted, opened in ((0.0, False), (0.35, True)):
        tx = snrgate.snr_gate(optax.scale_by_adam(), dataset_size=n, fitted=fitted)
        batches = (left[rng.choice(n, b, replace=False)][..., None] for _ in range(200))
        _, state = run(tx, batches, np.zeros((size, 1)), exact=True)
        assert (float(state.gate_fraction) > 0) == opened


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
    params = {"kernel": jnp.asarray(w0)}
    state = tx.init(params)
    for g in gs:
        args = moments_args(g)
        args["sum_sq_diff_grads"]["kernel"] = args["sum_sq_diff_grads"]["kernel"].sum(
            0, keepdims=True
        )
        updates, state = tx.update({"kernel": jnp.asarray(g.mean(0))}, state, params, **args)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], inside[-1], rtol=1e-5)


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
    np.testing.assert_allclose(auto, named, rtol=1e-5)


def test_gate_opens_on_signal_and_stays_shut_on_noise():
    gs = gradients(200, b=16)
    tx = snrgate.snr_gate(optax.scale_by_adam())
    state = tx.init({"kernel": jnp.zeros(SHAPE)})
    update, total = jax.jit(tx.update), 0.0
    for g in gs:
        updates, state = update({"kernel": jnp.asarray(g.mean(0))}, state, None, **moments_args(g))
        total = total + np.abs(updates["kernel"])
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


@pytest.mark.parametrize(
    "tx",
    [
        snrgate.adamw(1e-2),
        snrgate.adamw(1e-2, block="kronecker"),
        snrgate.adamw(1e-2, alpha=1.0),
        snrgate.soap(1e-2),
        snrgate.snr_gate(optax.sgd(0.1)),
    ],
    ids=["adamw", "kronecker", "alpha", "soap", "gate"],
)
def test_the_first_state_can_be_donated(tx):
    """A loop that donates its state gives each buffer away once; no two numbers may share one."""
    params = {"kernel": jnp.ones(SHAPE), "bias": jnp.ones(SHAPE[1])}
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    state = tx.init(params)
    _, kept = jax.jit(tx.update)(grads, state, params)
    _, new = jax.jit(tx.update, donate_argnums=1)(grads, state, params)
    jax.tree.map(np.testing.assert_array_equal, new, kept)
