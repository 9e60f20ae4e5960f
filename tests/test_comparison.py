"""The rules of the comparison that choose settings and steps, and its numbers, by hand."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import fixed, numbers, page, words
from comparison.choice import CONTENDERS, edges_of, error_of, values_of
from comparison.contenders import (
    GRID,
    SINGLE,
    THRESHOLDS,
    TWIN_GRID,
    WIDE_GRID,
    changed,
    hidden_kernels,
    scale_by_echo,
)
from comparison.measure import EVERY, Runner, wanted
from comparison.rows import Arrays, row_of
from comparison.rules import name_of
from comparison.runs import _generalised, _with_arguments, without
from comparison.seconds import seconds_of, step_ratios
from comparison.stored import Stored

from snrgate import gate, kronecker
from snrgate.kernel import Kernel
from snrgate.lab.errors import InputError
from snrgate.lab.study.peers import CosineAdamW
from snrgate.lab.tasks.photo import Photo
from snrgate.lab.tasks.table import Table
from snrgate.lab.training.results import Key, Results


def run(metric, up=False, **seen):
    steps = [10.0 * (i + 1) for i in range(len(metric))]
    curve = {"step": steps, "metric": metric} | {k.replace("_", " "): v for k, v in seen.items()}
    return {"metric": "accuracy" if up else "error", "higher_is_better": up, "curve": curve}


def kept_out(metric, held, **seen):
    return run(metric, "held_wrong" in seen, held=held, average=metric, average_held=held, **seen)


def runs(part, made):
    return {Key(part, name, 0): made(i) for i, name in enumerate(map(name_of, GRID))}


def test_a_hold_out_chooses_settings_and_step_and_is_retrained_at_the_same_step():
    # Settings 4 have the least held-out loss, at their second step.
    held = runs(
        "AdamW held out",
        lambda i: kept_out([0.9, 0.5 + i, 0.1], [3.0, 1.0 if i == 4 else 2.0, 2.5]),
    )
    whole = runs("AdamW", lambda i: run([0.8, 0.4 + i, 0.05 + i]))
    values = values_of(held | whole)
    assert values["AdamW, hold-out"][0] == 4.5
    assert values["AdamW, retrained"][0] == 4.4
    assert values["AdamW, oracle"][0] == 0.05
    assert values["AdamW, best last"][0] == 0.05


def test_stronger_hold_outs_by_hand():
    # One rough evaluation has the least loss. Smoothed, the third step of settings 2 has it.
    rough = runs(
        "AdamW held out",
        lambda i: kept_out(
            [0.9, 0.8, 0.3 + i, 0.7],
            [5.0, 0.1 if i == 1 else 5.0, *([1.0, 1.0] * (i == 2) or [5.0, 5.0])],
        ),
    )
    assert values_of(rough)["AdamW, hold-out"][0] == 0.8
    assert values_of(rough)["AdamW, smoothed hold-out"][0] == 0.7
    assert "AdamW, wide grid, hold-out" not in values_of(rough)
    more = {Key("AdamW held out", name_of(h), 0): kept_out([0.25], [0.01]) for h in WIDE_GRID}
    assert values_of(more | rough)["AdamW, wide grid, hold-out"][0] == 0.25
    assert values_of(more | rough)["AdamW, hold-out"][0] == 0.8
    # The least loss is at an earlier step of settings 3, and at the last step of settings 4.
    falling = runs(
        "cosine held out",
        lambda i: kept_out([0.1 * i, 0.2 * i], [1.0 if i == 3 else 4.0, 2.0 if i == 4 else 3.0]),
    )
    assert values_of(falling)["cosine, hold-out"][0] == pytest.approx(0.3)
    assert values_of(falling)["cosine, last by hold-out"][0] == pytest.approx(0.8)
    assert "cosine, retrained" not in values_of(falling)
    again = runs("cosine", lambda i: run([0.9, 0.05 * i]))
    assert values_of(falling | again)["cosine, retrained"][0] == pytest.approx(0.2)


def test_how_often_the_edge_of_the_grid_is_chosen():
    def chosen(best):
        return runs("AdamW held out", lambda i: kept_out([0.5], [1.0 if i == best else 2.0]))

    assert [name_of(GRID[i]) for i in (1, 2, 6)] == [
        "learning_rate 0.0001 weight_decay 1",
        "learning_rate 0.0001 weight_decay 10",
        "learning_rate 0.003 weight_decay 0",
    ]
    assert edges_of([chosen(1), chosen(2), chosen(6)]) == (2, 3)
    assert edges_of([{}]) == (0, 0)


def test_a_fixed_setting_is_chosen_by_other_data_sets():
    # On the table setting 2 is best, on concrete setting 5, on both digits setting 7.
    best = {"table": 2, "concrete": 5, "digits-0": 7, "cnn-0": 7}
    least = {"table": 0.2, "concrete": 0.5, "digits-0": 0.6, "cnn-0": 0.6}
    found = {
        row: {
            Key("AdamW", name_of(h), 0): run([0.1, least[row] if i == at else 1.0 + i / 100])
            for i, h in enumerate(GRID)
        }
        for row, at in best.items()
    }
    found["meats"] = dict(list(found["table"].items())[:5])  # not all nine have been measured
    values = fixed.fixed(fixed.ends_of(found))
    assert "meats" not in values
    # Without digits, setting 2 has the least mean logarithm. With them it has so for concrete only.
    assert values["digits-0"][fixed.FIXED] == {0: 1.02}
    assert values["cnn-0"][fixed.FIXED] == {0: 1.02}
    assert values["concrete"][fixed.FIXED] == {0: 1.02}
    assert values["table"][fixed.FIXED] == {0: 1.07}
    assert {v[fixed.HINDSIGHT][0] for v in values.values()} == {0.2, 1.02}


def test_the_time_of_a_contender_is_that_of_all_its_runs():
    def timed(seconds, up=False):
        return run([0.5], up) | {"seconds": seconds}

    def row(up):
        return {
            Key("kernels with twin", "a", 0): timed(8.0, up),
            Key("AdamW with twin", "a", 0): timed(2.0, up),
            Key("AdamW held out", "a", 0): timed(1.0, up),
            Key("AdamW", "a", 0): timed(1.0, up),
        }

    of_numbers, of_labels = seconds_of({"table": row(False)}), seconds_of({"digits-0": row(True)})
    assert of_numbers["gate, z by twin"] == 4 * 8
    assert of_labels["gate, z by twin"] == 4 * 8 + 4  # the law of the labels is a gated run
    assert of_numbers["AdamW, twin"] == 4 * 2
    assert of_labels["AdamW, twin"] == 4 * 2 + 4
    assert of_labels["AdamW, hold-out"] == of_numbers["AdamW, hold-out"] == 9
    assert step_ratios({"table": row(False)}) == {"table": 4}


def test_rows_of_one_data_set_count_once():
    logs = {"digits-40": [0.1, 0.3], "cnn-0": [0.4], "table": [0.0], "table-50": [1.0]}
    found = numbers.by_data_set(logs)
    assert found["digits"] == pytest.approx([0.2, 0.4])
    assert found["table"] == pytest.approx([0.0, 1.0])
    assert numbers.interval(found)[0] == pytest.approx(math.exp(0.4))


def test_a_contender_that_lacks_a_run_is_left_out():
    held = runs("AdamW held out", lambda i: kept_out([1.0], [1.0]))
    held.popitem()
    assert values_of(held) == {}


def test_a_twin_chooses_among_what_it_can_tell():
    parts = {
        Key("kernels with twin", name_of(h), 0): run(
            [0.3, 0.2 + i], twin=[0.5, None if i == 2 else 0.4 - 0.1 * i]
        )
        for i, h in enumerate(THRESHOLDS)
    }
    assert values_of(parts)["gate, z by twin"][0] == pytest.approx(3.2)
    untold = {
        Key("AdamW with twin", name_of(h), 0): run([0.3, 0.2 + i], twin=[None, None])
        for i, h in enumerate(TWIN_GRID)
    }
    assert values_of(untold)["AdamW, twin"][0] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("column", "seen", "contender", "stop"),
    [
        ("evidence", [-1.0, -0.5, 0.1, -2.0], "evidence-based", 2),
        ("evidence", [-1.0, -0.5, -0.1, -2.0], "evidence-based", 3),
        ("gradients", [3.0, 1.0, 2.0, 4.0], "gradients", 1),
        # Means over three: 5, 4, 5: the first minimum is that of steps 1 to 3.
        ("changes", [6.0, 5.0, 4.0, 3.0, 8.0], "Label Wave", 3),
    ],
)
def test_a_rule_stops_where_it_says(column, seen, contender, stop):
    metric = [0.1 * (i + 1) for i in range(len(seen))]
    found = {Key("stops", "AdamW", 0): run(metric, up=True, **{column: seen})}
    assert values_of(found)[contender][0] == pytest.approx(1 - metric[stop])


def test_a_run_that_diverged_has_an_infinite_error():
    found = {Key("single", "AdamW", 0): run([0.5, None])}
    assert values_of(found)["AdamW, not tuned"][0] == math.inf


def test_errors_by_hand():
    assert error_of("accuracy", 0.9) == pytest.approx(0.1)
    assert error_of("psnr", 20.0) == pytest.approx(0.01)
    assert error_of("error", 0.3) == 0.3


@pytest.mark.parametrize("rows", [3, 7, 20])
def test_an_interval_holds_the_truth_as_often_as_it_says(rows):
    # Rows with seeds of a known mean ratio; 400 trials of 95 % have a deviation of 1.1 %.
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        effects = 0.1 + 0.2 * rng.standard_normal(rows)
        logs = {f"row {i}": list(e + 0.1 * rng.standard_normal(3)) for i, e in enumerate(effects)}
        _, low, high = numbers.interval(logs)
        inside += low <= math.exp(0.1) <= high
    assert 0.91 <= inside / 400 <= 0.985


def test_one_or_two_rows_have_no_interval():
    mean, low, high = numbers.interval({"a": [0.0, 0.2], "b": [0.3]})
    assert mean == pytest.approx(math.exp(0.2))
    assert math.isnan(low)
    assert math.isnan(high)
    assert words.place((mean, low, high)) == "too few rows to tell"
    assert words.place((0.9, 0.8, 0.95)) == "ahead"
    assert words.place((0.9, 0.8, 1.01)) == "no clear difference"


def test_regrets_and_ratios_by_hand():
    values = {"table": {"gate": {0: 0.2, 1: 0.4}, "AdamW, hold-out": {0: 0.1, 1: 0.8, 2: 9.0}}}
    names = ("gate", "AdamW, hold-out")
    assert numbers.regrets(values, names)["gate"]["table"] == 1
    assert numbers.regrets(values, names)[names[1]]["table"] == pytest.approx(1.5)
    logs = numbers.ratios(values, *names)
    assert logs["table"] == pytest.approx([math.log(2), math.log(0.5)])
    assert numbers.ratios(values, *names, kind="clean") == {}


def test_a_run_that_diverged_is_not_left_out_of_a_ratio():
    values = {"table": {"gate": {0: math.inf, 1: 0.4}, "AdamW, hold-out": {0: 0.5, 1: 0.4}}}
    assert numbers.ratios(values, "gate", "AdamW, hold-out")["table"] == pytest.approx(
        [math.log(2), 0]
    )


def test_the_loss_decides_where_the_held_out_accuracy_is_equal():
    held = runs(
        "AdamW held out",
        lambda i: kept_out([0.5, 0.1 * i], [3.0, 2.0 - 0.1 * i], held_wrong=[0.3, 0.2]),
    )
    values = values_of(held)
    assert values["AdamW, hold-out by accuracy"][0] == pytest.approx(1 - 0.8)


def test_runs_with_other_settings_of_the_row_are_refused(tmp_path):
    results = Results(tmp_path / "table.jsonl")
    results.update({Key("AdamW", "any", 0): {"of": Runner("table").mark}})
    Runner("table").check(results)
    with pytest.raises(InputError, match="other settings of table-200; delete it"):
        Runner("table-200").check(results)


def test_a_confident_error_has_a_finite_gradient():
    for distance in (1.0, 90.0, 300.0):
        logits = jnp.array([0.0, distance])
        slope = jax.grad(_generalised)(logits, 0)
        assert np.all(np.isfinite(slope))
    law = jax.nn.softmax(jnp.array([0.0, 1.0]))
    by_hand = (1 - float(law[0]) ** 0.7) / 0.7
    assert float(_generalised(jnp.array([0.0, 1.0]), 0)) == pytest.approx(by_hand)


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (9, 1.0), (54.5, 0.5), (100, 0.0)])
def test_a_cosine_falls_to_zero_from_a_rate_that_is_an_argument(step, share):
    def rate(peak):
        settings = CosineAdamW(decay_steps=100, learning_rate_warmup=10)
        return _with_arguments(settings, {"learning_rate": peak}).rate()(step)

    assert float(jax.jit(rate)(3e-3)) == pytest.approx(3e-3 * share, abs=1e-9)


def test_the_hidden_kernels_are_those_between_input_and_output():
    assert len(hidden_kernels(Table().make(0).params)) == 2
    photo = Photo(size=32).make(0).params
    assert len(hidden_kernels(photo)) >= 2
    assert not any("head" in path for path in hidden_kernels(photo))
    assert hidden_kernels(Arrays("digits", network="cnn", width=8).make(0).params) == set()


def test_parts_of_the_data_are_apart_and_complete():
    data = Table().make(0).supervised
    parts = [without(data, 0, 5, i) for i in range(5)]
    seen = np.concatenate([p.held_inputs for p in parts])
    assert len({row.tobytes() for row in seen}) == len(data.inputs)
    for p in parts:
        assert len(p.inputs) + len(p.held_inputs) == len(data.inputs)
        kept, held = ({row.tobytes() for row in np.asarray(x)} for x in (p.inputs, p.held_inputs))
        assert not kept & held


@pytest.mark.parametrize("amount", [0.2, 0.4])
@pytest.mark.parametrize("kind", ["uniform", "hard"])
def test_as_many_labels_are_wrong_as_was_said(kind, amount):
    (x, y), _ = Arrays("digits").data(3)
    (same, given), _ = Arrays("digits", kind, amount).data(3)
    assert np.array_equal(x, same)
    assert np.mean(given != y) == pytest.approx(amount, abs=0.03)


def test_a_gate_is_misplaced_and_nothing_else():
    signal = jnp.asarray(np.random.default_rng(0).uniform(0, 4, (6, 5)), jnp.float32)
    right = gate.soft(signal, jnp.ones_like(signal))
    settings = (
        dataclasses.replace(SINGLE[name], how=name).gate_settings(Table().make(0))["gate"]
        for name in ("shuffled", "mean")
    )
    shuffled, mean = (rule(signal, jnp.ones_like(signal), 1.0, 1.0) for rule in settings)
    assert not np.array_equal(shuffled, right)
    assert np.allclose(np.sort(shuffled, axis=None), np.sort(right, axis=None))
    assert np.allclose(mean, right.mean())


def test_a_part_of_the_gate_is_left_out_for_a_while():
    pair = jnp.diag(jnp.array([1.0, 2.0])), jnp.diag(jnp.array([3.0, 1.0]))
    turn = jnp.eye(2)[::-1]
    before = kronecker.doubt(pair, 0)
    assert float(before) > 1
    with changed("without doubt"):
        assert float(kronecker.doubt(pair, 0)) == 1
    assert kronecker.doubt(pair, 0) == before
    with changed("eigenvectors alone"):
        own = kronecker.ratios(pair, pair, (None, None), 0)
        eigen = kronecker.ratios(pair, pair, (turn, turn), 0)
    assert float(jnp.max(own.all)) == 0
    assert float(jnp.min(eigen.all)) > 0
    with changed("own basis alone"):
        assert Kernel.renewed(None, None, pair) is pair


def test_echo_keeps_what_the_slow_momentum_confirms():
    # One direction of the gradient persists. The other changes its sign at every step.
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (2, 3))
    steady, flickering = (np.outer(left[:, i], right[:, i]) for i in (0, 1))
    tx = scale_by_echo(fast=0.5, slow=0.999, every=16, least=0.1)
    params, kept = {"w": jnp.zeros((2, 3))}, []
    state = tx.init(params)
    for i in range(17):
        grads = {"w": jnp.asarray(steady + (-1) ** i * flickering, jnp.float32)}
        updates, state = tx.update(grads, state, params)
        kept.append([abs(float(left[:, j] @ updates["w"] @ right[:, j])) for j in (0, 1)])
    # Before the first measurement both have about the length one, times the root of 3 / 2.
    assert 0.6 < kept[14][0] / 1.5**0.5 < 1.3
    assert 0.6 < kept[14][1] / 1.5**0.5 < 1.3
    # By hand: 1 / 2 of the steady direction, 16 / 2, against about 0.75.
    assert kept[16][0] == pytest.approx(kept[14][0], rel=0.2)
    assert 0.05 < kept[16][1] / kept[14][1] < 0.4


def test_the_pages_are_those_of_the_runs():
    root = Path(__file__).parents[1]
    written = root / page.OUT
    stored = Stored.read(written)
    assert (written / "README.md").read_text() == page.page(stored)
    assert (written / "rows.md").read_text() == page.rows_page(stored.values)
    # The first ten lines say who should use the gate and who should not, the hold-out first.
    first = (written / "README.md").read_text().splitlines()[:10]
    said = ["People hold out", "**Use the gate** if", "**Do not use it** if"]
    assert [words for words in said if words in " ".join(first)] == said
    readme = (root / "README.md").read_text()
    assert page.first_table(stored.values) in readme
    assert page.first_sentence(stored) in " ".join(readme.split())
    # Every run is one of its row as it is now.
    for name, runs in stored.runs.items():
        assert {run["of"] for run in runs.values()} == {Runner(name).mark}


def test_every_kind_of_run_of_a_small_row(monkeypatch):
    row = row_of("small", "clean", Table(width=8), steps=40, batch=16)
    monkeypatch.setitem(EVERY, "small", row)
    runner = Runner("small")
    few = {key.part: key for key in wanted("small", 0, ("decide", "stops"))}
    found = {key: runner.measured(key) for key in (*few.values(), Key("single", "AdamW", 0))}
    for key, result in found.items():
        columns = result["curve"]
        assert all(len(column) == len(columns["step"]) for column in columns.values()), key
        assert columns["metric"][-1] is not None
    # The same network twice, once with a hold-out: more examples, another run.
    plain, held = found[few["AdamW"]], found[few["AdamW held out"]]
    assert plain["curve"]["metric"] != held["curve"]["metric"]
    assert set(CONTENDERS) >= set(values_of(found))
