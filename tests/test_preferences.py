"""Losses of preferences, their moments, what is measured, and the data that they come from."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import snrgate
from snrgate import preferences
from snrgate.moments.kronecker import SideSums, outer_sums

MARGINS = np.array([-40.0, -3.0, -0.2, 0.0, 0.7, 5.0, 60.0])
BETA = 0.3


def by_hand(name, h, rate):
    """The formulas of the papers, one number at a time, with Python's own functions."""

    def log_sigmoid(x):
        return -math.log1p(math.exp(-x)) if x > -30 else x - math.log1p(math.exp(x))

    right, wrong = -log_sigmoid(BETA * h), -log_sigmoid(-BETA * h)
    return {
        "dpo": right,
        "cdpo": (1 - rate) * right + rate * wrong,
        "rdpo": ((1 - rate) * right - rate * wrong) / (1 - 2 * rate),
        "ipo": (h - 1 / (2 * BETA)) ** 2,
    }[name]


@pytest.mark.parametrize("name", ["dpo", "cdpo", "rdpo", "ipo"])
def test_losses_are_those_of_the_papers(name):
    loss = getattr(preferences, name)
    for rate in [0.1, 0.3] if name in ("cdpo", "rdpo") else [0.0]:
        given = {"flip_rate": rate} if rate else {}
        value = jax.vmap(lambda h, given=given: loss(h, BETA, **given))(jnp.asarray(MARGINS))
        np.testing.assert_allclose(value, [by_hand(name, h, rate) for h in MARGINS], 2e-6, 1e-7)


def test_a_flip_rate_of_zero_is_dpo_and_robust_dpo_has_no_bias():
    h = jnp.asarray(MARGINS)
    for loss in (preferences.cdpo, preferences.rdpo):
        np.testing.assert_array_equal(loss(h, BETA, flip_rate=0.0), preferences.dpo(h, BETA))
    for rate in (0.15, 0.4):
        mean = (1 - rate) * preferences.rdpo(h, flip_rate=rate) + rate * preferences.rdpo(
            -h, flip_rate=rate
        )
        np.testing.assert_allclose(mean, preferences.dpo(h), rtol=2e-4, atol=2e-6)


def test_conservative_dpo_is_least_at_the_margin_of_its_flip_rate():
    best = math.log(0.7 / 0.3) / BETA
    slope = jax.grad(lambda h: preferences.cdpo(h, BETA, flip_rate=0.3))
    assert abs(slope(best)) < 1e-6
    assert slope(best - 1) < 0 < slope(best + 1)


def test_losses_and_their_slopes_stay_finite_at_huge_margins():
    for h in (-1e5, 1e5):
        for loss in (
            preferences.dpo,
            lambda h: preferences.rdpo(h, flip_rate=0.4),
            lambda h: preferences.cdpo(h, flip_rate=0.4),
            lambda h: preferences.dr_dpo(jnp.stack([h, -h])),
        ):
            value, slope = jax.value_and_grad(loss)(h)
            assert math.isfinite(value)
            assert math.isfinite(slope)


def test_dr_dpo_is_that_of_the_paper():
    h, temperature = MARGINS[1:6], 0.6
    losses = [by_hand("dpo", x, 0.0) for x in h]
    value = -temperature * math.log(sum(math.exp(-x / temperature) for x in losses) / len(h))
    found = preferences.dr_dpo(jnp.asarray(h), BETA, temperature=temperature)
    np.testing.assert_allclose(found, value, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: preferences.dpo(jnp.array(1.0), beta=0.0), "beta = 0.0 must be positive"),
        (lambda: preferences.ipo(jnp.array(1.0), beta=-1.0), "beta = -1.0"),
        (lambda: preferences.cdpo(jnp.array(1.0), flip_rate=0.6), "flip_rate = 0.6"),
        (lambda: preferences.rdpo(jnp.array(1.0), flip_rate=0.5), "below 0.5"),
        (lambda: preferences.rdpo(jnp.array(1.0), flip_rate=math.nan), "flip_rate = nan"),
        (lambda: preferences.dr_dpo(jnp.ones(2), temperature=0.0), "temperature = 0.0"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def small_problem(size=6):
    """A network with a kernel, a bias and a scalar, and examples that it fits unequally."""
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "kernel": jax.random.normal(keys[0], (4, 3)),
        "bias": jax.random.normal(keys[1], (3,)),
        "scale": jnp.array(0.7),
    }
    batch = jax.random.normal(keys[2], (size, 4)), jax.random.normal(keys[3], (size,))

    def loss(params, example):
        x, y = example
        out = jnp.tanh(x @ params["kernel"] + params["bias"])
        return preferences.dpo(10 * (params["scale"] * jnp.sum(out) - y))

    return params, batch, loss


