"""Adam's step in the eigenvectors of the noise, behind the gate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate.evidence import read

SIZE, B1 = 16, 0.9
KEYS = jax.random.split(jax.random.key(0), 4)
ROTATION = np.linalg.qr(np.asarray(jax.random.normal(KEYS[0], (6, 6))))[0]
SCALES = np.array([1.0, 0.5, 0.3, 0.1, 0.03, 0.01])
COORDINATES = np.asarray(jax.random.normal(KEYS[1], (400, 6)))
INPUTS = jnp.asarray(COORDINATES * SCALES @ ROTATION.T)  # collinear
TARGETS = jnp.asarray(COORDINATES @ np.ones((6, 2), np.float32))  # all directions count as much


def loss_fn(params, example):
    x, y = example
    return jnp.sum(jnp.square(x @ params["kernel"] + params["bias"] - y))


GRAD_FN = snrgate.value_and_moments(loss_fn, block="kronecker", method="vmap")
PARAMS = {"kernel": jnp.zeros((6, 2)), "bias": jnp.zeros(2)}


def opened(signal, noise, threshold, softness):
    return jnp.ones_like(signal)


@functools.partial(jax.jit, static_argnames=("tx", "steps"))
def trained(tx, noise=0.0, *, steps):
    """Parameters, state, and all mean gradients."""

    def step(carry, key):
        params, state = carry
        index = jax.random.randint(key, (SIZE,), 0, len(INPUTS))
        batch = INPUTS[index], TARGETS[index] + noise * jax.random.normal(key, (SIZE, 2))
        _, moments = GRAD_FN(params, batch)
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return (optax.apply_updates(params, updates), state), (moments.mean, updates)

    keys = jax.random.split(KEYS[2], steps)
    return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), keys)


def test_an_open_gate_leaves_the_step_that_numpy_computes():
    """At step 20 the eigenvectors are computed for the first time."""
    tx, steps = snrgate.soap(1.0, b1=B1, gate=opened, dataset_size=400), 20
    (_, state), (gradients, updates) = trained(tx, 0.5, steps=steps)
    gate = optax.tree.get(state, "SnrGateState")
    kernel = read("kronecker", "kernel", (6, 2))

    # Averages without their bias, and the factors of the variance of one example in each.
    noises, signals = (
        [np.asarray(x, float) / (1 - decay**steps) for x in kernel.unpacked(kept["kernel"])]
        for kept, decay in ((gate.noise, 0.99), (gate.signal, 0.98))
    )
    own, spread = 1 / 400, 0.0
    for _ in range(steps):
        spread = B1**2 * spread + (1 - B1) ** 2 * (1 / SIZE - own)
    of_momentum = spread / (1 - B1**steps) ** 2 + own
    v = [n / SIZE + s * of_momentum for n, s in zip(noises, signals, strict=True)]

    p, q = (np.linalg.eigh(n)[1] for n in noises)
    weights = B1 ** np.arange(steps)[::-1]
    momentum = np.tensordot(weights / weights.sum(), np.asarray(gradients["kernel"]), 1)
    rows, columns = np.diagonal(p.T @ v[0] @ p), np.diagonal(q.T @ v[1] @ q)
    step = p.T @ momentum @ q / np.sqrt(np.outer(rows, columns) / np.trace(v[0]))
    assert np.abs(step).max() < 3
    np.testing.assert_allclose(updates["kernel"][-1], -p @ step @ q.T, rtol=2e-3, atol=1e-4)


def test_a_bias_takes_the_step_of_adam():
    (_, _), (gradients, updates) = trained(snrgate.soap(0.1, gate=opened), 0.5, steps=5)
    adam = optax.adam(0.1)
    state = adam.init(PARAMS["bias"])
    for gradient, update in zip(gradients["bias"], updates["bias"], strict=True):
        expected, state = adam.update(gradient, state)
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_collinear_inputs_are_learned_sooner_than_by_adam_and_by_a_gate_around_it():
    def error(tx):
        (params, _), _ = trained(tx, steps=1500)
        return jnp.mean(jax.vmap(loss_fn, (None, 0))(params, (INPUTS, TARGETS)))

    adam = error(optax.adamw(0.1, weight_decay=0.0))
    gated = error(snrgate.adamw(0.1, weight_decay=0.0, block="kronecker", dataset_size=400))
    assert error(snrgate.soap(0.1, dataset_size=400)) < 0.1 * min(adam, gated)


def test_a_kernel_moves_no_further_than_three_root_mean_squares():
    """Between two steps that measure evidence an outburst finds the mean squares as they were."""
    tx = snrgate.soap(1.0, gate=opened)
    (params, state), _ = trained(tx, 0.5, steps=41)
    assert not snrgate.measures_next(state)
    moments = GRAD_FN(params, (INPUTS[:SIZE], 1e6 * TARGETS[:SIZE]))[1]
    updates, _ = jax.jit(tx.update)(moments.mean, state, params, **moments.extra_args())
    largest = 3 * np.sqrt(PARAMS["kernel"].size)
    assert 0.5 * largest < jnp.linalg.norm(updates["kernel"]) <= largest * (1 + 1e-5)


def test_what_is_not_gated_takes_the_step_of_adam():
    mask = {"kernel": False, "bias": True}
    (_, _), (gradients, updates) = trained(snrgate.soap(0.1, gate_mask=mask), steps=3)
    adam = optax.adam(0.1)
    state = adam.init(PARAMS["kernel"])
    for gradient, update in zip(gradients["kernel"], updates["kernel"], strict=True):
        expected, state = adam.update(gradient, state)
        np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-7)


def test_a_layer_stacked_over_others_moves_as_it_does_alone():
    """The moments of a scanned model tell the sides; each layer has its own eigenvectors."""

    def loss(params, example):
        return loss_fn({"kernel": params, "bias": jnp.zeros(2)}, example)

    def stacked_loss(params, example):
        x, y = example
        answers = jnp.einsum("li,lio->lo", jnp.stack([x, x[::-1]]), params)
        return jnp.sum(jnp.square(answers - y[None]))

    def after(loss, params, block, data):
        grad_fn = snrgate.value_and_moments(loss, block="kronecker")
        tx = snrgate.soap(0.1, block=block or jax.eval_shape(grad_fn, params, data)[1])

        def step(carry, batch):
            params, state = carry
            moments = grad_fn(params, batch)[1]
            updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
            return (optax.apply_updates(params, updates), state), None

        batches = jax.tree.map(lambda x: x.reshape(25, SIZE, -1), data)
        return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches)[0][0])()

    first, second = (INPUTS, TARGETS), (INPUTS[:, ::-1], TARGETS)
    both = after(stacked_loss, jnp.zeros((2, 6, 2)), None, first)
    for layer, data in enumerate((first, second)):
        alone = after(loss, jnp.zeros((6, 2)), "kronecker", data)
        np.testing.assert_allclose(both[layer], alone, rtol=1e-3, atol=1e-5)


def test_a_block_without_kernels_is_refused():
    with pytest.raises(ValueError, match=r"block='unit' has no kernels.*'kronecker'"):
        snrgate.soap(1e-3, block="unit")
    with pytest.raises(ValueError, match="b2"):
        snrgate.soap(1e-3, b2=1.5)
