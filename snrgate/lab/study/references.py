"""Methods that one would use instead of a network, gated or not, on the same data.

None of them sees clean validation data: their settings are chosen on the noisy data themselves.
They are measured as the task measures a network.
"""

import dataclasses
import functools
import itertools
import operator
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from skimage.restoration import (
    calibrate_denoiser,
    cycle_spin,
    denoise_nl_means,
    denoise_tv_chambolle,
    denoise_wavelet,
    estimate_sigma,
)
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, ExpSineSquared, WhiteKernel
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier

from snrgate.annotations import Array, Float, PyTree
from snrgate.lab.tasks.chaos import Chaos, windows
from snrgate.lab.tasks.denoise import Denoise, noisy_photo, psnr
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.tasks.photo import Photo
from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.tasks.table import Table
from snrgate.lab.tasks.task import Task
from snrgate.lab.training.loop import mean_loss
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import TaskSettings, Training, fit

with warnings.catch_warnings():
    # The docstrings of reservoirpy hold backslashes, and Python warns of them when it compiles.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", SyntaxWarning)
    from reservoirpy.nodes import Reservoir, Ridge

__all__ = ["references"]

_PENALTIES = np.logspace(-6, 4, 21)  # of ridge regression
_UNITS = 500  # of the reservoir
# Spectral radius, leak rate and scaling of the inputs of the reservoir.
_RESERVOIRS = tuple(itertools.product((0.5, 0.9), (0.3, 1.0), (0.1, 0.5)))
_READOUTS = np.logspace(-6, 3, 10)  # penalties of its readout
_SMOOTHED_STEPS = 4000  # of AdamW from the smoothed start
_ADAM_STEPS = 3000  # before L-BFGS
_LBFGS_STEPS = 500
_POINTS = 1024  # of the equation, for L-BFGS


@functools.singledispatch
def references(task: TaskSettings, seed: int) -> dict[str, float]:
    """The results of other methods on the data of a seed.

    Args:
        task: settings of the task.
        seed: of its data, and of whatever is random in a reference.

    Returns:
        The value of the task's metric by the name of the reference; empty for a task that has
        none.

    Example:
        >>> from snrgate.lab.study.references import references
        >>> from snrgate.lab.tasks.photo import Photo
        >>> values = references(Photo(size=64), 0)
        >>> values["total variation"] > values["noisy photo"] + 5  # in dB
        True
    """
    return {}


@references.register(Photo)
def _photo(task: Photo, seed: int) -> dict[str, float]:
    # Photo and Denoise name the settings of a photo alike; the rest are those of a network.
    photo = noisy_photo(Denoise(**dataclasses.asdict(task), seed=seed))
    channels = photo.noisy.shape[-1]
    # A grey photo loses its last axis, because not every function here keeps an axis of size 1.
    noisy = photo.noisy[..., 0] if channels == 1 else photo.noisy
    axis = None if channels == 1 else -1
    shrink = {"method": "BayesShrink", "convert2ycbcr": channels == 3, "channel_axis": axis}
    sigma = float(np.mean(estimate_sigma(noisy, channel_axis=axis)))
    patches = {"patch_size": [5], "patch_distance": [6], "fast_mode": [False], "sigma": [sigma]}
    widths = {"h": list(sigma * np.linspace(0.4, 1.4, 6))}
    weights = {"weight": list(np.geomspace(0.02, 1, 25))}
    pictures = {
        "noisy photo": noisy,
        "its mean colour": np.broadcast_to(photo.noisy.mean((0, 1)), photo.noisy.shape),
        # The mean over shifted grids hides the grid that the wavelets of Haar would show.
        "wavelets (BayesShrink)": cycle_spin(
            noisy, denoise_wavelet, 3, func_kw=shrink, channel_axis=axis, workers=1
        ),
        "total variation": _calibrated(denoise_tv_chambolle, noisy, axis, weights),
        "non-local means": _calibrated(denoise_nl_means, noisy, axis, patches | widths),
    }
    return {
        name: float(psnr(picture.reshape(photo.noisy.shape), photo.clean))
        for name, picture in pictures.items()
    }


def _calibrated(
    denoise: Callable[..., np.ndarray], noisy: np.ndarray, axis: int | None, grid: dict[str, list]
) -> np.ndarray:
    """The photo, denoised with the settings that predict masked pixels best from their neighbours.

    The settings are chosen as in Noise2Self (Batson and Royer, arXiv 1901.11365). The denoiser
    with these settings then sees every pixel.
    """
    grid = grid | {"channel_axis": [axis]}
    # pyrefly: ignore [not-iterable]  with the extra output it is a pair
    _, (tested, losses) = calibrate_denoiser(noisy, denoise, grid, extra_output=True)
    return denoise(noisy, **tested[int(np.argmin(losses))])


@references.register(Chaos)
def _chaos(task: Chaos, seed: int) -> dict[str, float]:
    noisy, later = task.data(seed)
    inputs, targets = windows(later, task.lags)
    ridge = RidgeCV(_PENALTIES).fit(*windows(noisy, task.lags))
    outputs = {
        "persistence": inputs[:, -later.shape[1] :],
        "linear, ridge": ridge.predict(inputs).reshape(targets.shape),
        "echo-state network": _echo_state(noisy, later, seed)[-len(targets) :],
    }
    return {name: _error(output, targets) for name, output in outputs.items()}