def leave_one_out(loss, params, batch, temperature):
    """Gradient of a batch, and how it moves without each example, from whole gradients alone."""

    def of(batch):
        def total(params):
            return preferences.tilted_mean(jax.vmap(loss, (None, 0))(params, batch), temperature)

        return jax.value_and_grad(total)(params)

    size = len(batch[1])
    value, whole = of(batch)
    without = [of(jax.tree.map(lambda x, i=i: np.delete(x, i, 0), batch))[1] for i in range(size)]
    moves = jax.tree.map(lambda g, *others: g[None] - jnp.stack(others), whole, *without)
    return value, whole, jax.tree.map(lambda d: (size - 1) * d, moves)


@pytest.mark.parametrize("temperature", [0.2, 5.0])
@pytest.mark.parametrize("block", ["parameter", "unit", "tensor", "kronecker"])
def test_tilted_moments_are_those_of_leaving_out_each_example(block, temperature):
    params, batch, loss = small_problem()
    value, mean, moves = leave_one_out(loss, params, batch, temperature)
    grad_fn = jax.jit(preferences.tilted_value_and_moments(loss, temperature, block=block))
    found_value, found = grad_fn(params, batch)
    np.testing.assert_allclose(found_value, value, rtol=1e-6)
    assert float(found.sample_size) == len(batch[1])
    for name, d in moves.items():
        np.testing.assert_allclose(found.mean[name], mean[name], rtol=2e-5, atol=1e-6)
        sums = found.sum_sq_diff[name]
        if isinstance(sums, SideSums):
            by_example = jax.vmap(lambda x, s=sums.sides: outer_sums(x, s))(d)
            expected = jax.tree.map(lambda x: jnp.sum(x, 0), by_example)
            pairs = [(sums.rows, expected.rows), (sums.columns, expected.columns)]
        else:
            squares = jnp.sum(jnp.square(d), 0)
            pooled = [i for i, n in enumerate(sums.shape) if n == 1]
            pairs = [(sums, jnp.sum(squares, tuple(pooled), keepdims=True))]
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * float(jnp.max(want)))


def test_equal_losses_have_the_moments_of_a_plain_mean():
    params, batch, loss = small_problem()
    _, tilted = preferences.tilted_value_and_moments(loss, 1e6, block="parameter")(params, batch)
    _, plain = snrgate.value_and_moments(loss, block="parameter")(params, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-7), tilted, plain)


def test_the_noise_of_a_tilted_gradient_is_its_variance_over_batches():
    """The mean estimate over many batches of one population, against the spread of gradients."""
    x = jax.random.normal(jax.random.key(0), (4000, 32)) + 0.5

    def loss(w, x):
        return preferences.dpo(6 * w * x)

    grad_fn = preferences.tilted_value_and_moments(loss, 0.5, block="parameter")
    _, moments = jax.jit(jax.vmap(lambda x: grad_fn(jnp.array(0.8), x)))(x)
    noise = moments.sum_sq_diff / (32 * 31)
    # The jackknife is a little too large on average, by a term of order 1 / b.
    assert 1.0 < jnp.mean(noise) / jnp.var(moments.mean) < 1.15
    naive = jax.jit(jax.vmap(lambda x: snrgate.value_and_moments(loss)(jnp.array(0.8), x)))(x)[1]
    plain = jnp.mean(naive.sum_sq_diff / (32 * 31)) / jnp.var(moments.mean)
    assert not 0.8 < plain < 1.25  # the noise of the plain mean would be another one


