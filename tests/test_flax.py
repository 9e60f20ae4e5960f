"""Flax drives the gate: Linen's TrainState and NNX's Optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import snrgate
from snrgate.trees import flatten

X = jax.random.normal(jax.random.key(0), (32, 4))
Y = X @ jnp.arange(8.0).reshape(4, 2) + 0.1 * jax.random.normal(jax.random.key(1), (32, 2))


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](nnx.tanh(self.layers[0](x)))


def test_linen_train_state():
    model = linen.Sequential([linen.Dense(8), linen.tanh, linen.Dense(2)])
    params = model.init(jax.random.key(2), X[0])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=snrgate.adamw(1e-2))

    def loss_fn(params, example):
        x, y = example
        return jnp.mean((model.apply({"params": params}, x) - y) ** 2)

    grad_fn = snrgate.value_and_moments(loss_fn, block="unit")

    @jax.jit
    def train_step(state, batch):
        loss, moments = grad_fn(state.params, batch)
        updates, opt_state = state.tx.update(
            moments.mean, state.opt_state, state.params, **moments.extra_args()
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), loss

    losses = []
    for _ in range(200):
        state, loss = train_step(state, (X, Y))
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]
    # apply_gradients knows no extra arguments: it drives the streaming estimator.
    grads = jax.tree.map(jnp.ones_like, state.params)
    assert state.apply_gradients(grads=grads).step == 201


def test_nnx_optimizer():
    model = NnxModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, snrgate.adamw(1e-2), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, batch):
        graph, params = nnx.split(model)

        def loss_fn(params, example):
            x, y = example
            return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

        loss, moments = snrgate.value_and_moments(loss_fn, block="unit")(params, batch)
        optimizer.update(model, moments.mean, **moments.extra_args())
        return loss

    losses = [float(train_step(model, optimizer, (X, Y))) for _ in range(200)]
    assert losses[-1] < 0.2 * losses[0]


def test_nnx_and_linen_moments_agree_with_plain_gradients():
    graph, params = nnx.split(NnxModel(nnx.Rngs(0)))

    def loss_fn(params, example):
        x, y = example
        return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

    _, moments = snrgate.value_and_moments(loss_fn, method="vmap", block="parameter")(
        params, (X, Y)
    )
    mean_loss = lambda p: jnp.mean(jax.vmap(lambda e: loss_fn(p, e))((X, Y)))  # noqa: E731
    for got, expected in zip(
        jax.tree.leaves(moments.mean), jax.tree.leaves(jax.grad(mean_loss)(params)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_names_of_nnx_parameters_are_what_a_user_wrote():
    _, params = nnx.split(NnxModel(nnx.Rngs(0)))
    assert flatten(params).paths == [
        "layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel"
    ]  # fmt: skip


@pytest.mark.parametrize("block", ["unit", "tensor"])
def test_blocks_follow_flax_conventions(block):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(11, 6, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=rngs)
            self.conv = nnx.Conv(3, 5, (2, 2), rngs=rngs)

    _, params = nnx.split(Model(nnx.Rngs(0)))
    noise = snrgate.snr_gate(optax.identity(), block=block).init(params).noise
    leaves = flatten(noise)
    shapes = {path: x.shape for path, x in zip(leaves.paths, leaves.values, strict=True)}
    if block == "tensor":
        assert all(np.prod(s) == 1 for s in shapes.values())
        return
    assert shapes["embed/embedding"] == (11, 1)  # a row is a token's own
    assert shapes["attention/query/kernel"] == (1, 2, 4)  # heads are outputs
    assert shapes["attention/query/bias"] == (2, 4)
    assert shapes["attention/out/kernel"] == (1, 1, 6)
    assert shapes["conv/kernel"] == (1, 1, 1, 5)
    assert shapes["conv/bias"] == (5,)