def _echo_state(noisy: np.ndarray, later: np.ndarray, seed: int) -> np.ndarray:
    """Predictions of all measurements but the first, each from the measurements before it.

    Reservoir and penalty are chosen on the last fifth of the noisy measurements. The readout
    sees the measurement beside the reservoir.
    """
    series = np.concatenate((noisy, later)).astype(np.float64)
    now, following = series[:-1], series[1:]
    end = len(noisy) - 1  # of the predictions with a noisy target
    # Before the start the reservoir still remembers its own beginning.
    start, split = end // 10, end - len(noisy) // 5

    def states(radius: float, leak: float, scaling: float) -> np.ndarray:
        reservoir = Reservoir(_UNITS, sr=radius, lr=leak, input_scaling=scaling, seed=seed)
        return np.hstack((reservoir.run(now), now))

    def predictions(seen: np.ndarray, penalty: float, until: int) -> np.ndarray:
        readout = Ridge(ridge=penalty).fit(seen[start:until], following[start:until])
        return np.asarray(readout.run(seen))

    tried = (
        (_error(predictions(seen, penalty, split)[split:end], following[split:end]), seen, penalty)
        for seen in itertools.starmap(states, _RESERVOIRS)
        for penalty in _READOUTS
    )
    _, seen, penalty = min(tried, key=operator.itemgetter(0))
    return predictions(seen, penalty, end)


@references.register(Table)
def _table(task: Table, seed: int) -> dict[str, float]:
    train, (inputs, targets) = task.data(seed)
    models = {
        "linear, ridge": RidgeCV(_PENALTIES),
        "boosted trees": GradientBoostingRegressor(random_state=seed),
        "random forest": RandomForestRegressor(random_state=seed),
    }
    return {
        name: _error(model.fit(*train).predict(inputs), targets) for name, model in models.items()
    }


@references.register(Digits)
def _digits(task: Digits, seed: int) -> dict[str, float]:
    train, test = task.data(seed)
    logistic, penalties = LogisticRegression(max_iter=10_000), {"C": np.geomspace(1e-3, 10, 9)}
    nearest, counts = KNeighborsClassifier(), {"n_neighbors": [1, 3, 5, 9, 15, 25, 40]}
    models = {
        "logistic regression": GridSearchCV(logistic, penalties, cv=5),
        "nearest neighbours": GridSearchCV(nearest, counts, cv=5),
    }
    return {name: float(model.fit(*train).score(*test)) for name, model in models.items()}


@references.register(Pinn)
def _pinn(task: Pinn, seed: int) -> dict[str, float]:
    places, values = measurements = task.data(seed)
    start = task.make_from((places, _smoothed(places, values, seed)), seed)
    smoothed = _trained(task, start, seed, _SMOOTHED_STEPS)

    plain = task.make_from(measurements, seed)
    points = plain.groups[0].sample(jax.random.key(seed), _POINTS)
    batches = (points, jax.tree.map(jnp.asarray, measurements))
    whole = mean_loss(plain.groups)
    polished = _lbfgs(
        lambda params: whole(params, batches), _trained(task, plain, seed, _ADAM_STEPS)
    )
    return {
        "AdamW, smoothed start": float(start.evaluate(smoothed)[start.metric]),
        "Adam, then L-BFGS": float(plain.evaluate(polished)[plain.metric]),
    }


def _smoothed(
    places: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], seed: int
) -> Float[np.ndarray, " n"]:
    """The mean of a periodic Gaussian process at the places of the measurements.

    The period is that of the problem. The smoothness, the size and the noise are those with the
    highest marginal likelihood.
    """
    periodic = ExpSineSquared(periodicity=2 * np.pi, periodicity_bounds="fixed")
    kernel = ConstantKernel() * periodic + WhiteKernel()
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=4, random_state=seed)
    with warnings.catch_warnings():
        # A setting at its bound is a valid answer, because there may be no noise at all.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(places[:, None], values)
    return np.asarray(process.predict(places[:, None]), np.float32)


def _trained(settings: Pinn, task: Task, seed: int, steps: int) -> PyTree:
    """The parameters after some steps of AdamW."""
    training = Training(
        settings, AdamW(1e-3), steps=steps, batch_size=128, eval_every=steps, seed=seed
    )
    *_, (state, _) = fit(training, task)
    return state.params


def _lbfgs(loss: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    """The parameters after L-BFGS, or the last ones with a finite loss and gradient."""
    tx = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(now: tuple[PyTree, optax.OptState], _: None) -> tuple[PyTree, None]:
        params, state = now
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        after = (optax.apply_updates(params, updates), state)
        seen = (after[0], optax.tree.get(state, "value"), optax.tree.get(state, "grad"))
        finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(seen)]
        keep = functools.partial(jnp.where, jnp.all(jnp.stack(finite)))
        return jax.tree.map(keep, after, now), None

    steps = jax.jit(lambda now: jax.lax.scan(step, now, length=_LBFGS_STEPS)[0])
    return steps((params, tx.init(params)))[0]


def _error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean squared error of outputs that have the shape of the targets."""
    return float(np.mean(np.square(outputs - targets)))