@pytest.mark.parametrize("through", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_a_loss_that_is_no_number_makes_moments_that_are_none(through):
    grad_fn = through(preferences.tilted_value_and_moments(lambda w, x: (w - x) ** 2, 1.0))
    value, moments = grad_fn(jnp.array(0.0), jnp.array([0.1, jnp.nan, 3.0]))
    assert np.isnan([value, moments.mean, moments.sum_sq_diff]).all()


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (jnp.zeros(0), "the batch is empty"),
        (jnp.ones(1), "the batch has one example"),
        ({"a": jnp.ones(3), "b": jnp.ones(2)}, "disagree on the number of examples"),
        ({"a": jnp.ones(3), "b": 1.0}, "'b' is a scalar"),
    ],
)
def test_a_tilted_batch_that_is_none_is_refused(batch, said):
    grad_fn = preferences.tilted_value_and_moments(lambda w, x: w**2, 1.0)
    with pytest.raises(ValueError, match=said):
        grad_fn(jnp.array(0.5), batch)
    with pytest.raises(ValueError, match="there are no losses"):
        preferences.tilted_mean(jnp.zeros(0), 1.0)


def test_what_is_not_measured_is_marked():
    params, batch, loss = small_problem()
    grad_fn = jax.jit(preferences.tilted_value_and_moments(loss, 1.0))
    _, whole = grad_fn(params, batch)
    for measure in (False, jnp.array(False)):
        _, found = grad_fn(params, batch, measure=measure)
        assert all(np.all(x == -1) for x in jax.tree.leaves(found.sum_sq_diff))
        jax.tree.map(np.testing.assert_array_equal, found.mean, whole.mean)


def test_metrics_of_rewards():
    chosen, rejected = jnp.array([1.0, -2.0, 0.0, 3.0]), jnp.array([0.0, 1.0, 0.0, 2.5])
    assert float(preferences.reward_accuracy(chosen, rejected)) == (1 + 0 + 0.5 + 1) / 4
    assert float(preferences.drift(jnp.stack([chosen, rejected]))) == (1 + 2 + 3 + 1 + 2.5) / 8
    assert preferences.sustained([0.1, 0.9, 0.4, 0.6]).tolist() == [0.1, 0.4, 0.4, 0.6]


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("margin", [(3,), (3,), (3, 1), (3, 1)], r"reference_chosen \(3, 1\)"),
        ("reward", [(3,), (3, 1)], r"policy has shape \(3,\), reference \(3, 1\)"),
        ("reward_accuracy", [(3,), (3, 1)], r"chosen has shape \(3,\), rejected \(3, 1\)"),
        (
            "kl_per_token",
            [(3, 4, 5), (3, 4, 5), (4,)],
            r"mask has shape \(4,\), positions \(3, 4\)",
        ),
        ("tilted_mean", [(1, 3)], r"losses have shape \(1, 3\)"),
    ],
)
def test_what_does_not_belong_together_is_not_broadcast(name, shapes, said):
    call = inspect.unwrap(getattr(preferences, name))  # without the types that tests alone check
    last = (1.0,) if name == "tilted_mean" else ()
    with pytest.raises(ValueError, match=said):
        call(*map(jnp.ones, shapes), *last)


def test_kl_of_16_bits_and_of_masked_words():
    rng = np.random.default_rng(0)
    policy = jnp.asarray(3 * rng.normal(size=(2, 20_000)), jnp.bfloat16)
    reference = policy + jnp.asarray(0.1 * rng.normal(size=policy.shape), jnp.bfloat16)
    wide = (x.astype(jnp.float32) for x in (policy, reference))
    expected = preferences.kl_per_token(*wide, jnp.ones(2))
    np.testing.assert_allclose(preferences.kl_per_token(policy, reference, jnp.ones(2)), expected)
    masked = (jnp.append(x, jnp.full((2, 1), -jnp.inf), 1) for x in (policy, reference))
    np.testing.assert_allclose(preferences.kl_per_token(*masked, jnp.ones(2)), expected, rtol=1e-6)


