"""What one would use instead of a network: against closed forms, and against the tasks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data
from skimage.transform import resize

from snrgate.lab.study import references as module
from snrgate.lab.study.references import references
from snrgate.lab.tasks.chaos import Chaos, windows
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.tasks.division import Division
from snrgate.lab.tasks.language import Language
from snrgate.lab.tasks.photo import Photo
from snrgate.lab.tasks.picture import shrink
from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.tasks.reasoning import Reasoning
from snrgate.lab.tasks.table import Table

SIZE = 64  # of a photo
SERIES = Chaos(train=300, noise=0.1, lags=2, width=4, depth=1)


def error(outputs, targets):
    return np.mean((outputs - targets) ** 2)


def least_squares(inputs, targets, penalty):
    """Ridge regression with a free constant, solved as one least-squares problem."""
    inputs, targets = np.float64(inputs), np.float64(targets)
    mean, level = inputs.mean(0), targets.mean(0)
    rows = np.vstack((inputs - mean, np.sqrt(penalty) * np.eye(inputs.shape[1])))
    padding = np.zeros((inputs.shape[1], *targets.shape[1:]))
    weights, *_ = np.linalg.lstsq(rows, np.concatenate((targets - level, padding)), rcond=None)
    return lambda x: (x - mean) @ weights + level


def by_leaving_one_out(inputs, targets):
    """The penalty with the least error on each row by all the others, written out."""
    rows = np.arange(len(inputs))

    def loss(penalty):
        misses = [
            least_squares(inputs[rows != i], targets[rows != i], penalty)(inputs[i]) - targets[i]
            for i in rows
        ]
        return np.mean(np.square(misses))

    return min(module._PENALTIES, key=loss)


@pytest.mark.parametrize("task", [Division(), Language(), Reasoning()])
def test_some_tasks_have_none(task):
    assert references(task, 0) == {}


@pytest.mark.parametrize("image", ["camera", "chelsea"])
def test_a_denoised_photo_is_better_than_a_noisy_one(image):
    values = references(Photo(image, size=SIZE, noise=0.2), 0)
    noisy, colour = values.pop("noisy photo"), values.pop("its mean colour")
    assert set(values) == {"wavelets (BayesShrink)", "total variation", "non-local means"}
    assert min(values.values()) > max(noisy, colour) + 2


def test_the_noisy_photo_is_as_noisy_as_asked_and_its_mean_flat():
    values = references(Photo("camera", size=SIZE, noise=0.05), 0)
    # Clipping takes some of the noise of black and white away, never adds any.
    assert 26.0 < values["noisy photo"] < 27.5  # 10 log10 400 = 26.02
    clean = shrink(data.camera()[..., None] / 255, SIZE)
    assert values["its mean colour"] == pytest.approx(-10 * np.log10(clean.var()), abs=0.01)


def test_the_strength_is_chosen_without_the_clean_photo():
    """By masked pixels, and nearly as well as by the clean photo itself."""
    clean = resize(data.camera() / 255, (64, 64), anti_aliasing=True)
    noisy = clean + 0.2 * np.random.default_rng(0).standard_normal(clean.shape)
    weights = list(np.geomspace(0.01, 2, 12))
    got = module._calibrated(module.denoise_tv_chambolle, noisy, None, {"weight": weights})
    errors = [error(module.denoise_tv_chambolle(noisy, w), clean) for w in weights]
    assert min(errors) <= error(got, clean) < 1.2 * min(errors)
    assert max(errors) > 1.7 * min(errors)


@pytest.fixture
def few_penalties(monkeypatch):
    monkeypatch.setattr(module, "_PENALTIES", module._PENALTIES[8:18])  # those about the best
    monkeypatch.setattr(module, "_READOUTS", np.logspace(-6, 0, 3))


@pytest.fixture
def one_small_reservoir(monkeypatch, few_penalties):
    monkeypatch.setattr(module, "_UNITS", 100)
    monkeypatch.setattr(module, "_RESERVOIRS", ((0.5, 1.0, 0.5),))


@pytest.mark.usefixtures("one_small_reservoir")
def test_persistence_is_a_network_of_zeros():
    """The task's own measure of a network that adds nothing to the last measurement."""
    task = SERIES.make(3)
    expected = task.evaluate(jax.tree.map(jnp.zeros_like, task.params))[task.metric]
    got = references(SERIES, 3)
    assert got["persistence"] == pytest.approx(float(expected), rel=1e-4)
    assert got["echo-state network"] < 0.2 * got["persistence"]
    assert got["echo-state network"] < got["linear, ridge"] < got["persistence"]


