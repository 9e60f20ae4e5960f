"""Training, comparing and the study, at a smoke size; what they compute, against hand work."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from snrgate import cli
from snrgate.errors import InputError
from snrgate.study.controls import Control
from snrgate.study.peers import (
    Cautious,
    FiniteAlgorithm1,
    FloorGated,
    FreshGated,
    Grokfast,
    Muon,
    OrthoGrad,
    RowNormLion,
    Sam,
)
from snrgate.study.references import references
from snrgate.study.results import score, spread_of, steps_to, steps_words, stored
from snrgate.study.rows import ABLATIONS, PEERS, ROWS, Row
from snrgate.study.run import Study, _tune, run
from snrgate.study.summary import short_table, summary_page
from snrgate.study.tables import row_page, verdict
from snrgate.tasks.task import Task, of_data
from snrgate.training.configs import config_names, load_config, task_names
from snrgate.training.folder import RunFolder, stored_settings
from snrgate.training.optimizers import AdamW, Algorithm1, Gated
from snrgate.training.settings import flat
from snrgate.training.sweep import collect, measure
from snrgate.training.train import Training, fit

RESULTS = Path(__file__).parents[1] / "results" / "study"
W = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)


@dataclasses.dataclass(frozen=True)
class Line:
    """Fit y = W x, a task small enough to do by hand."""

    noise: float = 0.0

    def make(self, seed: int) -> Task:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((32, 2)).astype(np.float32)
        y = x @ W + self.noise * rng.standard_normal((32, 2)).astype(np.float32)

        def loss(params, example):
            return jnp.sum(jnp.square(example[0] @ params["w"] - example[1]))

        def evaluate(params):
            return {"error": jnp.mean(jnp.square(params["w"] - W))}

        params = {"w": jnp.full((2, 2), 0.1)}
        return Task(params, (of_data(loss, (x, y)),), evaluate, "error", higher_is_better=False)


LINE = Training(Line(), AdamW(0.05), steps=40, batch_size=8, eval_every=10)


def test_every_config_is_a_training_of_its_folder():
    for task in task_names(Training):
        names = config_names(task)
        assert {"adamw", "gated"} <= set(names)
        for name in names:
            settings = load_config(task, name, Training)
            assert type(settings.task).__module__ == f"snrgate.tasks.{task}"
            assert isinstance(settings.optimizer, Gated) != name.endswith("adamw")


def test_configs_say_what_the_study_measured_with_their_settings():
    measured = [
        (results[0]["settings"], spread_of(results, "last"))
        for name, row in ROWS.items()
        for results in stored(RESULTS / name / "runs", row.contenders()).values()
    ]
    for task in task_names(Training):
        for name in config_names(task):
            settings = json.loads(json.dumps(flat(load_config(task, name, Training))))
            text = (RESULTS.parents[1] / "configs" / task / f"{name}.py").read_text()
            found = {words for run, words in measured if run == settings}
            assert found or name not in ("adamw", "gated"), f"{task}/{name}: not in the study"
            assert all(words in text for words in found), f"{task}/{name}: {found}"
            assert found or "at the last step:" not in text, f"{task}/{name}: measured by whom?"


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


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_peer_learns_a_line(peer):
    changes = {"learning_rate": 0.05}
    if hasattr(peer, "batch_size"):
        changes["batch_size"] = LINE.batch_size
    optimizer = dataclasses.replace(peer, **changes)
    settings = dataclasses.replace(LINE, optimizer=optimizer, steps=400)
    begin = float(np.mean((0.1 - W) ** 2))
    assert measure(settings)["best"]["error"] < 0.1 * begin


def test_algorithm_1_has_the_papers_thresholds():
    task = LINE.task.make(0)
    assert Algorithm1().gate_settings(task)["alpha"] == 1
    assert FiniteAlgorithm1(batch_size=8).gate_settings(task)["alpha"] == 8 / (32 - 8)
    row = dataclasses.replace(ROWS["table"], base=LINE)
    assert (
        row.grid("algorithm-1-finite")["algorithm-1-finite-lr0.001-wd0"].optimizer.batch_size == 8
    )
    for unfit, said in (
        (task, "b is 32 and n 32"),
        (ROWS["advection"].base.task.make(0), "None, 256"),
    ):
        with pytest.raises(InputError, match=said):
            FiniteAlgorithm1(batch_size=32).gate_settings(unfit)


def test_what_the_gate_is_told_of_the_data_sets():
    equation = ROWS["advection"].base.task.make(0)  # places drawn afresh, and 256 measurements
    line = LINE.task.make(0)  # 32 measurements
    for gated, sizes, told, told_of_line in (
        (Gated(), [None, 256], math.inf, 32),
        (Gated(finite=False), [None, None], None, None),
        (FreshGated(), [None, None], math.inf, math.inf),
    ):
        assert gated.sizes(equation) == sizes
        assert gated.gate_settings(equation)["dataset_size"] == told
        assert gated.gate_settings(line)["dataset_size"] == told_of_line


def test_a_gate_with_a_floor_has_the_level_of_noise_for_a_threshold():
    settings = FloorGated(batch_size=8).gate_settings(LINE.task.make(0))
    kappa, share = 0.1 / 1.9, 8 / 32
    assert settings["alpha"] == pytest.approx(share + (1 - share) * kappa, rel=1e-4)
    assert settings["z"] is None
    assert settings["floor"] == 0.4


def first_update(optimizer, grads, params):
    """The first update of a peer, per learning rate."""
    task = LINE.task.make(0)._replace(params=params)
    tx = optimizer.build(task).tx
    return tx.update(grads, tx.init(params), params)[0]


PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
GRADS = {"w": jnp.array([[0.3, 0.1], [-0.2, 0.4]])}


def test_grokfast_adds_the_slow_gradient():
    one = first_update(Grokfast(1.0, learning_rate_warmup=0, decay=0.5, gain=2.0), GRADS, PARAMS)
    # g + 2 * 0.5 g = 2 g, and Adam's first step does not see a scale.
    np.testing.assert_allclose(one["w"], -np.sign(GRADS["w"]), rtol=1e-5)
    task = LINE.task.make(0)
    tx = Grokfast(1.0, decay=0.5, gain=2.0).build(task).tx
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS, state, PARAMS)
    _, state = tx.update(jax.tree.map(jnp.zeros_like, GRADS), state, PARAMS)
    mu = optax.tree.get(state, "mu")["w"]
    # Gradients 2 g and 2 * 0.25 g, averaged by Adam.
    np.testing.assert_allclose(mu, (0.9 * 0.1 * 2 + 0.1 * 0.5) * GRADS["w"], rtol=1e-5)


def test_orthograd_leaves_what_is_orthogonal_to_the_weights():
    task = LINE.task.make(0)
    tx = OrthoGrad(1.0).build(task).tx
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    mu = optax.tree.get(state, "mu")["w"]
    assert jnp.vdot(mu, PARAMS["w"]) == pytest.approx(0, abs=1e-6)
    assert jnp.linalg.norm(mu) == pytest.approx(0.1 * float(jnp.linalg.norm(GRADS["w"])), rel=1e-5)


def test_cautious_keeps_what_agrees():
    task = LINE.task.make(0)
    tx = Cautious(1.0, learning_rate_warmup=0).build(task).tx
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS, state, PARAMS)
    opposite = {"w": GRADS["w"] * jnp.array([[1.0, -0.01], [1.0, 1.0]])}
    updates, _ = tx.update(opposite, state, PARAMS)
    # One of four entries now points against its momentum; the others are scaled by 4 / 3.
    assert updates["w"][0, 1] == 0
    assert np.all(np.asarray(updates["w"])[[0, 1, 1], [0, 0, 1]] != 0)


def test_row_norm_clips_units():
    updates = first_update(RowNormLion(0.0, max_norm=2.0), GRADS, PARAMS)
    after = PARAMS["w"] + updates["w"]
    norms = np.linalg.norm(PARAMS["w"], axis=0)
    np.testing.assert_allclose(np.linalg.norm(after, axis=0), np.minimum(norms, 2.0), rtol=1e-5)


def test_sam_takes_the_gradient_at_the_worst_place_nearby():
    task = LINE.task.make(0)
    batches = tuple(g.sample(jax.random.key(1), 8) for g in task.groups)
    _, got, _ = Sam(radius=0.1).build(task).gradients(task.params, batches)
    _, here, _ = AdamW().build(task).gradients(task.params, batches)
    step = 0.1 * here["w"] / jnp.linalg.norm(here["w"])
    _, there, _ = AdamW().build(task).gradients({"w": task.params["w"] + step}, batches)
    np.testing.assert_allclose(got["w"], there["w"], rtol=1e-4)


def test_muon_orthogonalises():
    gradient = {"w": jnp.array([[1.0, 0.0], [0.0, 0.1]])}
    updates = first_update(Muon(1.0, learning_rate_warmup=0), gradient, PARAMS)
    singular = np.linalg.svd(updates["w"], compute_uv=False)
    assert singular.max() / singular.min() < 2  # those of the gradient: 10


def test_a_cosine_falls_from_the_peak_to_zero_by_the_last_step():
    row = dataclasses.replace(ROWS["table"], base=dataclasses.replace(LINE, steps=109))
    for name in ("adamw-cosine", "gated-cosine"):
        rate = row.grid(name)[f"{name}-lr0.003-wd0"].optimizer.rate()
        falling = 0.003 * (1 + np.cos(np.pi * np.arange(101) / 100)) / 2
        np.testing.assert_allclose([rate(9 + i) for i in range(101)], falling, atol=1e-9)
        assert rate(0) == pytest.approx(0.0003)


@pytest.mark.parametrize("kind", ["shuffled", "mean"])
def test_a_control_has_the_gates_in_other_places(kind):
    task = Line(noise=3.0).make(0)
    gated, control = Gated(1.0, learning_rate_warmup=0), Control(1.0, learning_rate_warmup=0)
    control = dataclasses.replace(control, kind=kind)
    updates = {}
    for name, optimizer in {"gated": gated, "control": control, "adam": AdamW(1.0)}.items():
        if name == "adam":
            optimizer = dataclasses.replace(optimizer, learning_rate_warmup=0)
        tx, gradients = optimizer.build(task)
        _, grads, extra = gradients(task.params, (task.groups[0].sample(jax.random.key(5), 4),))
        tx = optax.with_extra_args_support(tx)
        updates[name] = tx.update(grads, tx.init(task.params), task.params, **extra)[0]["w"]
    gates = np.asarray(updates["gated"] / updates["adam"])
    moved = np.asarray(updates["control"] / updates["adam"])
    assert 0 < gates.mean() < 1
    if kind == "mean":
        np.testing.assert_allclose(moved, gates.mean(), rtol=1e-4)
    else:
        np.testing.assert_allclose(np.sort(moved.ravel()), np.sort(gates.ravel()), rtol=1e-4)


def test_ablations_change_one_thing():
    row = ROWS["digits-40"]
    default = row.grid("gated")["gated-lr0.001-wd0"].optimizer
    for name in ABLATIONS:
        other = row.ablation(name, 1e-3, 0.0).optimizer
        fields = [field.name for field in dataclasses.fields(default)]
        changed = [field for field in fields if getattr(other, field) != getattr(default, field)]
        # A control has the default's gates, and puts them elsewhere.
        assert len(changed) == (0 if isinstance(other, Control) else 1), name


def result(metric=1.0, step=10, *, up=True, until=None, best=None):
    last = {"step": step, "m": metric}
    return {
        "metric": "m",
        "higher_is_better": up,
        "last": last,
        "best": {"step": step, "m": metric if best is None else best},
        "settings": {"until": until},
        "diverged": False,
    }


def test_scores_order_results():
    assert score(result(2.0)) > score(result(1.0))
    assert score(result(2.0, up=False)) < score(result(1.0, up=False))
    fast, slow = result(0.96, 50, until=0.95), result(0.99, 60, until=0.95)
    assert score(fast) > score(slow) > score(result(0.94, 20, until=0.95))


def test_verdicts_by_hand():
    row = dataclasses.replace(ROWS["digits-40"], kind="noisy")
    adamw = {0: result(0.7, best=0.9), 1: result(0.6, best=0.8), 2: result(0.8, best=1.0)}

    def said(kind, gated):
        changed = dataclasses.replace(row, kind=kind)
        return verdict(changed, {"adamw": adamw, "gated": {0: gated}}).split(":")[0]

    assert said("noisy", result(0.9)) == "Reached"
    assert said("noisy", result(0.89)) == "Not reached"
    assert said("clean", result(0.694)) == "Reached"
    assert said("clean", result(0.692)) == "Not reached"
    level = {"adamw": adamw, "gated": adamw}
    assert verdict(dataclasses.replace(row, kind="clean"), level).endswith("; the same.")
    assert said("confusing", result(0.95)) == "Not reached"  # AdamW does not fail there
    adamw = {0: result(0.4, best=0.5)}
    assert said("confusing", result(0.95)) == "Reached"
    assert said("confusing", result(0.85)) == "Not reached"


def run_of(*values, steps=30):
    """A run with the values of its metric at steps 10, 20, ..."""
    curve = [[10 * (i + 1), value] for i, value in enumerate(values)]
    return result(values[-1], steps) | {
        "curve": curve,
        "settings": {"until": None, "steps": steps},
    }


def test_steps_are_counted_to_where_the_metric_first_is_as_good():
    runs = [run_of(0.1, 0.96, 0.2), run_of(0.95, 0.1, 0.1), run_of(0.1, 0.2, 0.3)]
    assert [steps_to(run, 0.95) for run in runs] == [20, 10, math.inf]
    assert steps_words(runs, 0.95) == "20 (10 to 20), 1 of 3 never"
    assert steps_words(runs[2:], 0.95) == "none of 1 in 30"
    assert steps_words(runs[1:], 0.95) == "- (10 to 10), 1 of 2 never"


def test_grokking_is_judged_by_the_median_of_the_steps():
    row = dataclasses.replace(ROWS["digits-40"], kind="grokking", reach=0.95)
    fast, slow, never = run_of(0.96), run_of(0.1, 0.96), run_of(0.1, 0.2, 0.3)

    def said(gated, adamw):
        contenders = {"adamw": dict(enumerate(adamw)), "gated": dict(enumerate(gated))}
        return verdict(row, contenders).split(":")[0]

    assert said([fast, slow, never], [slow]) == "Reached"
    assert said([slow], [fast]) == "Not reached"
    assert said([never], [never]) == "Not reached"


def test_what_is_there_is_not_run_again(tmp_path):
    said = []
    collect({"a": LINE}, tmp_path, said.append)
    again = collect({"a": LINE}, tmp_path, said.append)
    assert len(said) == 1
    assert again["a"]["settings"]["optimizer.learning_rate"] == 0.05
    collect({"a": dataclasses.replace(LINE, seed=1)}, tmp_path, said.append)
    assert len(said) == 2


def test_a_run_of_another_optimizer_with_the_same_settings_is_not_taken(tmp_path):
    cautious, orthogonal = (
        dataclasses.replace(LINE, optimizer=kind(0.05)) for kind in (Cautious, OrthoGrad)
    )
    first = collect({"a": cautious}, tmp_path)["a"]
    second = collect({"a": orthogonal}, tmp_path)["a"]
    assert first["settings"]["optimizer"] == "Cautious"
    assert second["settings"]["optimizer"] == "OrthoGrad"
    assert second["last"] == measure(orthogonal)["last"] != first["last"]

    RunFolder(tmp_path / "run").start(cautious, 0)
    assert stored_settings(tmp_path / "run", cautious) == cautious
    with pytest.raises(InputError, match="optimizer = 'Cautious' must be OrthoGrad"):
        stored_settings(tmp_path / "run", orthogonal)


def test_a_smoke_sized_study(tmp_path, capsys, monkeypatch):
    row = Row(
        *("a line", "noisy", LINE),
        rates=(0.05,),
        decays=(0.0, 0.1),
        peers=("sam",),
        ablations=("hard",),
        reach=1.0,
    )
    monkeypatch.setitem(ROWS, "line", row)
    references.register(Line, lambda task, seed: {"closed form": 0.5})
    study = Study(rows=("line",), tuning_seeds=(100,), seeds=(0, 1), steps=4, out=tmp_path)
    run(study)
    page = (tmp_path / "line" / "README.md").read_text()
    for name in ("adamw-untuned", "adamw", "gated", "sam", "hard"):
        assert f"| {name} |" in page
    assert (tmp_path / "line" / "curves.png").stat().st_size > 10_000
    assert "| line | a line |" in (tmp_path / "README.md").read_text()
    assert "| closed form | 0.5 (0.5 to 0.5) |" in page
    assert len(list(tmp_path.glob("line/tuning/*.json"))) == 6
    runs = stored(tmp_path / "line" / "runs", row.contenders())
    assert set(row.contenders()) - {"adamw-oracle"} <= set(runs)
    assert all(list(seeds) == [0, 1] for seeds in runs.values())
    capsys.readouterr()
    run(study)
    assert "-seed" not in capsys.readouterr().out  # nothing was left to do
    with pytest.raises(InputError, match="there is no row lime"):
        run(dataclasses.replace(study, rows=("lime",)))


def test_the_results_page_takes_rows_as_far_as_they_are(tmp_path):
    """Nothing but AdamW and the gate, one run without the other measures: it diverged."""
    whole = run_of(0.2, 0.3) | {"seconds": 60.0}
    whole["last"]["wrong_learned"] = 0.25
    failed = run_of(-math.inf) | {"seconds": 60.0, "diverged": True}
    runs = tmp_path / "division-wrong" / "runs"
    runs.mkdir(parents=True)
    for name, result_of in {
        "adamw-seed0": whole,
        "gated-seed0": whole,
        "gated-seed1": failed,
        "left-over-seed0": whole,
    }.items():
        (runs / f"{name}.json").write_text(json.dumps(result_of))
    page = summary_page(tmp_path)
    (row,) = [line for line in page.splitlines() if line.startswith("| division-wrong |")]
    assert short_table(tmp_path).count("\n") == 2  # no row of it is in that table
    assert "-inf" in row  # the run that diverged is in the range
    assert row.endswith("| 3 |")  # minutes, without the left-over
    (claim,) = [line for line in page.splitlines() if line.startswith("| wrong answers learned |")]
    assert "gated 0.25 (0.25 to 0.25)" in claim


def test_the_results_page_shows_adamw_and_peers_where_the_gate_was_not_run(tmp_path):
    runs = tmp_path / "division-slow" / "runs"
    runs.mkdir(parents=True)
    for name, values in {"adamw": (0.2, 0.96), "algorithm-1-finite": (0.2, 0.3, 0.97)}.items():
        path = runs / f"{name}-seed0.json"
        path.write_text(json.dumps(run_of(*values) | {"seconds": 60.0}))
    page = summary_page(tmp_path)
    (row,) = [line for line in page.splitlines() if line.startswith("| division-slow |")]
    assert "| - | - | 20 (20 to 20) |" in row
    assert row.endswith("| gate not run | 2 |")
    (claim,) = [line for line in page.splitlines() if line.endswith("| division-slow |")]
    assert "| adamw 20 (20 to 20); algorithm-1-finite 30 (30 to 30) |" in claim


def test_the_short_table_has_the_median_setting_of_the_grid(tmp_path):
    for folder, name, value in (
        ("runs", "adamw", 0.5),
        ("runs", "gated", 0.4),
        ("tuning", "adamw-lr0.0001-wd0", 0.9),
        ("tuning", "adamw-lr0.001-wd0", 0.7),
        ("tuning", "adamw-lr0.003-wd0", 0.1),
    ):
        path = tmp_path / "table" / folder / f"{name}-seed0.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run_of(value)))
    assert "| m | - | - | 0.700 | - | 0.500 | 0.400 | 0.500 |" in short_table(tmp_path)


def test_the_table_of_the_readme_is_that_of_the_results():
    assert short_table(RESULTS) in (RESULTS.parents[1] / "README.md").read_text()


def test_the_fastest_is_the_one_that_comes_nearest_where_none_gets_there(tmp_path):
    row = Row("a line", "noisy", LINE, rates=(1e-4, 1e-2), decays=(0.0,), reach=1e-9)
    study = Study(tuning_seeds=(100,), steps=40, out=tmp_path)
    assert _tune(row, "adamw", study, tmp_path)["fastest"].optimizer.learning_rate == 1e-2


def test_where_there_is_one_setting_none_is_looked_for(tmp_path):
    row = Row("a line", "noisy", LINE, rates=(1e-2,), decays=(0.1,))
    tuned = _tune(row, "adamw", Study(), tmp_path)
    assert {t.optimizer for t in tuned.values()} == {AdamW(1e-2, 0.1)}
    assert not list(tmp_path.iterdir())
    runs = {"adamw": {0: run_of(0.2) | {"seconds": 1.0}}}
    runs["adamw"][0]["settings"] |= flat(tuned["last"])
    page = row_page("line", row, runs, {"adamw": {}}, {})
    assert "There is one learning rate and weight decay for all." in page
    assert "chosen" not in page
    assert "tried" not in page


def test_train_and_resume_on_the_command_line(tmp_path, capsys):
    out = tmp_path / "run"
    args = ["train", "table/gated", "--out", str(out), "--steps", "40", "--seed", "3"]
    assert cli.main(args) == 0
    assert "error" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40]
    assert cli.main(["train", "table/gated", "--out", str(out), "--resume"]) == 0
    assert cli.main([*args, "--resume", "--task.width", "9"]) == 2
    assert "task.width is 64 there, not 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "name a task"),
        (["train", "tabel/gated"], "there is no task tabel"),
        (["train", "table/gatde"], "there is no config gatde"),
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
    assert cli.main(["compare", "table", "--steps", "20", "--out", str(out)]) == 0
    assert "| gated |" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "curves.png",
        "adamw-0.json",
        "gated-0.json",
    }
