"""The factored moments of whole models, and of programs drawn at random."""

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import workloads
from flax import nnx
from test_factored import check, check_float32, draw, models_broadcast  # noqa: F401

import snrgate

BATCH, TOKENS, WIDTH, VOCABULARY = 3, 5, 8, 11


def normalised(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def rotated(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[0])[:, None, None] / 10.0 ** jnp.arange(half)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)], -1
    )


def attention(p, x, groups=2):
    """Grouped queries with rotary positions; kernels with heads, einsum in several layouts."""
    q = rotated(jnp.einsum("td,dhk->thk", x, p["query"]["kernel"]))
    k = rotated(jnp.einsum("td,hdk->thk", x, p["key"]))
    v = jnp.einsum("dhk,td->htk", p["value"]["kernel"], x)
    q = q.reshape(x.shape[0], -1, groups, q.shape[-1])
    scores = jnp.einsum("thgk,shk->hgts", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
    mixed = jnp.einsum("hgts,hsk->thgk", jax.nn.softmax(scores), v)
    return jnp.einsum("thk,hkd->td", mixed.reshape(x.shape[0], -1, q.shape[-1]), p["out"])


def gpt(tied):
    def loss(params, example):
        ids, targets = example
        x = params["embedding"][ids] + params["position"]
        for p in params["layers"]:
            x = x + attention(p, normalised(x, p["norm"]))
            x = x + jax.nn.gelu(x @ p["up"] + p["up_bias"]) @ p["down"]
        logits = x @ (params["embedding"].T if tied else params["head"])
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], -1).mean()

    norm = {"scale": (WIDTH,), "bias": (WIDTH,)}
    layer = {
        "norm": norm,
        "query": {"kernel": (WIDTH, 4, 2)},
        "key": (2, WIDTH, 2),
        "value": {"kernel": (WIDTH, 2, 2)},
        "out": (4, 2, WIDTH),
        "up": (WIDTH, 12),
        "up_bias": (12,),
        "down": (12, WIDTH),
    }
    shapes = {"embedding": (VOCABULARY, WIDTH), "position": (TOKENS, WIDTH), "layers": [layer]}
    params = draw(0, shapes if tied else shapes | {"head": (WIDTH, VOCABULARY)})
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (2, BATCH, TOKENS))
    return loss, params, (ids[0], ids[1])


def gru():
    def loss(params, example):
        def step(h, x):
            r, z = jnp.split(jax.nn.sigmoid(x @ params["x"] + h @ params["h"] + params["b"]), 2)
            new = jnp.tanh(x @ params["new_x"] + (r * h) @ params["new_h"])
            h = (1 - z) * h + z * new
            return h, h @ params["out"]

        _, y = jax.lax.scan(step, jnp.zeros(4, example.dtype), example, reverse=True)
        return jnp.mean(y**2)

    shapes = {"x": (3, 8), "h": (4, 8), "b": (8,), "new_x": (3, 4), "new_h": (4, 4), "out": (4, 2)}
    return loss, draw(2, shapes), draw(3, (BATCH, TOKENS, 3))


def lora(merged):
    frozen = np.asarray(draw(4, (6, 6)))

    def loss(params, example):
        def layer(x, p):
            if merged:
                return x @ (frozen + 0.5 * p["a"] @ p["b"])
            return x @ frozen + 0.5 * (x @ p["a"]) @ p["b"]

        return jnp.mean(layer(jnp.tanh(layer(example, params[0])), params[1]) ** 2)

    return loss, draw(5, [{"a": (6, 2), "b": (2, 6)}] * 2), draw(6, (BATCH, 3, 6))


def dropout():
    def loss(params, example):
        x, key = example
        h = jnp.tanh(x @ params["up"])
        h = jnp.where(jax.random.bernoulli(key, np.float32(0.5), h.shape), h / 0.5, 0)
        return jnp.mean((h @ params["down"]) ** 2)

    keys = jax.random.split(jax.random.key(0), BATCH)
    return loss, draw(7, {"up": (4, 6), "down": (6, 2)}), (draw(8, (BATCH, 4)), keys)


