"""The kernel that forms both moments in one pass, interpreted: no device is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from test_factored import BLOCKS, cast, draw, mlp_params, models_broadcast  # noqa: F401

import snrgate
from snrgate.moments.factored import pallas, rules


@pytest.mark.parametrize("weights", [None, np.array([1.0, 0.0, 2.0, 1.0, 3.0])])
@pytest.mark.parametrize("pooled", [(), (1,)])
@pytest.mark.parametrize(("uses", "m", "n"), [(1, 128, 1), (3, 37, 130), (17, 2, 128)])
def test_it_agrees_with_the_other_rules(uses, m, n, pooled, weights):
    x, d = cast(draw(0, ((5, uses, m), (5, uses, n))), jnp.float32)
    counts = rules.Counts(
        None if weights is None else jnp.asarray(weights, jnp.float32),
        jnp.asarray(5.0 if weights is None else weights.sum(), jnp.float32),
    )
    axes = rules.Axes((1, m), pooled), rules.Axes((n,), ())
    got = pallas.one_pass([(x[:, :1], d[:, :1]), (x[:, 1:], d[:, 1:])], counts, *axes)
    others = [rules.running, rules.pairwise, rules.centred, *([rules.single] if uses == 1 else [])]
    for other in others:
        for a, b in zip(got, other([(x, d)], counts, *axes), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("block", BLOCKS[:2])
def test_a_whole_model(block):
    def loss(params, example):
        x = jnp.tanh(example @ params[0]["kernel"] + params[0]["bias"])
        return jnp.mean((x @ params[1]["kernel"]) ** 2)

    params = cast(mlp_params([2, 5, 3]), jnp.float32)
    batch = cast(draw(1, (6, 4, 2)), jnp.float32)
    weights = np.array([1.0, 0.0, 2.0, 1.0, 1.0, 1.0], np.float32)
    got, expected = (
        jax.jit(snrgate.value_and_moments(loss, method=method, block=block))(
            params, batch, weights=weights
        )
        for method in ("one_pass", "vmap")
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_is_lowered_for_devices(platform):
    def moments(x, d):
        counts = rules.Counts(None, jnp.float32(5))
        return pallas.one_pass([(x, d)], counts, rules.Axes((3,), ()), rules.Axes((4,), ()))

    args = (
        jax.ShapeDtypeStruct((5, 2, 3), jnp.float32),
        jax.ShapeDtypeStruct((5, 2, 4), jnp.float32),
    )
    kernel = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    lowered = export.export(jax.jit(moments), platforms=[platform], disabled_checks=[kernel])(*args)
    assert {"cuda": "xla.gpu.triton", "tpu": "tpu_custom_call"}[platform] in lowered.mlir_module()
