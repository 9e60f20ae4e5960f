"""A training with a twin: what is measured, chosen and kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_task import LINE

from snrgate.lab.cli import main
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.tasks.reasoning import Reasoning
from snrgate.lab.tasks.task import Task, from_arrays
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.run import Run, together
from snrgate.lab.training.train import Training
from snrgate.lab.training.twin import chosen, learned_law, risk_of, twin_of
from snrgate.targets import KINDS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 10)).astype(np.float32)
Y = (X[:, 0] + RNG.standard_normal(60)).astype(np.float32)
LABELS = RNG.integers(0, 3, 60).astype(np.int32)
LABELS[X[:, 0] > 0] = 0  # the others have labels by chance


@dataclasses.dataclass(frozen=True)
class Linear:
    """Least squares with all weights, or multinomial regression."""

    classes: bool = False

    def make(self, seed: int) -> Task:
        def predict(params, x):
            return x @ params

        def loss(output, target):
            if self.classes:
                return -jax.nn.log_softmax(output)[target]
            return jnp.square(output - target)

        params = jnp.zeros((10, 3) if self.classes else 10)
        targets = LABELS if self.classes else Y

        def evaluate(params):
            return {"size": jnp.sum(jnp.square(params))}

        return from_arrays(
            params, predict, loss, (X, targets), evaluate, "size", higher_is_better=False
        )


def test_the_twin_of_least_squares_spends_a_degree_for_each_weight():
    settings = Training(Linear(), AdamW(0.02), steps=300, batch_size=60, eval_every=100, twin=True)
    task = settings.task.make(0)
    twin = twin_of(task, 0, learned_law(settings, task))
    what = Run({"train": settings}, {"train": task}, settings, None, "", twins={"train": twin})
    *_, (step, learners, rows) = together(what, what.start())
    assert list(rows) == ["train"]
    row = rows["train"]
    assert (step, row["step"]) == (300, 300)
    # The moves are signs: what they spend is b^T H b, with the hat matrix of least squares.
    hat = X @ np.linalg.pinv(X)
    moves = np.sign(np.asarray(twin.targets.targets[1] - twin.targets.targets[0]))
    assert row["degrees_of_freedom"] == pytest.approx(moves @ hat @ moves, rel=0.2)
    params = learners["train"].state.params
    train = np.mean(np.square(X @ params - Y))
    spent = row["degrees_of_freedom"] / 60
    assert row["twin_risk"] == pytest.approx(train / (1 - spent) ** 2, rel=1e-4)
    assert row["twin_risk_error"] > 0


def test_labels_of_a_twin_come_from_a_run_that_has_memorised_little():
    task = Linear(classes=True)
    settings = Training(task, AdamW(0.05), steps=60, batch_size=60, eval_every=60, twin=True)
    law = learned_law(settings, task.make(0))
    np.testing.assert_allclose(law.sum(1), 1, rtol=1e-5)
    assert np.mean(np.log(np.asarray(law)[np.arange(60), LABELS])) > np.log(1 / 3)
    twin = twin_of(task.make(0), 0, law)
    changed = np.asarray(twin.targets.targets[1] != twin.targets.targets[0])
    assert 0 < changed.mean() < 0.3
    same = twin.task.groups[0].sample(jax.random.key(0), 60)[0]
    np.testing.assert_array_equal(same, task.make(0).groups[0].sample(jax.random.key(0), 60)[0])
    zeros = jnp.zeros((10, 3))
    assert risk_of(twin, zeros, zeros)["twin_risk"] == pytest.approx(np.log(3), rel=1e-5)


def test_the_step_of_least_risk_is_chosen():
    rows = [{"step": i, "twin_risk": r} for i, r in enumerate([2.0, float("nan"), 1.0, 1.5])]
    assert chosen(rows)["step"] == 2
    assert chosen(rows[1:2])["step"] == 1


def test_what_has_no_targets_has_no_twin():
    with pytest.raises(InputError, match="leave out --twin"):
        twin_of(Reasoning(steps=2, width=8, depth=1, heads=2).make(0), 0)
    with pytest.raises(InputError, match="twin = True must be false where until is given"):
        dataclasses.replace(LINE, until=0.1, twin=True)


def test_a_twin_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    sizes = ["--steps", "40", "--eval-every", "20", "--task.width", "8"]
    assert not main(["train", "table/adamw", "--twin", *sizes, "--out", str(out)])
    assert "The twin chooses step" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40]
    assert all(np.isfinite(row["twin_risk"]) for row in rows)
    assert json.loads((out / "summary.json").read_text())["twin"] == chosen(rows)
    assert (out / "risk.png").stat().st_size > 5000
    side = tmp_path / "compare"
    args = ["compare", "table", "--twin", "--steps", "40", "--optimizers", "adamw"]
    assert not main([*args, "--out", str(side)])
    assert "error, step of the twin" in (side / "README.md").read_text()


def test_kinds_are_those_of_the_targets():
    assert Linear().make(0).supervised.kind == "regression"
    assert Linear(classes=True).make(0).supervised.kind in KINDS


def test_a_twin_moves_the_measurements_and_not_the_equation():
    task = Pinn(measurements=40).make(0)
    twin = twin_of(task, 0)
    for own, other in zip(task.groups[:-1], twin.task.groups[:-1], strict=True):
        assert own is other
    key = jax.random.key(0)
    (places, values), (same, moved) = (t.groups[-1].sample(key, 40) for t in (task, twin.task))
    assert np.array_equal(places, same)
    assert np.allclose(np.abs(moved - values), twin.targets.scale)
    # The loss of a measurement is the one that the task had before it told its parts.
    value = task.supervised.predict(task.params, places[0])
    weight = Pinn().initial_weight
    expected = weight * (value - values[0]) ** 2
    assert task.groups[-1].loss(task.params, (places[0], values[0])) == pytest.approx(expected)
