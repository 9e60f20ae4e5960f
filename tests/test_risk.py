"""The population risk from twins against closed forms, enumeration and leave-one-out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import snrgate
from snrgate import risk

N, INPUTS = 40, 6
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((N, INPUTS)), jnp.float32)
Y = X @ jnp.arange(1.0, INPUTS + 1) / 5 + jnp.asarray(RNG.standard_normal(N), jnp.float32)


def kernel_hat():
    distances = jnp.sum(jnp.square(X[:, None] - X[None]), -1)
    kernel = jnp.exp(-distances / 8)
    return kernel @ jnp.linalg.inv(kernel + 0.5 * jnp.eye(N))


def descent_hat():
    """What 30 steps of gradient descent from zero make of the targets."""
    gram = X @ X.T
    return jnp.eye(N) - jnp.linalg.matrix_power(jnp.eye(N) - 0.005 * gram, 30)


HATS = {
    "ridge": lambda: X @ jnp.linalg.inv(X.T @ X + 3 * jnp.eye(INPUTS)) @ X.T,
    "kernel ridge": kernel_hat,
    "early stopped": descent_hat,
}


def test_an_example_counts_as_often_as_its_weight():
    """In weighted least squares: the covariance penalty of the weighted training error."""
    weights = jnp.asarray(RNG.integers(0, 4, N), jnp.float32)
    scaled = (X * weights[:, None]).T
    hat = X @ jnp.linalg.inv(scaled @ X + 3 * jnp.eye(INPUTS)) @ scaled

    @jax.jit
    def of(key):
        twins = risk.perturb(key, Y, "regression", copies=2)
        return risk.estimate(twins.targets @ hat.T, twins, "regression", weights=weights)

    found = jax.vmap(of)(jax.random.split(jax.random.key(2), 400))
    share = weights @ jnp.diag(hat) / weights.sum()  # of the weighted error
    df, expected = found.degrees_of_freedom, share * jnp.sum(weights > 0)
    assert abs(df.mean() - expected) < 4 * df.std() / np.sqrt(len(df))
    train = weights @ jnp.square(hat @ Y - Y) / weights.sum()
    np.testing.assert_allclose(found.train, train, rtol=1e-5)
    expected = train / jnp.square(1 - share)
    np.testing.assert_allclose(jnp.median(found.risk), expected, rtol=0.05)


@pytest.mark.parametrize("level", [0.0, 1e3, 1e5])
def test_the_level_of_the_targets_does_not_matter(level):
    """Their dtype rounds the moves, which are taken as they were made."""
    hat = HATS["ridge"]()
    twins = risk.perturb(jax.random.key(0), Y + level, "regression", copies=300)
    outputs = (twins.targets - level) @ hat.T
    found = risk.estimate(outputs + level, twins, "regression")
    # What is left is the rounding of the outputs themselves.
    np.testing.assert_allclose(
        found.degrees_of_freedom, jnp.trace(hat), rtol=0.05, atol=level / 1e5
    )


def test_each_output_is_moved_by_a_tenth_of_its_own_deviation():
    y = jnp.stack([Y, 100 * Y + 1e3, jnp.ones(N)], 1)
    twins = risk.perturb(jax.random.key(0), y, "regression")
    moves = jnp.abs(twins.targets[1] - twins.targets[0])
    np.testing.assert_allclose(moves[:, 0], 0.1 * jnp.std(Y), rtol=1e-3)
    np.testing.assert_allclose(moves[:, 1], 10 * jnp.std(Y), rtol=1e-3)
    assert jnp.all(moves[:, 2] > 0)
    own = risk.perturb(jax.random.key(0), y, "regression", size=jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(jnp.abs(own.targets[1] - y)[0], [1, 2, 3], rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *itertools.product(["binary", "counts"], ["uint8", "uint32", "int8", "float32"]),
        ("binary", "bool"),
    ],
)
def test_the_dtype_of_the_targets_does_not_matter(kind, dtype):
    given = (RNG.random(N) < 0.4) * (1 if kind == "binary" else 3)
    law, eta = jnp.full(N, 0.4), jnp.asarray(RNG.standard_normal((2, N)), jnp.float32)

    def found(dtype):
        twins = risk.perturb(jax.random.key(1), jnp.asarray(given, dtype), kind, law=law)
        return risk.estimate(eta, twins, kind)

    for a, b in zip(found(dtype), found("int32"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_class_that_is_masked_changes_nothing():
    logits = jnp.asarray(3 * RNG.standard_normal((N, 3)), jnp.float32)
    labels = jnp.asarray(RNG.integers(0, 3, N))
    masked = jnp.concatenate([logits, jnp.full((N, 1), -jnp.inf)], 1)
    law = risk.law_of(logits, labels, "classes")
    np.testing.assert_allclose(risk.law_of(masked, labels, "classes")[:, :3], law, rtol=1e-4)


@pytest.mark.parametrize("name", HATS)
def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(name):
    hat = HATS[name]()

    @jax.jit
    def of(key):
        twins = risk.perturb(key, Y, "regression", copies=2)
        return risk.estimate(twins.targets @ hat.T, twins, "regression")

    found = jax.vmap(of)(jax.random.split(jax.random.key(1), 400))
    df = found.degrees_of_freedom
    chance = df.std() / np.sqrt(len(df))
    assert abs(df.mean() - jnp.trace(hat)) < 4 * chance
    # One estimate's own error is what its estimates differ by, or a little more.
    fits = hat @ Y
    expected = jnp.mean(jnp.square(fits - Y)) / jnp.square(1 - jnp.trace(hat) / N)
    np.testing.assert_allclose(jnp.median(found.risk), expected, rtol=0.05)
    ratio = jnp.median(found.standard_error) / found.risk.std()
    assert 0.8 < ratio < 1.6, ratio


@pytest.mark.parametrize("copies", [1, 2, 8, 60])
def test_the_standard_error_is_that_of_chance_whatever_the_leverages(copies):
    """A few examples are followed closely and the others are not, which is no chance."""
    inputs = X * jnp.where(jnp.arange(N) < 6, 8.0, 0.3)[:, None]
    hat = inputs @ jnp.linalg.solve(inputs.T @ inputs + jnp.eye(INPUTS), inputs.T)

    @jax.jit
    @jax.vmap
    def of(key):
        twins = risk.perturb(key, Y, "regression", copies=copies)
        return risk.estimate(twins.targets @ hat.T, twins, "regression")

    found = of(jax.random.split(jax.random.key(9), 400))
    ratio = jnp.sqrt(jnp.mean(jnp.square(found.standard_error))) / found.risk.std()
    assert 0.8 < ratio < (1.25 if copies > 1 else 3), ratio


def test_the_estimate_is_the_error_on_new_targets():
    """Many data sets: the mean estimate, and the mean error on new noise at the same inputs."""
    hat = HATS["ridge"]()
    truth = X @ jnp.arange(1.0, INPUTS + 1) / 5

    @jax.vmap
    def both(key):
        noise, new, signs = jax.random.split(key, 3)
        y = truth + jax.random.normal(noise, (N,))
        twins = risk.perturb(signs, y, "regression", copies=30)
        found = risk.estimate(twins.targets @ hat.T, twins, "regression")
        error = jnp.square(hat @ y - truth - jax.random.normal(new, (N,))).mean()
        return found.risk, error, found.train

    estimate, error, train = jax.jit(both)(jax.random.split(jax.random.key(2), 2000))
    chance = float(jnp.hypot(estimate.std(), error.std()) / np.sqrt(2000))
    # The formula of cross-validation is right to first order in df / n.
    second = float(jnp.square(jnp.trace(hat) / N))
    assert abs(estimate.mean() - error.mean()) < 4 * chance + second
    assert error.mean() - train.mean() > 20 * chance


PARAMETER = {
    # Intercept alone, with a weak prior: the natural parameter by Newton's method.
    "classes": (lambda y: jnp.stack([jnp.sum(y == c) + 1.0 for c in range(3)]), 3),
    "binary": (lambda y: jnp.stack([jnp.sum(y == c) + 1.0 for c in range(2)]), 2),
    "counts": (lambda y: jnp.mean(y) + 0.5, 3),
}


@pytest.mark.parametrize("kind", PARAMETER)
def test_the_covariance_is_that_of_all_targets_there_can_be(kind):
    """Five targets with a known law: the mean over perturbations and targets by enumeration."""
    statistics, values = PARAMETER[kind]
    n, p = 5, jnp.array([0.5, 0.3, 0.2])[:values]
    p = p / p.sum()

    def fit(y):
        found = statistics(y)
        if kind == "classes":
            return jnp.broadcast_to(jnp.log(found / found.sum()), (n, 3))
        value = jnp.log(found[1] / found[0]) if kind == "binary" else jnp.log(found)
        return jnp.broadcast_to(value, (n,))

    every = jnp.array(list(itertools.product(range(values), repeat=n)))
    weights = jnp.prod(p[every], axis=1)
    eta = jax.vmap(fit)(every)
    t = jax.nn.one_hot(every, 3) if kind == "classes" else every[..., None]
    eta = eta if kind == "classes" else eta[..., None]
    mean_t, mean_eta = (jnp.tensordot(weights, x, 1) for x in (t, eta))
    products = jnp.sum((t - mean_t[None]) * (eta - mean_eta[None]), (1, 2))
    exact = jnp.sum(weights * products)

    def draw(key, shape):
        return jax.random.categorical(key, jnp.log(p), shape=shape)

    @jax.jit
    @jax.vmap
    def one(key):
        first, second, share = jax.random.split(key, 3)
        y, other = draw(first, (n,)), draw(second, (n,))
        new = jnp.where(jax.random.bernoulli(share, 0.4, (n,)), other, y)
        twins = risk.Twins(jnp.stack([y, new]), jnp.array(0.4))
        found = risk.estimate(jnp.stack([fit(y), fit(new)]), twins, kind)
        return found.degrees_of_freedom

    df = one(jax.random.split(jax.random.key(3), 40_000))
    assert abs(df.mean() - exact) < 4 * df.std() / 200
    assert exact > 20 * df.std() / 200 / 4


def test_logistic_regression_agrees_with_leave_one_out():
    labels = jax.random.bernoulli(jax.random.key(4), jax.nn.sigmoid(2 * X[:, 0])).astype(int)

    def fit(y, weights):
        def loss(w):
            logits = X @ w
            losses = jax.nn.softplus(logits) - y * logits
            return jnp.sum(weights * losses) + 0.5 * jnp.sum(w**2)

        def newton(_, w):
            return w - jnp.linalg.solve(jax.hessian(loss)(w), jax.grad(loss)(w))

        return jax.lax.fori_loop(0, 12, newton, jnp.zeros(INPUTS))

    def nll(w, i):
        return jax.nn.softplus(X[i] @ w) - labels[i] * (X[i] @ w)

    left_out = jax.vmap(fit, (None, 0))(labels, 1 - jnp.eye(N))
    expected = jnp.mean(jax.vmap(nll)(left_out, jnp.arange(N)))
    law = jax.nn.sigmoid(X @ fit(labels, jnp.ones(N)))
    twins = risk.perturb(jax.random.key(5), labels, "binary", law=law, copies=400)
    outputs = jax.vmap(fit, (0, None))(twins.targets, jnp.ones(N)) @ X.T
    found = risk.estimate(outputs, twins, "binary")
    # Leave-one-out has the labels as they came, the covariance those that might have come.
    assert abs(found.risk - expected) < 0.25 * (expected - found.train) + 3 * found.standard_error
    assert expected > 1.1 * found.train


def test_what_a_law_says_is_drawn_and_no_more_than_the_share():
    y = jnp.asarray(RNG.integers(0, 3, (2000, 2)))
    law = jnp.broadcast_to(jnp.array([0.1, 0.2, 0.7]), (2000, 2, 3))
    twins = risk.perturb(jax.random.key(6), y, "classes", law=law, copies=3, share=0.3)
    assert twins.targets.shape == (4, 2000, 2)
    assert twins.targets.dtype == y.dtype
    np.testing.assert_array_equal(twins.targets[0], y)
    changed = twins.targets[1:] != y[None]
    stays = float(jnp.mean(jnp.array([0.1, 0.2, 0.7])[y]))
    assert abs(changed.mean() - 0.3 * (1 - stays)) < 0.02
    drawn = twins.targets[1:][changed]
    assert (drawn == 2).mean() > 0.6
    rates = jnp.full(4000, 3.0)
    counts = risk.perturb(jax.random.key(7), jnp.zeros(4000, int), "counts", law=rates, share=1.0)
    assert abs(counts.targets[1].mean() - 3) < 0.15
    assert abs(counts.targets[1].var() - 3) < 0.4


def test_groups_add_up_to_the_whole():
    twins = risk.perturb(jax.random.key(8), Y, "regression", copies=3)
    outputs = twins.targets @ HATS["ridge"]().T
    first = jnp.arange(N) < 15
    parts = [risk.estimate(outputs, twins, "regression", where=w) for w in (first, ~first)]
    whole = risk.estimate(outputs, twins, "regression")
    np.testing.assert_allclose(
        sum(p.degrees_of_freedom for p in parts), whole.degrees_of_freedom, rtol=1e-5
    )
    np.testing.assert_allclose((15 * parts[0].train + 25 * parts[1].train) / N, whole.train, 1e-5)


def test_a_run_that_has_spent_everything_shows_no_risk():
    twins = risk.perturb(jax.random.key(9), Y, "regression")
    assert jnp.isnan(risk.estimate(twins.targets, twins, "regression").risk)
    fitted = 0.8 * twins.targets
    assert jnp.isfinite(risk.estimate(fitted, twins, "regression").risk)


@pytest.mark.parametrize("truth", [0.3, 1.0, 3.0])
def test_a_law_is_calibrated(truth):
    """Labels drawn at another temperature than that of the logits."""
    logits = 3 * jax.random.normal(jax.random.key(10), (20_000, 4))
    labels = jax.random.categorical(jax.random.key(11), truth * logits)
    law = risk.law_of(logits, labels, "classes")
    np.testing.assert_allclose(law, jax.nn.softmax(truth * logits), atol=0.03)
    one = logits[:, 0]
    ones = jax.random.bernoulli(jax.random.key(12), jax.nn.sigmoid(truth * one)).astype(int)
    found = risk.law_of(one, ones, "binary")
    np.testing.assert_allclose(found, jax.nn.sigmoid(truth * one), atol=0.03)
    rates = risk.law_of(jnp.log(jnp.array([2.0, 3.0])), jnp.array([1, 4]), "counts")
    np.testing.assert_allclose(rates, [2, 3], rtol=1e-6)


LABELS, LAW = jnp.zeros(4, int), jnp.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda k: risk.perturb(k, Y, "squares"), "kind='squares' is unknown"),
        (lambda k: risk.perturb(k, LABELS, "regression"), "must be floats"),
        (lambda k: risk.perturb(k, Y, "classes", law=LAW), "indices of the classes"),
        (lambda k: risk.perturb(k, LABELS, "classes"), "needs law="),
        (lambda k: risk.perturb(k, LABELS, "classes", law=LAW[:3]), r"law has shape \(3, 3\)"),
        (lambda k: risk.perturb(k, LABELS + 3, "classes", law=LAW), "class 3; law has 3 classes"),
        (lambda k: risk.perturb(k, LABELS, "classes", law=2 * LAW), "add up to 1"),
        (lambda k: risk.perturb(k, LABELS, "classes", law=LAW, share=0.0), "share=0.0"),
        (lambda k: risk.perturb(k, LABELS, "classes", law=LAW, size=0.1), "size is for"),
        (lambda k: risk.perturb(k, LABELS + 2, "binary", law=jnp.ones(4)), "must be 0 or 1"),
        (lambda k: risk.perturb(k, LABELS - 1, "counts", law=jnp.ones(4)), "not be negative"),
        (lambda k: risk.perturb(k, Y, "regression", copies=0), "copies=0"),
        (lambda k: risk.perturb(k, Y, "regression", size=-1.0), "size=-1.0"),
        (lambda k: risk.perturb(k, Y, "regression", law=LAW), "needs no law"),
        (lambda k: risk.perturb(k, jnp.ones(4), "regression"), "do not move: they are constant"),
        (lambda k: risk.perturb(k, Y + 1e8, "regression"), "too large for float32; subtract"),
        (lambda k: risk.perturb(k, LABELS + 0.5, "counts", law=jnp.ones(4)), "whole numbers"),
        (
            lambda k: risk.estimate(
                jnp.zeros((2, N)), risk.perturb(k, Y, "regression"), "regression", weights=Y
            ),
            "weights must be numbers of at least 0",
        ),
        (
            lambda k: risk.estimate(
                jnp.zeros((2, N)), risk.perturb(k, Y, "regression"), "regression", where=Y > 99
            ),
            "leave no example to take",
        ),
        (lambda k: risk.law_of(Y, Y, "regression"), "needs no law"),
        (
            lambda k: risk.estimate(Y, risk.perturb(k, Y, "regression"), "regression"),
            r"outputs have shape \(40,\)",
        ),
        (
            lambda k: risk.estimate(
                jnp.zeros((2, N)), risk.perturb(k, Y, "regression"), "regression", where=Y[:3] > 0
            ),
            r"where has shape \(3,\)",
        ),
        (
            lambda k: risk.estimate(
                jnp.zeros((2, N)), risk.perturb(k, Y, "regression"), "regression", weights=Y[:3]
            ),
            r"weights have shape \(3,\)",
        ),
    ],
)
def test_what_cannot_be_estimated_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        wrong(jax.random.key(0))


@pytest.mark.parametrize("block", ["unit", "kronecker"])
def test_side_by_side_is_one_after_the_other(block):
    """A vmapped gated step gives what each run gives alone, evidence and bases included."""
    params = {"a": 0.3 * jax.random.normal(jax.random.key(1), (INPUTS, 8)), "b": jnp.ones(8) / 4}
    tx = snrgate.adamw(1e-2, block=block, dataset_size=N)

    def loss(params, example):
        x, y = example
        return jnp.square(jnp.tanh(x @ params["a"]) @ params["b"] - y)

    grad_fn = snrgate.value_and_moments(loss, block=block)

    def step(carry, index, y):
        params, state = carry
        _, moments = grad_fn(params, (X[index], y[index]), measure=snrgate.measures_next(state))
        updates, state = tx.update(moments.mean, state, params, **moments.extra_args())
        return optax.apply_updates(params, updates), state

    twins = risk.perturb(jax.random.key(13), Y, "regression")
    batches = jax.random.randint(jax.random.key(14), (45, 16), 0, N)

    def train(carry, step_of_all, y):
        return jax.lax.scan(lambda c, i: (step_of_all(c, i, y), None), carry, batches)[0]

    start = params, tx.init(params)
    together = jax.jit(
        lambda: train(risk.stacked(start), jax.vmap(step, (0, None, 0)), twins.targets)
    )()
    alone = jax.jit(lambda y: train(start, step, y))
    for i, y in enumerate(twins.targets):
        one = jax.tree.map(lambda x, i=i: x[i], together[0])
        for got, expected in zip(jax.tree.leaves(one), jax.tree.leaves(alone(y)[0]), strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-4)


def test_runs_side_by_side_decompose_only_where_they_are_due():
    """Under vmap a condition stays a condition, and runs at different steps keep their own."""
    params = {"a": jnp.ones((3, 4))}
    tx = snrgate.adamw(1e-2, block="kronecker")
    keys = jax.random.split(jax.random.key(0), 64)
    gradients = [{"a": jax.random.normal(k, (3, 4))} for k in keys]

    @jax.jit
    def run(steps):
        def body(state, i_and_g):
            i, g = i_and_g
            _, new = tx.update(g, state, params)
            return optax.tree.where(i < steps, new, state), None

        stacked = jax.tree.map(lambda *x: jnp.stack(x), *gradients)
        return jax.lax.scan(body, tx.init(params), (jnp.arange(64), stacked))[0]

    @jax.jit
    def update(state, g):
        return tx.update(g, state, params)

    states = [run(i) for i in (39, 49, 59)]  # the next step is due for all of them: 40, 50, 60
    states.append(run(52))  # and is not due here
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    of_all = jax.vmap(lambda s: tx.update(gradients[60], s, params))
    got = jax.jit(of_all)(together)
    for i, state in enumerate(states):
        expected = update(state, gradients[60])
        one = jax.tree.map(lambda x, i=i: x[i], got)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    text = str(jax.make_jaxpr(of_all)(together))
    outside, *_ = text.split("cond[")
    assert "eigh" not in outside
    assert "eigh" in text


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_rare_targets_are_drawn_as_often_as_the_law_says(dtype):
    zeros = jnp.zeros(200_000, jnp.int32)
    key = jax.random.key(0)
    rare = risk.perturb(key, zeros, "binary", law=jnp.full(len(zeros), 1e-3, dtype), share=1.0)
    assert 150 < int(rare.targets[1].sum()) < 260  # 200 +- 14
    law = jnp.full((20_000, 128), 1 / 128, dtype)
    even = risk.perturb(key, zeros[:20_000], "classes", law=law, share=1.0)
    assert abs(float(jnp.mean(even.targets[1] < 64)) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("targets", "kind", "law", "said"),
    [
        (np.full(50, 200, np.uint8), "counts", np.full(50, 250.0), "uint8, which cannot hold"),
        (np.zeros(50, np.int8), "classes", np.full((50, 200), 1 / 200), "int8, which cannot hold"),
        (np.array([1.0, np.nan]), "regression", None, "not finite in row 1; leave such rows out"),
        (np.array([[1.0, 2.0], [np.inf, 1.0]]), "regression", None, "not finite in row 1"),
    ],
)
def test_targets_that_cannot_be_moved_are_refused(targets, kind, law, said):
    with pytest.raises(ValueError, match=said):
        risk.perturb(jax.random.key(0), targets, kind, law=law)


@pytest.mark.parametrize("kind", ["regression", "classes", "binary", "counts"])
def test_known_targets_may_be_moved_within_a_trace(kind):
    targets = jnp.array([0.5, 1.0]) if kind == "regression" else jnp.array([0, 1])
    law = {"classes": jnp.full((2, 2), 0.5), "regression": None}.get(kind, jnp.full(2, 0.5))

    def moved(key):
        return risk.perturb(key, targets, kind, law=law).targets

    key = jax.random.key(0)
    np.testing.assert_array_equal(jax.jit(moved)(key), moved(key))


def test_large_targets_of_half_precision_are_moved_by_a_tenth_of_their_deviation():
    y = np.random.default_rng(0).normal(0, 3000, 100).astype(np.float16)
    twins = risk.perturb(jax.random.key(0), y, "regression")
    assert twins.targets.dtype == np.float16
    np.testing.assert_allclose(twins.scale, y.astype(float).std() / 10, rtol=1e-3)


def test_labels_beyond_the_classes_are_refused():
    logits, labels = jnp.zeros((3, 3)), jnp.array([0, 1, 3])
    with pytest.raises(ValueError, match="targets name class 3; outputs have 3 classes"):
        risk.law_of(logits, labels, "classes")


def test_a_law_of_weights_is_that_of_equal_rows():
    logits = jax.random.normal(jax.random.key(0), (30, 4)) * 5
    labels = jax.random.categorical(jax.random.key(1), logits)
    weights = np.random.default_rng(0).integers(0, 4, 30)
    weighted = risk.law_of(logits, labels, "classes", weights=weights)
    repeated = risk.law_of(np.repeat(logits, weights, 0), np.repeat(labels, weights), "classes")
    np.testing.assert_allclose(np.repeat(weighted, weights, 0), repeated, rtol=1e-4)
