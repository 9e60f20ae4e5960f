"""The identities of the theory along runs that learn features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate import theory

N, M = 10, 6


def squared(u, y):
    return jnp.sum(jnp.square(u - y)) / 2


def crossed(u, y):
    return optax.softmax_cross_entropy_with_integer_labels(u, y)


def problem(activation=jnp.tanh, outputs=1, loss="squared", width=6):
    """A network, its data and some queries, in float64."""
    rng = np.random.default_rng(0)
    x, queries = rng.normal(size=(N, 3)), rng.normal(size=(M, 3))
    params = {
        "a": jnp.asarray(rng.normal(size=(3, width)) / 2),
        "b": jnp.asarray(rng.normal(size=width) / 2),
        "c": jnp.asarray(rng.normal(size=(width, outputs)) / 3),
    }
    y = rng.normal(size=(N, outputs)) if loss == "squared" else rng.integers(0, outputs, N)

    def f(params, x):
        return activation(x @ params["a"] + params["b"]) @ params["c"]

    return f, (squared if loss == "squared" else crossed), params, (x, y), jnp.asarray(queries)


def check_identities(f, loss, params, data, queries, end, record, tolerance):
    """1 and 2: what the record says of outputs and loss is what happened."""

    def phi(params):
        return jnp.mean(jax.vmap(lambda x, y: loss(f(params, x), y))(*data))

    g = record.gradient
    before, after = (theory.outputs(f, p, data[0]) for p in (params, end))
    seen_before, seen_after = (theory.outputs(f, p, queries) for p in (params, end))
    lost = float(phi(params) - phi(end))
    assert float(g @ record.dissipation @ g) == pytest.approx(lost, rel=tolerance)
    size = float(jnp.linalg.norm(after - before))
    np.testing.assert_allclose(after - before, -record.training @ g, atol=tolerance * size)
    np.testing.assert_allclose(seen_after - seen_before, -record.test @ g, atol=tolerance * size)
    shape = jax.vmap(f, (None, 0))(end, data[0]).shape
    last = jax.grad(lambda u: jnp.mean(jax.vmap(loss)(u, data[1])))(after.reshape(shape))
    np.testing.assert_allclose(
        jnp.ravel(last), record.propagator @ g, atol=tolerance * float(jnp.linalg.norm(g))
    )


def check_bounds(record):
    """3 and 4: the reservoir is invisible, and the channel bounds what is seen."""
    values, vectors = np.linalg.eigh(record.gramian)
    assert values.min() >= -1e-12 * values.max()
    null = vectors[:, values < 1e-13 * values.max()]
    moved = np.abs(record.test @ null)
    assert moved.max(initial=0.0) <= 1e-5 * np.abs(record.test).max()
    seen = np.linalg.eigvalsh(theory.visibility(record.test))
    assert np.all(seen <= float(record.reach) * values + 1e-10 * seen.max())
    v = np.random.default_rng(0).normal(size=(record.gramian.shape[0], 200))
    left = np.sum(np.square(record.test @ v), axis=0)
    right = float(record.reach) * np.einsum("ic,ij,jc->c", v, record.gramian, v)
    assert np.all(left <= right * (1 + 1e-9))


RUNS = {
    "descent": (optax.sgd(0.5), {}, {}),
    "kinks": (optax.sgd(0.4), {"activation": jax.nn.relu}, {}),
    "batches": (optax.sgd(0.4), {}, {"batch_size": 3}),
    "momentum": (optax.sgd(0.2, momentum=0.8), {}, {"batch_size": 5}),
    "classes": (optax.sgd(1.0), {"outputs": 3, "loss": "classes"}, {"batch_size": 4}),
    "adam": (optax.adam(0.05), {}, {"batch_size": 5}),
    "rms": (optax.rmsprop(0.02), {}, {}),
    "gate": (snrgate.adam(0.05, dataset_size=N), {}, {"batch_size": 5, "block": "unit"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_record_holds_to_rounding_along_a_run_that_learns_features(name):
    tx, made, run = RUNS[name]
    with jax.enable_x64(True):
        posed = problem(**made)
        done = theory.record(*posed[:2], tx, *posed[2:], steps=40, key=jax.random.key(0), **run)
        check_identities(*posed, done.params, done.record, 1e-8)
        check_bounds(done.record)
        assert float(done.record.drift) > 0.25, "the kernel hardly moved"
        # A smooth network needs no correction of the quadrature.
        assert (float(done.record.defect) < 1e-3) == (name != "kinks")


def test_a_run_recorded_in_two_parts_is_the_run_recorded_at_once():
    with jax.enable_x64(True):
        f, loss, params, data, queries = problem()
        run = functools.partial(theory.record, f, loss, optax.sgd(0.3), params, data, queries)
        whole, part = run(steps=20), run(steps=8)
        both = run(steps=12, start=part)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(both), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_gradient_flow_converges_to_the_identities_with_the_fourth_power_of_the_step():
    with jax.enable_x64(True):
        posed = problem()
        errors = []
        for steps in (100, 200):
            flow = theory.gradient_flow(*posed, time=20.0, steps=steps)
            g, record = flow.record.gradient, flow.record
            moved = theory.outputs(posed[0], flow.params, posed[3][0])
            moved -= theory.outputs(posed[0], posed[2], posed[3][0])
            errors.append(float(jnp.linalg.norm(moved + record.training @ g)))
        assert errors[0] / errors[1] > 12  # 2 ** 4 in the limit
        check_identities(*posed, flow.params, flow.record, 1e-4)
        check_bounds(flow.record)
        assert float(flow.record.drift) > 0.3


def test_small_steps_of_descent_tend_to_the_flow():
    with jax.enable_x64(True):
        posed = problem()
        flow = theory.gradient_flow(*posed, time=4.0, steps=40).record
        gaps = []
        for steps in (40, 80):
            run = theory.record(*posed[:2], optax.sgd(4.0 / steps), *posed[2:], steps=steps)
            gaps.append(float(jnp.linalg.norm(run.record.gramian - flow.gramian)))
        assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)
        np.testing.assert_allclose(run.record.dissipation, flow.gramian, atol=0.1)


def test_the_frozen_kernel_fits_mode_by_mode():
    """7: a linear model under gradient flow fits mode j by 1 - exp(-t sigma_j^2 / n)."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(N, 4)), rng.normal(size=N)
        t = 3.0
        flow = theory.gradient_flow(
            lambda w, x: x @ w, squared, jnp.zeros(4), (x, y), jnp.eye(4), time=t, steps=60
        )
        left, sigma, _ = np.linalg.svd(x, full_matrices=False)
        fitted = left.T @ (x @ np.asarray(flow.params)) / (left.T @ y)
        np.testing.assert_allclose(fitted, 1 - np.exp(-t * sigma**2 / N), rtol=1e-6)
        # The Gramian has the eigenvalues of its integral; what is not in the range is null.
        values = np.sort(np.linalg.eigvalsh(flow.record.gramian))[::-1]
        expected = N * (1 - np.exp(-2 * t * sigma**2 / N)) / 2
        np.testing.assert_allclose(values[:4], expected, rtol=1e-6)
        np.testing.assert_allclose(values[4:], 0, atol=1e-10)


