"""What the transformation wraps, keeps and leaves alone: momentum, state, decay, masks, doors."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_transform import SHAPE, gradients, run

import snrgate
from snrgate.lab.training.optimizers import Gated

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
    _, state = run(snrgate.snr_gate(inner), gradients(3), np.zeros(SHAPE), exact=True)
    assert state.momentum == ()
    assert float(state.momentum_decay) == pytest.approx(decay, abs=1e-3)


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
    np.testing.assert_allclose(state.momentum["kernel"], m, rtol=1e-5)


INNERS = {
    "adam": optax.scale_by_adam(eps=0.0),
    "adamw": optax.adamw(1e-3),
    "yogi": optax.scale_by_yogi(initial_accumulator_value=0.0),
    "adamax": optax.scale_by_adamax(),
    "lion": optax.scale_by_lion(),
    "adopt": optax.contrib.scale_by_adopt(),
    "adopt, unclipped": optax.contrib.adopt(1e-3, use_clipping=False),
    "adopt, within": optax.inject_hyperparams(optax.contrib.adopt, ("clip_value_fn",))(1e-3),
    "muon": optax.contrib.muon(1e-3),
    "amsgrad": optax.amsgrad(1e-3),
    "sgd": optax.sgd(1e-3, momentum=0.9),
}


@pytest.mark.parametrize("name", INNERS)
def test_the_scale_of_the_loss_changes_no_gate(name):
    """The signal and the noise are in one unit, whatever a state calls its momentum."""
    found = []
    for scale in (1e-3, 1.0, 1e3):
        _, state = run(
            snrgate.snr_gate(INNERS[name]), scale * gradients(12), np.zeros(SHAPE), exact=True
        )
        found.append(float(optax.tree.get(state, "gate_fraction")))
    assert 0.05 < found[1] < 0.95
    assert found == pytest.approx([found[1]] * 3, rel=1e-4)


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


@pytest.mark.parametrize(("block", "number"), [("parameter", 1020), ("unit", 40), ("tensor", 2)])
def test_adam_with_the_gate_holds_two_numbers_a_block_more(block, number):
    params = {"kernel": jnp.zeros((50, 20)), "bias": jnp.zeros(20)}
    # A gate fraction, a spread, an age and a number of skipped steps each.
    adam = count_numbers(optax.adam(1e-3).init(params)) + 4 * len(params)
    assert adam == 2 * 1020 + 8
    assert count_numbers(snrgate.adam(1e-3, block=block).init(params)) - adam == 2 * number
    # Algorithm 1 has no memory of the signal, an instantaneous noise none of either.
    assert count_numbers(snrgate.adam(1e-3, block=block, alpha=1.0).init(params)) - adam == number
    none = snrgate.adam(1e-3, block=block, noise="instantaneous").init(params)
    assert count_numbers(none) == adam


def test_the_defaults_are_the_same_at_every_door():
    gate = {n: p.default for n, p in inspect.signature(snrgate.snr_gate).parameters.items()}
    adamw = {n: p.default for n, p in inspect.signature(snrgate.adamw).parameters.items()}
    shared = gate.keys() & adamw.keys() - {"mask", "b1"}  # of adamw: what decays, and Adam's own
    assert {"z", "noise_decay", "signal_decay", "fitted", "softness", "floor"} < shared
    assert {n: gate[n] for n in shared} == {n: adamw[n] for n in shared}
    settings = {f.name: f.default for f in dataclasses.fields(Gated)}
    same = shared & settings.keys() - {"z", "noise", "fitted"}  # None and "auto" said out loud
    assert {n: gate[n] for n in same} == {n: settings[n] for n in same}
    gs, w0 = gradients(5), np.zeros(SHAPE)
    default, _ = run(snrgate.adam(1e-2), gs, w0, exact=True)
    named, _ = run(snrgate.adam(1e-2, z=1.0, signal_decay=0.98, fitted=0.2), gs, w0, exact=True)
    np.testing.assert_array_equal(default, named)


def test_state_is_read_by_name():
    gs, w0 = gradients(3), np.zeros(SHAPE)
    _, state = run(snrgate.adamw(1e-2), gs, w0, exact=True)
    assert 0 <= float(optax.tree.get(state, "gate_fraction")) <= 1
    assert optax.tree.get(state, "noise")["kernel"].dtype == jnp.float32
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


@pytest.mark.parametrize(
    "mask", [{"kernel": True, "b": False}, lambda p: {"kernel": True, "b": False}]
)
def test_mask_leaves_a_parameter_ungated(mask):
    params = {"kernel": jnp.ones(3), "b": jnp.ones(2)}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = snrgate.snr_gate(optax.identity(), gate="hard", alpha=1e9, mask=mask)
    state = tx.init(params)
    assert isinstance(state.noise["b"], optax.MaskedNode)
    updates, state = tx.update(grads, state, params, sum_sq_diff_grads=params, sample_size=4)
    np.testing.assert_array_equal(updates["kernel"], 0)
    np.testing.assert_array_equal(updates["b"], 1)
    assert state.gate_fraction == 0
    np.testing.assert_array_equal(state.gate_fractions, [1, 0])


# ---- the other doors -----------------------------------------------------------------------


def test_per_example_gradients_are_the_same_door():
    gs, w0 = gradients(10), np.zeros(SHAPE)
    direct, _ = run(snrgate.adamw(1e-2), gs, w0, exact=True)
    tx = snrgate.from_per_example(snrgate.adamw(1e-2))
    params = {"kernel": jnp.asarray(w0)}
    state = tx.init(params)
    for g in gs:
        updates, state = jax.jit(tx.update)({"kernel": jnp.asarray(g)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], direct[-1], rtol=1e-5)


def test_per_example_gradients_drive_kernels_too():
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(4, 3))), "bias": jnp.zeros(3)}
    batch = jnp.asarray(rng.normal(size=(8, 4)))

    def loss(p, x):
        return jnp.sum(jnp.square(jnp.tanh(x @ p["kernel"] + p["bias"]) - 1))

    tx = snrgate.adamw(1e-2, block="kronecker", dataset_size=8)
    _, moments = snrgate.value_and_moments(loss, block="kronecker")(params, batch)
    expected, _ = tx.update(moments.mean, tx.init(params), params, **moments.extra_args())
    each = jax.vmap(jax.grad(loss), (None, 0))(params, batch)
    door = snrgate.from_per_example(tx, block="kronecker")
    updates, _ = door.update(each, door.init(params), params)
    for name in params:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-4, atol=1e-8)
    with pytest.raises(ValueError, match="or from_per_example, block='kronecker' too"):
        snrgate.from_per_example(tx).update(each, tx.init(params), params)


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
    params = {"kernel": jnp.asarray(w0)}
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in gs:
        for part in np.split(g, accumulation_steps):
            updates, state = update({"kernel": jnp.asarray(part)}, state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], direct[-1], rtol=1e-4, atol=1e-6)
