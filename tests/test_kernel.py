"""The gate of kernels: evidence by rows and columns, in the better one of two bases."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import snrgate
from snrgate import kernel, kronecker
from snrgate.block import Sides, default_sides
from snrgate.evidence import read
from snrgate.kernel import Kernel
from snrgate.moments.kronecker import SideSums, outer_sums
from snrgate.settings import Rule

SIZE, DATASET, SHAPE = 32, 400, (20, 6)


def is_due(step):
    return bool(kernel.is_due(jnp.array(step)))


@functools.cache
def gate(inner=optax.identity(), **settings):  # noqa: B008  one compilation for all tests
    return snrgate.snr_gate(inner, block="kronecker", dataset_size=DATASET, **settings)


def view_of(state, shape=SHAPE):
    return read("kronecker", "w", shape).opened(state.views["w"])


def statistics(gradients):
    """Mean and sums of both sides of per-example gradients, from the differences themselves."""
    mean = gradients.mean(0)
    difference = gradients - mean[None]
    each = jax.vmap(lambda d: outer_sums(d, default_sides("w", mean.shape)))(difference)
    return mean, jax.tree.map(lambda x: x.sum(0), each)


@functools.partial(jax.jit, static_argnames=("tx", "steps"))
def trained(tx, gradients, key, bad=0, *, steps=150):
    """A run on batches of gradients that do not depend on the parameters; one step may be bad."""

    def step(state, now):
        key, count = now
        batch = gradients[jax.random.randint(key, (SIZE,), 0, DATASET)]
        mean, sums = statistics(jnp.where(count == bad, jnp.nan, batch))
        given = {"sum_sq_diff_grads": {"w": sums}, "sample_size": SIZE}
        updates, state = tx.update({"w": mean}, state, **given)
        return state, (updates["w"], state.gate_fraction, state.skipped_steps[0])

    first = tx.init({"w": jnp.zeros(gradients.shape[1:])})
    now = jax.random.split(key, steps), jnp.arange(1, steps + 1)
    return jax.lax.scan(step, first, now)


def noise(seed, shape=SHAPE):
    """The gradients of the examples of a data set in which there is nothing to learn."""
    return jax.random.normal(jax.random.key(seed), (DATASET, *shape))


def sparse(seed=3):
    """Gradients with a signal in the first two rows."""
    return noise(seed) + jnp.zeros((1, *SHAPE)).at[:, :2].set(0.5)


def collinear(seed=6):
    """Gradients as of inputs with one strong principal component; the signal is in a weak one.

    The noise of every single row is that of the strong component.
    """
    m, n = SHAPE
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(5), (m, m)))[0]
    scale = jnp.full((1, m), 0.05).at[0, 0].set(5.0)
    signal = jnp.zeros((1, m, n)).at[:, 3].set(0.05)
    return basis, jnp.einsum("mk,bkn->bmn", basis, signal + scale[..., None] * noise(seed))


def numpy_ratios(signal, noise, bases):
    """The ratios as the formula has them, in double precision."""
    a, c = (
        np.diag(p.T @ s @ p) / np.diag(p.T @ n @ p)
        for s, n, p in zip(signal, noise, bases, strict=True)
    )
    return np.outer(a, c) / (np.trace(signal[0]) / np.trace(noise[0]))


@hypothesis.given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
@hypothesis.settings(deadline=None, max_examples=25)
def test_the_ratios_are_those_of_the_formula(m, n, seed):
    rng = np.random.default_rng(seed)

    def sums():
        x = rng.normal(size=(9, m, n)) * rng.lognormal(size=(m, 1))
        return np.einsum("bmn,bkn->mk", x, x), np.einsum("bmn,bmk->nk", x, x)

    signal, noise = sums(), sums()
    bases = tuple(np.linalg.qr(rng.normal(size=(k, k)))[0] for k in (m, n))
    to_jax = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float32))
    got = kronecker.ratios(to_jax(signal), to_jax(noise), to_jax(bases), 0)
    np.testing.assert_allclose(got.all, numpy_ratios(signal, noise, bases), rtol=1e-3)
    own = kronecker.ratios(to_jax(signal), to_jax(noise), (None, None), 0)
    eyes = np.eye(m), np.eye(n)
    np.testing.assert_allclose(own.all, numpy_ratios(signal, noise, eyes), rtol=1e-3)
    rank = min(np.trace(s) ** 2 / np.sum(s**2) for s in noise)
    np.testing.assert_allclose(kronecker.doubt(to_jax(noise), 0), 1 + np.sqrt(2 / rank), rtol=1e-3)


def test_the_eigenvectors_diagonalise_each_kernel_of_a_stack():
    x = np.random.default_rng(0).normal(size=(3, 20, 5)).astype(np.float32)
    noise = np.einsum("lbm,lbk->lmk", x, x)
    basis = jax.jit(kronecker.eigenvectors)(1e-20 * noise)
    turned = np.einsum("lmi,lmk,lkj->lij", basis, noise, basis)
    np.testing.assert_allclose(turned * (1 - np.eye(5)), 0, atol=1e-4)
    np.testing.assert_allclose(
        np.einsum("lmi,lmj->lij", basis, basis), np.broadcast_to(np.eye(5), (3, 5, 5)), atol=1e-5
    )


@pytest.mark.parametrize("shape", [SHAPE, (5, 2, 2, 6)])
def test_noise_does_not_get_through(shape):
    """The data set's own mean is the only signal here, and nothing of it is to be learned.

    The reference is the formula, on means of pure noise with the noise known exactly.
    """
    rates = [
        trained(gate(), noise(seed, shape), jax.random.key(seed))[1][1][100:].mean()
        for seed in range(8)
    ]
    m, n = shape[0] * (4 if len(shape) == 4 else 1), 6
    mean = np.random.default_rng(0).normal(size=(500, m, n))
    a, c = (np.mean(mean**2, axis) for axis in (2, 1))
    x = a[:, :, None] * c[:, None] / np.mean(mean**2, (1, 2))[:, None, None]
    own = 1 / DATASET / (1 / DATASET + (1 / SIZE - 1 / DATASET) * 0.1 / 1.9)
    held = own * (1 + np.sqrt(2 / n))
    over = np.maximum(x - (1 - own) - held, 0)
    expected = np.mean(over / (over + held))
    assert 0.3 * expected < np.mean(rates) < 1.7 * expected
    assert expected < 0.1


def test_rows_that_carry_nothing_are_shut_and_the_others_open():
    state, (updates, _, _) = trained(gate(), sparse(), jax.random.key(4))
    last = jnp.abs(updates[100:].mean(0))
    assert view_of(state).own
    assert last[2:].mean() < 0.02 * last[:2].mean()
    assert last[:2].mean() > 0.35


def test_what_is_weak_beside_something_strong_gets_through():
    """Only in the basis of the components does the signal stand out."""
    basis, gradients = collinear()
    state, (updates, _, _) = trained(gate(), gradients, jax.random.key(7))
    got = basis.T @ updates[100:].mean(0)
    free = basis.T @ gradients.mean(0)
    assert not view_of(state).own
    assert got[3].mean() > 0.7 * free[3].mean()
    # The mean of the strong component is what its own noise makes of it.
    assert jnp.linalg.norm(got[0]) < 0.3 * jnp.linalg.norm(free[0])
    per_unit = snrgate.snr_gate(optax.identity(), dataset_size=DATASET)
    units = _per_unit(per_unit, gradients)
    assert (basis.T @ units)[3].mean() < 0.3 * free[3].mean()


def _per_unit(tx, gradients):
    def step(state, key):
        batch = gradients[jax.random.randint(key, (SIZE,), 0, DATASET)]
        mean = batch.mean(0)
        given = {"sum_sq_diff_grads": {"kernel": jnp.sum((batch - mean[None]) ** 2, 0)}}
        updates, state = tx.update({"kernel": mean}, state, sample_size=SIZE, **given)
        return state, updates["kernel"]

    keys = jax.random.split(jax.random.key(7), 150)
    first = tx.init({"kernel": jnp.zeros(SHAPE)})
    return jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(first)[100:].mean(0)


@pytest.mark.parametrize("gradients", [sparse, lambda: collinear()[1]])
def test_the_gates_of_a_transposed_kernel_are_the_transposed_gates(gradients):
    straight = trained(gate(), gradients(), jax.random.key(9))[1][0]
    flipped = trained(gate(), gradients().mT, jax.random.key(9))[1][0]
    np.testing.assert_allclose(straight, flipped.mT, atol=2e-2 * jnp.abs(straight).max())


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_the_scale_of_the_loss_does_not_matter(scale):
    for gradients in (sparse(), collinear()[1]):
        one = trained(gate(), gradients, jax.random.key(9))[1][1]
        other = trained(gate(), scale * gradients, jax.random.key(9))[1][1]
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_stack_is_gated_layer_by_layer():
    """Two layers in one array have the gates that each has by itself."""
    gradients = {"a": sparse(), "b": collinear()[1]}
    sides = Sides((0,), (1,), (2,))

    def sums_of(differences, sides):
        each = jax.vmap(lambda d: outer_sums(d, sides))(differences)
        return jax.tree.map(lambda x: x.sum(0), each)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(tx, together):
        def step(state, key):
            at = jax.random.randint(key, (SIZE,), 0, DATASET)
            given = {k: g[at] for k, g in gradients.items()}
            if together:
                given = {"w": jnp.stack(list(given.values()), 1)}
            mean = {k: g.mean(0) for k, g in given.items()}
            sums = {
                k: sums_of(g - mean[k][None], sides if together else default_sides(k, SHAPE))
                for k, g in given.items()
            }
            updates, state = tx.update(mean, state, sum_sq_diff_grads=sums, sample_size=SIZE)
            return state, jnp.stack(jax.tree.leaves(updates)).reshape(2, *SHAPE)

        shapes = {"w": (2, *SHAPE)} if together else dict.fromkeys("ab", SHAPE)
        first = tx.init({k: jnp.zeros(shape) for k, shape in shapes.items()})
        return jax.lax.scan(step, first, jax.random.split(jax.random.key(11), 50))[1]

    stacked = snrgate.snr_gate(
        optax.identity(), block=lambda path, shape: sides, dataset_size=DATASET
    )
    together, apart = run(stacked, True), run(gate(), False)
    np.testing.assert_allclose(together, apart, atol=1e-3)


def test_a_long_side_is_a_diagonal(monkeypatch):
    """The side has its own basis then, the other side both."""
    monkeypatch.setattr("snrgate.block.MAX_SIDE", 10)
    tx = snrgate.snr_gate(optax.identity(), block="kronecker", dataset_size=DATASET)
    state, (updates, _, _) = trained(tx, sparse(), jax.random.key(4))
    assert state.noise["w"].size == 20 + 6 * 6
    assert [p.shape for p in view_of(state).bases] == [(6, 6)]
    last = jnp.abs(updates[100:].mean(0))
    assert last[2:].mean() < 0.05 * last[:2].mean()
    assert last[:2].mean() > 0.35


def test_statistics_count_only_where_they_are_due():
    """Between two measurements anything may be given."""
    gradients = noise(12)

    @jax.jit
    def run(wrong):
        def step(state, now):
            key, count = now
            mean, sums = statistics(gradients[jax.random.randint(key, (SIZE,), 0, DATASET)])
            due = kernel.is_due(count)
            sums = jax.tree.map(lambda x: jnp.where(due, x, x * wrong), sums)
            told = snrgate.measures_next(state) == due
            given = {"sum_sq_diff_grads": {"w": sums}, "sample_size": SIZE}
            updates, state = gate().update({"w": mean}, state, **given)
            return state, (updates, told)

        now = jax.random.split(jax.random.key(13), 62), jnp.arange(1, 63)
        return jax.lax.scan(step, gate().init({"w": jnp.zeros(SHAPE)}), now)

    right, wrong = run(1.0), run(-7.0)
    chex.assert_trees_all_equal(right, wrong)
    assert jnp.all(right[1][1])


@pytest.mark.parametrize("bad", [20, 45, 50])
def test_a_bad_step_is_sat_out(bad):
    """Whether it would have measured evidence or not."""
    state, (_, _, skipped) = trained(gate(), noise(12), jax.random.key(13), bad)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(state))
    np.testing.assert_array_equal(skipped, np.arange(1, 151) >= bad)
    measured = [t for t in range(1, 151) if is_due(t) and t != bad]
    assert state.age[0] == sum(1 if t <= 40 else 10 for t in measured)


@pytest.mark.parametrize("block", ["unit", "kronecker"])
def test_a_step_whose_sums_were_left_out_is_sat_out(block):
    """It must not be taken for a batch without noise."""
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}

    def loss_fn(params, x):
        return jnp.sum((x @ params["kernel"] + params["bias"]) ** 2)

    tx = snrgate.adamw(1e-3, block=block)
    grad_fn = snrgate.value_and_moments(loss_fn, block=block)

    @jax.jit
    def step(state, measure):
        _, moments = grad_fn(params, jnp.arange(12.0).reshape(4, 3), measure=measure)
        return tx.update(moments.mean, state, params, **moments.extra_args())

    updates, state = step(tx.init(params), False)
    assert optax.tree.get(state, "skipped_steps").tolist() == [1, 1]
    assert optax.tree.get(state, "age").tolist() == [0, 0]
    assert not any(jnp.any(u) for u in jax.tree.leaves(updates))
    _, state = step(state, True)
    assert optax.tree.get(state, "age").tolist() == [1, 1]


@pytest.mark.parametrize("open_rows", [1, 3, 20])
def test_a_turn_of_the_open_corner_alone_gives_the_same(open_rows, monkeypatch):
    """Against the products written out; few open gates, many, and all."""
    monkeypatch.setattr(kernel, "_SMALL", 0)
    rng = np.random.default_rng(0)
    x, signal = rng.normal(size=SHAPE), (np.ones(SHAPE[0]), np.ones(SHAPE[1]))
    gates = np.where(np.arange(SHAPE[0])[:, None] < open_rows, rng.uniform(size=SHAPE), 0)
    gates[:, 1 if open_rows == 1 else SHAPE[1] :] = 0
    left, right = (np.linalg.qr(rng.normal(size=(k, k)))[0] for k in SHAPE)
    reading = read("kronecker", "w", SHAPE)
    view = reading.opened(reading.first_view(jnp.float32))
    view = view._replace(bases=(left, right), own=np.zeros((), bool))
    packed, gates = ravel_pytree(view)[0], jnp.asarray(gates, jnp.float32)
    got = jax.jit(reading.through)(jnp.asarray(x, jnp.float32), gates, packed, signal)
    expected = left @ ((left.T @ x @ right) * gates) @ right.T
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(("make", "products"), [(snrgate.adam, 10), (snrgate.soap, 12)])
def test_an_update_takes_the_products_of_matrices_that_are_counted(make, products):
    """Two for the squares, four for the coordinates, four for the turn; two more for SOAP."""
    n, tx = 128, make(1e-3, block="kronecker")
    w = jax.ShapeDtypeStruct((n, n), jnp.float32)
    state = jax.eval_shape(tx.init, {"w": w})
    sums = SideSums(w, w, default_sides("w", (n, n)))

    @jax.jit
    def update(grads, state, sums):
        return tx.update(grads, state, grads, sum_sq_diff_grads={"w": sums}, sample_size=SIZE)

    counted = update.lower({"w": w}, state, sums).compile().cost_analysis()["flops"]
    corner = 1.25  # the other branch of the turn
    assert counted < (2 * products + corner + 0.6) * n**3


def test_nothing_of_a_silent_row_is_spread_by_the_turn():
    """An inner transformation that divides by zero there must not reach the other rows."""
    gradients = collinear()[1].at[:, 4].set(0.0)
    divides = optax.stateless(lambda g, p: jax.tree.map(lambda x: jnp.sign(x) * (x / x), g))
    state, (updates, _, _) = trained(gate(divides), gradients, jax.random.key(7), steps=60)
    assert not view_of(state).own
    assert jnp.all(jnp.isfinite(updates))
    assert jnp.all(updates[:, 4] == 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_updates_keep_the_dtype_of_their_parameters(dtype):
    params = {"w": jnp.ones((6, 4), dtype)}
    tx = snrgate.snr_gate(optax.scale_by_adam(), block="kronecker")
    state = jax.eval_shape(tx.init, params)
    updates, state = jax.eval_shape(tx.update, params, state, params)
    assert updates["w"].dtype == dtype
    assert state.noise["w"].dtype == jnp.float32


def test_streaming_noise_finds_the_rows_too():
    gradients, tx = sparse(), gate(noise="streaming")

    def step(state, key):
        mean = gradients[jax.random.randint(key, (SIZE,), 0, DATASET)].mean(0)
        updates, state = tx.update({"w": mean}, state, sample_size=SIZE)
        return state, updates["w"]

    keys = jax.random.split(jax.random.key(4), 200)
    first = tx.init({"w": jnp.zeros(SHAPE)})
    updates = jax.jit(lambda s: jax.lax.scan(step, s, keys)[1])(first)
    last = jnp.abs(updates[150:].mean(0))
    assert last[2:].mean() < 0.05 * last[:2].mean()
    assert last[:2].mean() > 0.35


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"alpha": 1.0}, "alpha"),
        ({"noise": "instantaneous"}, "instantaneous"),
        ({"signal_decay": 0.0}, "signal_decay"),
    ],
)
def test_settings_without_averages_are_refused(settings, named):
    tx = snrgate.snr_gate(optax.identity(), block="kronecker", **settings)
    with pytest.raises(ValueError, match=f"kronecker.*{named}"):
        tx.init({"w": jnp.zeros((3, 2))})


def test_sums_of_another_kind_or_of_other_sides_are_refused():
    tx = gate()
    params = {"w": jnp.zeros((3, 2, 4))}
    state = tx.init(params)
    with pytest.raises(ValueError, match=r"'w' has shape .* block='kronecker'"):
        tx.update(params, state, sum_sq_diff_grads=params, sample_size=SIZE)
    other = Sides((0,), (1,), (2,))
    with pytest.raises(ValueError, match=r"rows \(1,\).*eval_shape"):
        tx.update(
            params, state, sum_sq_diff_grads={"w": outer_sums(params["w"], other)}, sample_size=SIZE
        )
    moments = snrgate.Moments(params, {"w": outer_sums(params["w"], other)}, SIZE)
    told = snrgate.snr_gate(optax.identity(), block=jax.eval_shape(lambda: moments))
    state = jax.eval_shape(told.init, params)
    updates, _ = jax.eval_shape(told.update, params, state, **moments.extra_args())
    assert updates["w"].shape == params["w"].shape


def test_the_spectrum_shows_what_the_gate_saw():
    axes = matplotlib.figure.Figure().subplots()
    params = {"w": jnp.zeros(SHAPE)}
    for gradients, strong, own in ((sparse(), [0, 1], True), (collinear()[1], None, False)):
        state, (_, fractions, _) = trained(gate(), gradients, jax.random.key(7))
        (spectrum,) = snrgate.diagnostics.evidence_spectra(state, params)["w"]
        assert spectrum.own == own
        np.testing.assert_allclose(spectrum.ratios, view_of(state).ratios.all[...], rtol=1e-3)
        passes = spectrum.ratios > spectrum.threshold
        assert (fractions[-1] > 0) == passes.any()
        if strong:
            assert np.flatnonzero(passes.all(1)).tolist() == strong
        np.testing.assert_allclose(
            spectrum.noise_rows.sum(), spectrum.noise_columns.sum(), rtol=1e-3
        )
        np.testing.assert_allclose(
            spectrum.signal_rows.sum(), spectrum.signal_columns.sum(), rtol=1e-3
        )
        spectrum.plot(axes)
    assert axes.get_xlabel() == "principal component of the noise"
    with pytest.raises(ValueError, match="no gate with block='kronecker'"):
        snrgate.diagnostics.evidence_spectra(snrgate.adamw(1e-3).init(params), params)


def test_a_network_is_gated_from_its_program():
    """The moments of a loss and the gate meet, with the statistics left out where none are due."""

    def loss_fn(params, example):
        x, y = example
        hidden = jnp.tanh(x @ params["one"]["kernel"] + params["one"]["bias"])
        return jnp.sum((hidden @ params["two"]["kernel"] - y) ** 2)

    key = jax.random.key(0)
    x = jax.random.normal(key, (200, 12))
    y = x[:, :1] + 0.5 * jax.random.normal(jax.random.key(1), (200, 1))
    params = {
        "one": {"kernel": 0.3 * jax.random.normal(key, (12, 8)), "bias": jnp.zeros(8)},
        "two": {"kernel": 0.3 * jax.random.normal(key, (8, 1))},
    }
    tx = snrgate.adamw(3e-3, block="kronecker", dataset_size=200)
    grad_fn = snrgate.value_and_moments(loss_fn, block="kronecker")

    @functools.partial(jax.jit, static_argnums=0)
    def run(sparing):
        def step(carry, key):
            params, state = carry
            at = jax.random.randint(key, (32,), 0, 200)
            measure = snrgate.measures_next(state) if sparing else True
            _, moments = grad_fn(params, (x[at], y[at]), measure=measure)
            updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
            return (optax.apply_updates(params, updates), state), None

        start = params, tx.init(params)
        return jax.lax.scan(step, start, jax.random.split(jax.random.key(2), 400))[0]

    fitted, state = run(True)
    chex.assert_trees_all_close(run(False)[0], fitted, rtol=1e-4, atol=1e-6)
    assert not jnp.any(optax.tree.get(state, "skipped_steps"))
    moved = jnp.abs(fitted["one"]["kernel"] - params["one"]["kernel"]).sum(1)
    assert moved[1:].mean() < 0.2 * moved[0]


def test_a_rule_holds_back_more_where_it_doubts():
    rule = Rule(snrgate.gate.soft, 0.0, False, 1.0, 0.5, 0.5, 0.5).doubted(jnp.array(3.0))
    assert (float(rule.threshold), float(rule.softness)) == (2.0, 1.5)
    kernel = Kernel("w", (3, 2), default_sides("w", (3, 2)))
    assert isinstance(SideSums(*kernel.squares(jnp.ones((3, 2))), kernel.sides), SideSums)