def test_kl_is_that_of_the_definition_and_leaves_out_padding():
    rng = np.random.default_rng(0)
    policy, reference = rng.normal(size=(2, 3, 5, 7))
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], float)
    total = 0.0
    for i, t in np.argwhere(mask):
        p, q = (np.exp(x[i, t]) / np.exp(x[i, t]).sum() for x in (policy, reference))
        total += float(np.sum(p * np.log(p / q)))
    found = preferences.kl_per_token(*(jnp.asarray(x) for x in (policy, reference, mask)))
    np.testing.assert_allclose(found, total / mask.sum(), rtol=1e-5)


@pytest.mark.parametrize("gap", [0.0, 1.0, 10.0, 18.0, 40.0, 80.0])
def test_the_noise_of_one_example_that_holds_nearly_all_weight(gap):
    """Against differences of gradients in double precision."""
    rng = np.random.default_rng(0)
    losses, slopes = rng.random(8) * 3 + gap, rng.standard_normal(8)
    losses[3] = 0.0

    def gradient(kept):
        weights = np.exp(losses[kept].min() - losses[kept])
        return (weights * slopes[kept]).sum() / weights.sum()

    whole = gradient(np.arange(8))
    moves = [whole - gradient(np.delete(np.arange(8), i)) for i in range(8)]

    def loss(w, example):
        return example[0] + w * example[1]

    batch = losses.astype(np.float32), slopes.astype(np.float32)
    grad_fn = preferences.tilted_value_and_moments(loss, 1.0, block="parameter")
    _, moments = jax.jit(grad_fn)(jnp.float32(0), batch)
    np.testing.assert_allclose(moments.mean, whole, rtol=1e-5)
    np.testing.assert_allclose(moments.sum_sq_diff, 49 * np.square(moves).sum(), rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_kl_divergence_counts_its_tokens_exactly(dtype):
    policy = jnp.log(jnp.array([[3.0, 1.0]]) / 4) * jnp.ones((70_001, 1))
    even, mask = jnp.zeros_like(policy), jnp.ones(70_001, dtype)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    found = preferences.kl_per_token(policy, even, mask.at[0].set(0))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("padding", [np.nan, -np.inf])
def test_what_stands_in_the_padding_does_not_matter(padding):
    policy, mask = jnp.array([[0.0, 1.0], [padding, padding]]), jnp.array([1.0, 0.0])

    def of(x):
        return preferences.kl_per_token(x, jnp.where(mask[:, None] > 0, 0.0, x), mask)

    value, slope = jax.value_and_grad(of)(policy)
    assert value == preferences.kl_per_token(policy[:1], jnp.zeros((1, 2)), mask[:1])
    assert np.isfinite(slope).all()


def test_means_of_narrow_types_are_not_rounded():
    many = jnp.ones(70_000, jnp.float16)
    assert float(preferences.tilted_mean(many, 1.0)) == 1.0
    chosen = jnp.where(jnp.arange(1000) < 503, 1, -1).astype(jnp.bfloat16)
    assert float(preferences.reward_accuracy(chosen, jnp.zeros_like(chosen))) == np.float32(0.503)


def test_strengths_may_be_arrays_and_traced():
    margins = jnp.array([0.5, -1.0])
    betas = jnp.array([0.1, 0.2])
    for loss in (preferences.dpo, preferences.ipo):
        alone = [loss(margins[i], float(betas[i])) for i in range(2)]
        np.testing.assert_allclose(loss(margins, betas), jnp.stack(alone), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(loss)(margins, betas), jnp.stack(alone), rtol=1e-6)
    for loss in (preferences.cdpo, preferences.rdpo):
        traced = jax.jit(lambda rate, loss=loss: loss(margins, flip_rate=rate))(0.2)
        np.testing.assert_allclose(traced, loss(margins, flip_rate=0.2), rtol=1e-6)
        with pytest.raises(ValueError, match="flip_rate"):
            loss(margins, flip_rate=jnp.array([0.1, 0.7]))
    with pytest.raises(ValueError, match="beta"):
        preferences.dpo(margins, jnp.array([0.1, -0.2]))
