"""The study at a smoke size; what its pages say, against hand work."""

import dataclasses
import math
from pathlib import Path

import pytest
from small_task import LINE, Line

from snrgate.lab.errors import InputError
from snrgate.lab.study.references import references
from snrgate.lab.study.results import results_of, score, steps_to, steps_words, stored
from snrgate.lab.study.rows import ROWS, Row
from snrgate.lab.study.run import Study, _tune, run
from snrgate.lab.study.short import short_tables
from snrgate.lab.study.summary import summary_page
from snrgate.lab.study.tables import _sensitivity, row_page, verdict
from snrgate.lab.study.tuned import tuned_config
from snrgate.lab.training.configs import training_config
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.results import Key
from snrgate.lab.training.settings import flat

RESULTS = Path(__file__).parents[1] / "results" / "study"


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


def test_a_setting_that_diverged_counts_among_those_that_were_tried():
    tried = {"adamw": {"a": {100: result(0.7)}, "b": {100: result(-math.inf)}}}
    assert "| adamw | 2 | -inf (-inf to 0.7) |" in _sensitivity(tried, "m")


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
    assert verdict(dataclasses.replace(row, kind="clean"), level).endswith("the gate is level.")
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
    study = Study(rows=("line",), tuning_seeds=(100,), seeds=(0,), steps=4, out=tmp_path)
    run(study)
    page = (tmp_path / "line" / "README.md").read_text()
    for name in ("adamw-untuned", "adamw", "gated", "sam", "hard"):
        assert f"| {name} |" in page
    assert (tmp_path / "line" / "curves.png").stat().st_size > 10_000
    assert "| line | a line |" in (tmp_path / "README.md").read_text()
    assert "| closed form | 0.5 (0.5 to 0.5) |" in page
    results = results_of(tmp_path, "line").read()
    assert [key.part for key in results].count("tuning") == 6
    runs = stored(results, "runs", row.contenders())
    assert set(row.contenders()) - {"adamw-oracle"} <= set(runs)
    assert all(list(seeds) == [0] for seeds in runs.values())
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
    results_of(tmp_path, "division-wrong").update(
        {
            Key("runs", "adamw", 0): whole,
            Key("runs", "gated", 0): whole,
            Key("runs", "gated", 1): failed,
            Key("runs", "left-over", 0): whole,
        }
    )
    page = summary_page(tmp_path)
    asked, gated, *_ = rows_of(page, "division-wrong")
    assert "division-wrong" not in short_tables(tmp_path)
    assert asked.endswith("| 3 |")  # minutes, without the left-over
    assert "-inf" in gated  # the run that diverged is in the range
    (claim,) = [line for line in page.splitlines() if line.startswith("| wrong answers learned |")]
    assert "gated 0.25 (0.25 to 0.25)" in claim


def test_the_results_page_shows_adamw_and_peers_where_the_gate_was_not_run(tmp_path):
    values = {"adamw": (0.2, 0.96), "algorithm-1-finite": (0.2, 0.3, 0.97)}
    runs = {Key("runs", n, 0): run_of(*v) | {"seconds": 60.0} for n, v in values.items()}
    results_of(tmp_path, "division-slow").update(runs)
    page = summary_page(tmp_path)
    asked, gated, adamw, untuned = rows_of(page, "division-slow")
    assert asked.endswith("| gate not run | 2 |")
    assert gated.endswith("| - | - | - |")
    assert adamw.endswith("| 20 (20 to 20) | 20 (20 to 20) |")
    assert untuned.endswith("| - | - |")
    (claim,) = [line for line in page.splitlines() if line.endswith("| division-slow |")]
    assert "| adamw 20 (20 to 20); algorithm-1-finite 30 (30 to 30) |" in claim


def rows_of(page, name):
    """The lines of a row in the tables of a page."""
    return [line for line in page.splitlines() if line.startswith(f"| {name} |")]


def test_the_short_tables_have_the_median_setting_of_the_grid(tmp_path):
    for part, name, value in (
        ("runs", "adamw", 0.5),
        ("runs", "gated", 0.4),
        ("tuning", "adamw-lr0.0001-wd0", 0.9),
        ("tuning", "adamw-lr0.001-wd0", 0.7),
        ("tuning", "adamw-lr0.003-wd0", 0.1),
    ):
        results_of(tmp_path, "table").update({Key(part, name, 0): run_of(value)})
    untuned, settings, tuned = rows_of(short_tables(tmp_path), "`table`")
    assert untuned.endswith("; m | - | - |")
    assert settings == "| `table` | 0.700 | - |"
    assert tuned == "| `table` | 0.500 | 0.400 | 0.500 |"


def test_the_tables_of_the_documents_are_those_of_the_results():
    root = RESULTS.parents[1]
    assert short_tables(RESULTS) == (RESULTS / "short.md").read_text()
    assert "```{include} ../results/study/short.md" in (root / "docs" / "numbers.md").read_text()
    assert summary_page(RESULTS) == (RESULTS / "README.md").read_text()


@pytest.mark.parametrize("name", ROWS)
def test_the_tuned_settings_are_those_of_the_runs(name):
    """As they are committed, and as ``snrgate train --config`` takes them."""
    path, row = RESULTS / name / "tuned.toml", ROWS[name]
    contenders = stored(results_of(RESULTS, name).read(), "runs", row.contenders())
    assert path.read_text() == tuned_config(name, contenders)
    task, taken = type(row.base.task).__name__.lower(), 0
    for contender, results in contenders.items():
        kept = results[0]["settings"]
        if kept["optimizer"] in ("AdamW", "Gated", "Algorithm1"):
            assert flat(training_config(task, contender, path)) == kept
            taken += 1
    assert taken >= 2


def test_the_fastest_is_the_one_that_comes_nearest_where_none_gets_there(tmp_path):
    row = Row("a line", "noisy", LINE, rates=(1e-4, 1e-2), decays=(0.0,), reach=1e-9)
    study = Study(tuning_seeds=(100,), steps=40, out=tmp_path)
    assert (
        _tune(row, "adamw", study, results_of(tmp_path, "line"))["fastest"].optimizer.learning_rate
        == 1e-2
    )


def test_where_there_is_one_setting_none_is_looked_for(tmp_path):
    row = Row("a line", "noisy", LINE, rates=(1e-2,), decays=(0.1,))
    tuned = _tune(row, "adamw", Study(), results_of(tmp_path, "line"))
    assert {t.optimizer for t in tuned.values()} == {AdamW(1e-2, 0.1)}
    assert not list(tmp_path.iterdir())
    runs = {"adamw": {0: run_of(0.2) | {"seconds": 1.0}}}
    runs["adamw"][0]["settings"] |= flat(tuned["last"])
    page = row_page("line", row, runs, {"adamw": {}}, {})
    assert "All contenders have the same learning rate and weight decay." in page
    assert "chosen" not in page
    assert "tried" not in page
