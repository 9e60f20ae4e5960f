"""Training at a smoke size: configs, the loop, stored runs and the command line."""

import dataclasses
import json
import math
import time
import tomllib
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_task import LINE, W

from snrgate.lab import cli
from snrgate.lab.errors import InputError
from snrgate.lab.study.peers import Cautious, OrthoGrad
from snrgate.lab.study.rows import ROWS
from snrgate.lab.tasks.denoise import Denoise
from snrgate.lab.tasks.table import Table
from snrgate.lab.training.configs import optimizer_names, task_names, training_config
from snrgate.lab.training.folder import RunFolder, stored_settings
from snrgate.lab.training.loop import init, make_stretch
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.progress import progress_bar
from snrgate.lab.training.results import Key, Results
from snrgate.lab.training.sweep import collect, measure
from snrgate.lab.training.train import fit

CONFIGS = Path(__file__).parents[1] / "configs"
A = Key("runs", "a", 0)


def test_every_config_is_a_training_of_its_task():
    assert task_names() == sorted({type(row.base.task).__name__.lower() for row in ROWS.values()})
    for task in task_names():
        names = optimizer_names(task)
        assert {"adamw", "gated"} <= set(names)
        for name in names:
            settings = training_config(task, name)
            assert type(settings.task).__module__ == f"snrgate.lab.tasks.{task}"
            assert isinstance(settings.optimizer, Gated) != (name == "adamw")


def test_a_config_shows_every_setting_of_its_task():
    """The file that a user copies leaves nothing of the task to be looked up."""
    for task in task_names():
        settings = training_config(task, "gated").task
        shown = tomllib.loads((CONFIGS / f"{task}.toml").read_text())["task"]
        assert set(shown) == {field.name for field in dataclasses.fields(settings)}
    shown = tomllib.loads((CONFIGS / "denoise.toml").read_text())
    assert set(shown) == {field.name for field in dataclasses.fields(Denoise)}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_config_says_what_each_of_its_settings_is(path):
    """A comment above each setting, and above the section of each further optimizer."""
    before, further = "", False
    for line in path.read_text().splitlines():
        section = line.startswith("[optimizers.")
        further = further or (section and "gated" not in line)
        if section or (line and line[0].isalpha() and not further):
            assert before.startswith("# "), line
        before = line


def test_a_run_is_what_optax_makes_of_the_same_batches():
    """The trainer against a loop written out."""
    settings = dataclasses.replace(LINE, optimizer=AdamW(0.05, 0.1, learning_rate_warmup=4))
    task = LINE.task.make(0)
    (group,) = task.groups
    tx = optax.adamw(lambda step: 0.05 * jnp.minimum((step + 1) / 4, 1), weight_decay=0.1)
    params, state = task.params, tx.init(task.params)
    losses = []
    for step in range(40):
        batch = group.sample(jax.random.fold_in(jax.random.key(0), step), 8)
        loss, grads = jax.value_and_grad(
            lambda p, b=batch: jnp.mean(jax.vmap(group.loss, (None, 0))(p, b))
        )(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    *_, (last, row) = fit(settings, task)
    np.testing.assert_allclose(last.params["w"], params["w"], rtol=1e-5)
    assert row["loss"] == pytest.approx(np.mean(losses[30:]), rel=1e-5)
    assert row["error"] == pytest.approx(float(np.mean((params["w"] - W) ** 2)), rel=1e-4)


def test_statistics_are_left_out_where_no_kernel_is_looked_at():
    """A run is the same whether they are taken at every step or only where they are due."""
    task = Table().make(0)
    built = Gated(1e-3, block="kronecker", fitted=0.0).build(task)

    def always(params, batches, measure):
        return built.gradients(params, batches)

    states = []
    for gradients in (built.gradients, always):
        stretch = make_stretch(gradients, built.tx, task.groups, batch_size=16, seed=0)
        states.append(stretch(init(task.params, built.tx), length=62)[0])
    chex.assert_trees_all_close(*(s.params for s in states), rtol=1e-3, atol=1e-5)
    assert not jnp.any(optax.tree.get(states[0].opt_state, "skipped_steps"))


def test_two_groups_train_on_the_sum_of_their_means():
    task = LINE.task.make(0)
    double = task._replace(groups=task.groups * 2)
    for optimizer in (AdamW(0.05), Gated(0.05)):
        tx, gradients = optimizer.build(double)
        batches = tuple(g.sample(jax.random.key(1), 8) for g in double.groups)
        value, grads, _ = gradients(task.params, batches)
        expected_value, expected = jax.value_and_grad(
            lambda p, b=batches: sum(
                jnp.mean(jax.vmap(g.loss, (None, 0))(p, x))
                for g, x in zip(double.groups, b, strict=True)
            )
        )(task.params)
        assert value == pytest.approx(float(expected_value), rel=1e-5)
        np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-4)
        tx.init(task.params)