def nnx_reused_layer():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.reused = nnx.Linear(4, 4, rngs=rngs)
            self.norm = nnx.LayerNorm(4, rngs=rngs)

        def __call__(self, x):
            x = jnp.tanh(self.first(x))
            for _ in range(3):
                x = self.norm(jnp.tanh(self.reused(x)))
            return x

    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)

    def loss(params, example):
        return jnp.sum(nnx.merge(graph, params)(example[None]) ** 3)

    return loss, params, draw(9, (BATCH, 3))


def linen_remat_and_scan():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            h = nn.Dense(6, param_dtype=x.dtype, name="up")(nn.LayerNorm(param_dtype=x.dtype)(x))
            return x + nn.Dense(4, param_dtype=x.dtype, name="down")(nn.gelu(h)), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stack = nn.scan(
                nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = stack()(x, None)
            return nn.Conv(2, (3,), param_dtype=x.dtype)(x)

    net = Net()
    params = net.init(jax.random.key(0), jnp.zeros((1, TOKENS, 4)))

    def loss(params, example):
        return jnp.mean(net.apply(params, example[None]) ** 2)

    return loss, params, draw(10, (BATCH, TOKENS, 4))


def convolutional():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
            self.second = nnx.Conv(4, 3, (2, 2), strides=2, padding="VALID", rngs=rngs)
            self.head = nnx.Linear(3, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.avg_pool(nnx.relu(self.first(x)), (2, 2), strides=(2, 2))
            return self.head(jnp.mean(nnx.relu(self.second(x)), axis=(-3, -2)))

    graph, params = nnx.split(Net(nnx.Rngs(0)))

    def loss(params, example):
        return jnp.sum(nnx.merge(graph, params)(example) ** 2)

    return loss, params, draw(11, (BATCH, 8, 8, 2))


def lstm():
    def loss(params, example):
        def step(state, x):
            h, c = state
            i, f, g, o = jnp.split(x @ params["x"] + h @ params["h"] + params["b"], 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), None

        zero = jnp.zeros(4, example.dtype)
        (h, _), _ = jax.lax.scan(step, (zero, zero), example)
        return jnp.sum((h @ params["out"]) ** 2)

    shapes = {"x": (3, 16), "h": (4, 16), "b": (16,), "out": (4, 2)}
    return loss, draw(12, shapes), draw(13, (BATCH, TOKENS, 3))


def penalised():
    loss, params, batch = workload(workloads.coordinate, batch_size=BATCH, width=8)

    def with_penalty(params, example):
        return loss(params, example) + 0.01 * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))

    return with_penalty, params, batch


def workload(make, **sizes):
    """A model of the benchmarks, smaller, as it is there."""
    work = make(**sizes)
    return work.loss, work.params, work.batch


MODELS = {
    "coordinate": lambda: workload(workloads.coordinate, batch_size=BATCH, width=8),
    "pinn": lambda: workload(workloads.pinn, batch_size=BATCH, width=8, depth=2),
    "grokking": lambda: workload(workloads.grokking, batch_size=BATCH, width=16, depth=1),
    "language": lambda: workload(workloads.gpt, batch_size=BATCH, length=9, width=16, depth=1),
    "convolutional": convolutional,
    "lstm": lstm,
    "penalised": penalised,
    "gpt": lambda: gpt(tied=False),
    "gpt tied": lambda: gpt(tied=True),
    "gru": gru,
    "lora": lambda: lora(merged=False),
    "lora merged": lambda: lora(merged=True),
    "dropout": dropout,
    "nnx reused layer": nnx_reused_layer,
    "linen remat and scan": linen_remat_and_scan,
}


@pytest.mark.parametrize("block", ["parameter", "unit"])
@pytest.mark.parametrize("model", MODELS)
def test_models(model, block):
    loss, params, batch = MODELS[model]()
    # The attention of the benchmarks computes its logits in float32, whatever it is given.
    rtol = 1e-6 if model in ("grokking", "language") else 1e-9
    expected = check(loss, params, batch, block, rtol=rtol)
    if block == "parameter":  # rounding is that of the same products
        check_float32(loss, params, batch, block, expected=expected)
    example = jax.tree.map(lambda x: x[0], batch)
    table = snrgate.explain_moments(loss, params, example, block=block)
    assert len(table.splitlines()) == 1 + len(jax.tree.leaves(params))