@pytest.mark.parametrize(("duration", "steps"), [(1.0, 0), (-1.0, 5), (float("nan"), 5)])
def test_a_flow_without_a_length_is_refused(duration, steps):
    with pytest.raises(ValueError, match="must be above 0, and steps"):
        theory.gradient_flow(
            lambda w, x: x @ w,
            squared,
            jnp.zeros(4),
            (jnp.ones((5, 4)), jnp.ones(5)),
            jnp.eye(4),
            time=duration,
            steps=steps,
        )


def test_the_reservoir_of_a_model_of_low_rank_moves_no_query():
    """3: a network that sees the signs of two coordinates tells at most four examples apart."""
    with jax.enable_x64(True):
        f, loss, params, (x, y), queries = problem()
        x[:4] = np.array([[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])

        def blind(params, x):
            return f(params, jnp.sign(x) * jnp.array([1.0, 1.0, 0.0]))

        done = theory.record(blind, loss, optax.sgd(0.5), params, (x, y), queries, steps=40)
        values, vectors = np.linalg.eigh(done.record.gramian)
        assert float(done.record.drift) > 0.25
        null = vectors[:, values < 1e-12 * values.max()]
        assert null.shape[1] == N - 4
        assert np.abs(done.record.test @ null).max() < 1e-12 * np.abs(done.record.test).max()
        # Label noise in the reservoir changes no prediction at all, however large it is.
        moved = y + 100 * null @ np.ones((N - 4, 1))
        again = theory.record(blind, loss, optax.sgd(0.5), params, (x, moved), queries, steps=40)
        for a, b in zip(*map(jax.tree.leaves, (done.params, again.params)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("x64", [False, True])
def test_a_rate_that_falls_to_zero_is_recorded(x64):
    """Compiled, a linear schedule can end a rounding error below zero."""
    with jax.enable_x64(x64):
        posed = problem()
        rate = optax.linear_schedule(0.1, 0, 10)
        until, beyond = (
            theory.record(*posed[:2], optax.sgd(rate), *posed[2:], steps=n) for n in (10, 14)
        )
        for name in ("propagator", "gramian", "training", "test", "reach"):
            a, b = (getattr(run.record, name) for run in (until, beyond))
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


RECORDED = {
    "adam": optax.adam(0.01),
    "adamax": optax.adamax(0.01),
    "yogi": optax.yogi(0.01),
    "finite": optax.apply_if_finite(optax.adam(0.01), 3),
    "momentum": optax.sgd(0.01, momentum=0.9),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_transfer_of_a_record_is_the_change_of_the_outputs(name):
    with jax.enable_x64(True):
        f, loss, params, data, queries = problem()
        run = theory.record(f, loss, RECORDED[name], params, data, queries, steps=8)
        before, after = (jax.vmap(f, (None, 0))(p, data[0]).ravel() for p in (params, run.params))
        said = -run.record.training @ run.record.gradient
        assert float(jnp.linalg.norm(after - before)) > 1e-3
        np.testing.assert_allclose(said, after - before, rtol=1e-4, atol=1e-7)


def test_a_momentum_of_scaled_gradients_is_refused():
    posed = problem()
    for tx in (
        optax.contrib.adopt(0.01),
        optax.inject_hyperparams(optax.contrib.adopt, ("clip_value_fn",))(0.01),
    ):
        with pytest.raises(ValueError, match="no plain average"):
            theory.record(*posed[:2], tx, *posed[2:], steps=3)


def test_a_step_that_is_no_multiple_of_the_momentum_is_refused():
    with jax.enable_x64(True):
        posed = problem()
        for tx in (optax.adamw(0.1, weight_decay=0.1), optax.lion(0.1)):
            with pytest.raises(ValueError, match="no positive multiple"):
                theory.record(*posed[:2], tx, *posed[2:], steps=5)
        with pytest.raises(ValueError, match=r"give key=jax.random.key"):
            theory.record(*posed[:2], optax.sgd(0.1), *posed[2:], steps=5, batch_size=2)
        with pytest.raises(ValueError, match=r"more memory="):
            theory.record(*posed[:2], optax.sgd(0.1), *posed[2:], steps=5, memory=1000)


def test_data_of_double_precision_take_the_type_of_the_parameters():
    x = np.linspace(-1, 1, 6).reshape(3, 2)
    params = {"w": jnp.ones(2, jnp.float32)}

    def f(params, x):
        return params["w"] @ x

    def loss(u, y):
        return jnp.square(u - y)

    found = []
    with jax.enable_x64(True):
        for data in (x, x.astype(np.float32)):
            pair = (data, data[:, 0])
            run = theory.record(f, loss, optax.sgd(0.1), params, pair, data, steps=2)
            flow = theory.gradient_flow(f, loss, params, pair, data, time=0.1, steps=2)
            found.append((run.params["w"], flow.params["w"]))
    np.testing.assert_array_equal(*found)