def test_a_run_stops_where_it_was_to():
    settings = dataclasses.replace(LINE, until=0.3, steps=400)
    rows = [row for _, row in fit(settings, settings.task.make(0))]
    assert rows[-1]["error"] <= 0.3
    assert all(row["error"] > 0.3 for row in rows[:-1])


def test_a_run_that_diverges_is_counted():
    result = measure(dataclasses.replace(LINE, optimizer=AdamW(1e30), steps=40))
    assert result["diverged"]
    assert result["last"]["error"] == math.inf
    json.dumps(result)


def test_what_is_there_is_not_run_again(tmp_path):
    said, results = [], Results(tmp_path / "runs.jsonl")
    collect({A: LINE}, results, said.append)
    again = collect({A: LINE}, results, said.append)
    assert len(said) == 1
    assert again[A]["settings"]["optimizer.learning_rate"] == 0.05
    collect({A: dataclasses.replace(LINE, seed=1)}, results, said.append)
    assert len(said) == 2


def test_a_run_of_another_optimizer_with_the_same_settings_is_not_taken(tmp_path):
    cautious, orthogonal = (
        dataclasses.replace(LINE, optimizer=kind(0.05)) for kind in (Cautious, OrthoGrad)
    )
    first = collect({A: cautious}, Results(tmp_path / "runs.jsonl"))[A]
    second = collect({A: orthogonal}, Results(tmp_path / "runs.jsonl"))[A]
    assert first["settings"]["optimizer"] == "Cautious"
    assert second["settings"]["optimizer"] == "OrthoGrad"
    assert second["last"] == measure(orthogonal)["last"] != first["last"]

    RunFolder(tmp_path / "run").start(cautious, 0)
    assert stored_settings(tmp_path / "run", cautious) == cautious
    with pytest.raises(InputError, match="optimizer = 'Cautious' must be OrthoGrad"):
        stored_settings(tmp_path / "run", orthogonal)


def test_train_and_resume_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    small = ["--task.width", "8", "--task.depth", "1"]
    args = ["train", "table/gated", "--out", str(out), "--steps", "40", "--seed", "3", *small]
    assert cli.main(args) == 0
    assert "error" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40]
    again = ["train", "table/gated", "--out", str(out), "--resume"]
    assert cli.main(again) == 0
    assert cli.main([*args, "--resume", "--task.width", "9"]) == 2
    assert "task.width is 8 there, not 9" in capsys.readouterr().err
    # More steps train it further, as one run of so many steps would; fewer are refused.
    assert cli.main([*again, "--steps", "60"]) == 0
    longer = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in longer] == [20, 40, 60]
    whole = dataclasses.replace(training_config("table", "gated"), steps=60, seed=3)
    whole = dataclasses.replace(whole, task=Table(width=8, depth=1))
    assert longer[-1]["error"] == pytest.approx(measure(whole)["last"]["error"], rel=1e-5)
    assert stored_settings(out, whole).steps == 60
    assert cli.main([*again, "--steps", "40"]) == 2
    assert "the run has come to step 60" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "name a task"),
        (["train", "tabel/gated"], "there is no task tabel"),
        (
            ["train", "table/gatde"],
            "there is no optimizer gatde for table; give one of gated",
        ),
        (["compare", "table", "--optimizers", "gatde"], "there is no optimizer gatde"),
        (["compare", "tabel"], "there is no task tabel"),
        (["study", "--rows", "tabel"], "there is no row tabel"),
        (["study", "--rows", "table", "--only", "gatde"], "there is no contender gatde"),
        (["study", "--rows", "table", "--steps", "9"], "give --out"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(args, said, capsys):
    assert cli.main(args) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_compare_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "side by side"
    (config := tmp_path / "small.toml").write_text("task = { width = 8, depth = 1 }\n")
    args = ["compare", "table", "--config", str(config), "--steps", "20", "--seeds", "0", "1"]
    args += ["--out", str(out)]
    assert cli.main(args) == 0
    said = capsys.readouterr().out
    assert "| gated |" in said
    names = {"config.json", "metrics.jsonl", "checkpoints", "summary.json"}
    assert {p.name for p in out.iterdir()} == names | {"README.md", "curves.png"}
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary) == ["adamw-0", "adamw-1", "gated-0", "gated-1"]
    # Each run is the one that it is by itself.
    settings = dataclasses.replace(training_config("table", "gated", config), steps=20, seed=1)
    alone = measure(settings)["last"]
    assert summary["gated-1"]["last"] == {"run": "gated-1"} | alone
    before = (out / "summary.json").read_bytes()
    assert cli.main(["compare", "table", "--resume", "--out", str(out)]) == 0
    assert (out / "summary.json").read_bytes() == before
    assert cli.main(args) == 2
    assert "continue it with --resume" in capsys.readouterr().err


def test_without_a_terminal_a_line_comes_now_and_then(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress_bar(100, 0) as show:
        for step in range(10, 101, 10):
            now += 12.0
            show(step, "loss 1.0")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"step {step} of 100: loss 1.0" for step in (30, 60, 90)]