@pytest.mark.usefixtures("one_small_reservoir")
def test_ridge_predicts_series_as_the_closed_form_does():
    settings = Chaos("laser", train=120, lags=3)
    noisy, later = settings.data(0)
    train = windows(noisy, 3)
    predict = least_squares(*train, by_leaving_one_out(*train))
    inputs, targets = windows(later, 3)
    expected = error(predict(inputs), targets)
    assert references(settings, 0)["linear, ridge"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("one_small_reservoir")
def test_the_reservoir_knows_only_what_came_before():
    """A prediction does not change with what comes after it."""
    noisy, later = SERIES.data(0)
    changed = later.copy()
    changed[50:] += 1.0
    there, elsewhere = (module._echo_state(noisy, x, 0)[len(noisy) - 1 :] for x in (later, changed))
    assert there.shape == later.shape
    np.testing.assert_array_equal(there[:51], elsewhere[:51])  # later[50] is seen by later[51]
    assert np.all(there[51] != elsewhere[51])


@pytest.mark.usefixtures("few_penalties")
def test_a_table_is_predicted_as_by_the_closed_form():
    train, (inputs, targets) = Table().data(0)
    values = references(Table(), 0)
    predict = least_squares(*train, by_leaving_one_out(*train))
    assert values["linear, ridge"] == pytest.approx(error(predict(inputs), targets), rel=1e-4)
    # 1 is what the mean of the target alone comes to.
    assert max(values.values()) < 0.9


@dataclasses.dataclass(frozen=True)
class FewDigits(Digits):
    """A third of the pictures."""

    def data(self, seed):
        (pixels, given), held_out = super().data(seed)
        return (pixels[:400], given[:400]), held_out


def test_digits_are_read_in_spite_of_wrong_labels():
    task = FewDigits(wrong=0.2)
    values = references(task, 0)
    assert set(values) == {"logistic regression", "nearest neighbours"}
    assert min(values.values()) > 0.8
    # One in five of the nearest pictures has a wrong label: one neighbour alone is not enough.
    (pixels, given), (held_out, labels) = task.data(0)
    distances = (pixels**2).sum(1) - 2 * held_out @ pixels.T
    alone = np.mean(given[distances.argmin(1)] == labels)
    assert alone == pytest.approx(0.8, abs=0.1)
    assert values["nearest neighbours"] > alone + 0.1


def test_a_process_smooths_the_measurements():
    places, values = Pinn(measurements=100).data(0)
    smoothed = module._smoothed(places, values, 0)
    # Three or four numbers are learned from a hundred: much of the noise goes.
    assert error(smoothed, -np.sin(places)) < 0.15 * error(values, -np.sin(places))
    exact = -np.sin(places)
    np.testing.assert_allclose(module._smoothed(places, exact, 0), exact, atol=0.01)


def test_lbfgs_finds_the_bottom_of_a_valley():
    def rosenbrock(p):
        return (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2

    found = module._lbfgs(rosenbrock, {"x": jnp.float32(-1.2), "y": jnp.float32(1.0)})
    assert found["x"] == pytest.approx(1, abs=1e-2)
    assert found["y"] == pytest.approx(1, abs=1e-2)


def test_lbfgs_keeps_the_last_finite_parameters():
    """Down a slope without end, where the next step overflows."""

    def slope(p):
        return -jnp.sum(jnp.exp(p))

    start = jnp.ones(2)
    found = module._lbfgs(slope, start)
    assert np.all(np.isfinite(found))
    assert slope(found) <= slope(start)
    assert np.isfinite(slope(found))


def test_an_equation_is_solved_from_noisy_measurements(monkeypatch):
    monkeypatch.setattr(module, "_SMOOTHED_STEPS", 800)
    monkeypatch.setattr(module, "_ADAM_STEPS", 1)  # all is left to L-BFGS
    monkeypatch.setattr(module, "_LBFGS_STEPS", 60)
    monkeypatch.setattr(module, "_POINTS", 128)
    settings = Pinn(beta=0.5, noise=0.2, measurements=32, width=32, depth=2)
    values = references(settings, 0)
    assert set(values) == {"AdamW, smoothed start", "Adam, then L-BFGS"}
    # 1 is what a network of zeros comes to.
    assert max(values.values()) < 0.5
