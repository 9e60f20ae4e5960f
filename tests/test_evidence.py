"""Which numbers share evidence, where names, moments or nothing but the numbers tell."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate.evidence import Pooled, Sided, read

LAYOUTS = [
    ((30, 8), 1),
    ((8, 30), 0),
    ((20, 20), 1),
    ((20, 20), 0),
    ((2, 20, 6), 2),
    ((2, 6, 20), 1),
    ((6, 5, 3, 3), 0),
    ((3, 3, 5, 6), 3),
    ((40, 1), 1),
    ((1, 40), 0),
]
"""The shape of a tensor, and the axis of its units."""


@pytest.mark.parametrize("noise", ["exact", "streaming"])
@pytest.mark.parametrize(("shape", "unit"), LAYOUTS)
def test_units_are_found_on_whatever_side_they_are(shape, unit, noise):
    """Nothing but the numbers tells: half of the units have no signal, the others uneven ones."""
    rng = np.random.default_rng(0)
    amplitude = 0.3 + 0.3 * np.abs(rng.normal(size=shape)).astype(np.float32)
    quiet = np.zeros(shape, bool)
    if shape[unit] > 1:
        quiet[(slice(None),) * unit + (slice(0, None, 2),)] = True
    amplitude[quiet] = 0
    tx = snrgate.snr_gate(optax.scale_by_sign(), noise=noise, dataset_size=1000, fitted=0.0)
    params = {"w": jnp.zeros(shape)}
    assert isinstance(read("unit", "w", shape), Sided)

    def step(state, key):
        g = amplitude[None] + jax.random.normal(key, (16, *shape))
        mean = g.mean(0)
        difference = g - mean[None]
        sums = {} if noise == "streaming" else {"w": jnp.sum(difference**2, 0)}
        given = {"sum_sq_diff_grads": sums} if sums else {}
        updates, state = tx.update({"w": mean}, state, params, sample_size=16, **given)
        return state, jnp.abs(updates["w"])  # of a sign it is the gate

    keys = jax.random.split(jax.random.key(1), 150)
    gates = np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(tx.init(params)))[50:]
    if quiet.any():
        assert gates[:, quiet].mean() < 0.1
    assert gates[:, ~quiet].mean() > 0.6


@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_the_moments_say_which_side_it_is(kept):
    """The gate is then that of a block which the user names."""
    shape = (3, 4, 5)
    over = tuple(a for a in range(3) if a not in kept)
    rng = np.random.default_rng(0)
    params = {"w": jnp.zeros(shape)}
    told = snrgate.snr_gate(optax.scale_by_adam())
    named = snrgate.snr_gate(optax.scale_by_adam(), block=lambda path, s: over)
    states = [tx.init(params) for tx in (told, named)]
    updates = [jax.jit(tx.update) for tx in (told, named)]
    for _ in range(5):
        g = rng.normal(size=(8, *shape)) + 0.3
        sums = jnp.asarray(((g - g.mean(0)) ** 2).sum((0, *(a + 1 for a in over)), keepdims=True))
        args = {"sum_sq_diff_grads": {"w": sums[0]}, "sample_size": 8}
        both = [
            update({"w": jnp.asarray(g.mean(0))}, state, params, **args)
            for update, state in zip(updates, states, strict=True)
        ]
        states = [state for _, state in both]
        np.testing.assert_allclose(both[0][0]["w"], both[1][0]["w"], rtol=1e-5)
    assert 0 < float(states[0].gate_fraction) < 1


def test_moments_or_their_shapes_say_the_block():
    """A stack of layers of an unknown orientation, with several axes kept."""
    params = {"w": jnp.ones((2, 4, 3, 3)), "v": jnp.ones(3)}

    def loss_fn(params, x):
        return jnp.sum(params["w"] ** 2) * jnp.sum(x) + jnp.sum(params["v"] * x)

    def block(path, shape):
        return (1,) if path == "w" else ()

    grad_fn = snrgate.value_and_moments(loss_fn, block=block)
    batch = jnp.arange(12.0).reshape(4, 3)
    _, moments = grad_fn(params, batch)
    tx = snrgate.adamw(1e-2)
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"'w' has shape \(2, 1, 3, 3\).*block=jax.eval_shape"):
        tx.update(moments.mean, state, params, **moments.extra_args())
    for told in (moments, jax.eval_shape(grad_fn, params, batch)[1]):
        tx = snrgate.adamw(1e-2, block=told)
        state = tx.init(params)
        assert optax.tree.get(state, "noise")["w"].shape == (2, 1, 3, 3)
        tx.update(moments.mean, state, params, **moments.extra_args())
    with pytest.raises(ValueError, match="no parameter 'u'"):
        snrgate.adamw(1e-2, block=moments).init({"u": jnp.ones(3)})


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("a/kernel", (5, 4), (0,)),
        ("a/kernel", (3, 3, 5, 4), (0, 1, 2)),
        ("a/query/kernel", (8, 2, 4), (0,)),
        ("a/out/kernel", (2, 4, 8), (0, 1)),
        ("a/embedding", (9, 4), (1,)),
        ("a/bias", (2, 4), ()),
        ("a/scale", (4,), ()),
        ("w", (), ()),
    ],
)
def test_names_of_flax_tell_the_side(path, shape, axes):
    assert read("unit", path, shape) == Pooled(path, shape, axes)
    assert isinstance(read("unit", "w", (5, 4)), Sided)