def rules_of(model):
    loss, params, batch = MODELS[model]()
    example = jax.tree.map(lambda x: x[0], batch)
    lines = snrgate.explain_moments(loss, params, example, block="parameter").splitlines()[1:]
    return {line.split()[0]: line.split("  ")[0:] for line in lines}, "\n".join(lines)


@pytest.mark.parametrize("model", ["gpt", "gpt tied", "gru", "lora"])
def test_no_matrix_is_formed_for_every_example(model):
    for line in rules_of(model)[1].splitlines():
        matrix = "x" in line.split()[1]
        assert not (matrix and "whole" in line) or line.startswith("position"), line


@pytest.mark.parametrize(
    ("read", "uses"),
    [
        (lambda y: y[-1], 1),
        (lambda y: y[1:3], 2),
        (lambda y: 2 * y[1] + y[:2].sum(0), 2),
        (lambda y: y, 5),
    ],
)
@pytest.mark.parametrize("block", ["parameter", "unit"])
def test_positions_that_the_loss_does_not_look_at_are_no_uses(read, uses, block):
    def loss(params, example):
        hidden = jnp.tanh(example @ params["first"])
        hidden = (hidden - hidden.mean(-1, keepdims=True)) / (1 + jnp.square(hidden))
        return jnp.sum(read(jnp.tanh(hidden @ params["second"])) ** 2)

    params, batch = draw(14, {"first": (3, 4), "second": (4, 6)}), draw(15, (BATCH, TOKENS, 3))
    check(loss, params, batch, block)
    table = snrgate.explain_moments(loss, params, batch[0], block=block)
    header, *lines = table.splitlines()
    for line in lines:
        assert int(line.split()[header.split().index("uses")]) == uses, table


# ---- programs drawn at random ----------------------------------------------------------------

UNARY = {
    "tanh": lambda x, p: jnp.tanh(x),
    "transpose": lambda x, p: x.T,
    "softmax": lambda x, p: jax.nn.softmax(x),
    "double": lambda x, p: jnp.concatenate([x, 2 * x]),
    "halve": lambda x, p: x[: max(1, x.shape[0] // 2)],
    "negate": lambda x, p: -x / 3,
    "remat": lambda x, p: (
        jax.checkpoint(lambda x, w: jnp.sin(x @ w))(x.T[:, :1] @ x[:1], p["w"])
        if x.shape[1] == 4
        else jnp.sin(x)
    ),
    "dense": lambda x, p: x @ p["w"] if x.shape[1] == 4 else jnp.cos(x),
    "dense transposed": lambda x, p: x @ p["w"].T if x.shape[1] == 4 else jnp.cos(x),
    "sliced": lambda x, p: x[:, :2] @ p["w"][:2] if x.shape[1] > 1 else x + 1,
    "masked": lambda x, p: x @ (p["w"] * np.tri(4)) if x.shape[1] == 4 else x,
    "bias": lambda x, p: x + p["b"] if x.shape[1] == 4 else x,
    "scan": lambda x, p: jax.lax.scan(lambda c, r: (jnp.tanh(c @ p["w"] + r.sum()), c), p["b"], x)[
        1
    ],
    "layers": lambda x, p: (
        jax.lax.scan(lambda c, w: (jnp.sin(c @ w), None), x, p["stack"])[0]
        if x.shape[1] == 4
        else x
    ),
    "lookup": lambda x, p: p["w"][jnp.argsort(x[:, 0]) % 4],
    "jvp": lambda x, p: (
        jax.jvp(lambda y: jnp.sin(y @ p["w"]), (x,), (jnp.ones_like(x),))[1]
        if x.shape[1] == 4
        else x
    ),
    "penalty": lambda x, p: x + jnp.sum(p["w"] ** 2),
}


@hypothesis.settings(deadline=None, max_examples=12, derandomize=True)
@hypothesis.given(
    st.lists(st.sampled_from(sorted(UNARY)), min_size=1, max_size=5),
    st.sampled_from(["parameter", "unit", "tensor"]),
)
def test_random_programs(steps, block):
    def loss(params, example):
        x = example
        for name in steps:
            x = UNARY[name](x, params)
        return jnp.sum(jnp.sin(x))

    with jax.numpy_rank_promotion("allow"):
        check(
            loss, draw(0, {"w": (4, 4), "b": (4,), "stack": (2, 4, 4)}), draw(1, (3, 2, 4)), block
        )
