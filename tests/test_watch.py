"""The population risk as columns of a training."""

import dataclasses

import numpy as np
import pytest
from small_task import LINE

from snrgate.lab.commands.compare import as_markdown
from snrgate.lab.errors import InputError
from snrgate.lab.study.peers import Sam
from snrgate.lab.tasks.pinn import Pinn
from snrgate.lab.training.optimizers import OPTIMIZERS, AdamW, Gated, Soap
from snrgate.lab.training.settings import flat, replaced
from snrgate.lab.training.sweep import as_result
from snrgate.lab.training.train import fit
from snrgate.lab.training.watch import watched


@pytest.mark.parametrize("optimizer", [AdamW(0.05), Gated(0.05)], ids=["adamw", "gated"])
def test_the_columns_are_there_and_the_training_is_the_same(optimizer):
    plain = dataclasses.replace(LINE, optimizer=optimizer, steps=20)
    task = plain.task.make(0)
    rows = [row for _, row in fit(plain, task)]
    asked = [row for _, row in fit(dataclasses.replace(plain, risk=True), task)]
    for without, with_it in zip(rows, asked, strict=True):
        assert set(with_it) - set(without) == {"risk", "risk_gap", "risk_band"}
        assert with_it["error"] == pytest.approx(without["error"], rel=1e-4)
        assert np.isfinite(with_it["risk"])
        assert with_it["risk_gap"] > 0
        assert with_it["risk_band"] > 0
    table = as_markdown({"line": [as_result(task, asked)]})
    assert "population risk" in table
    assert f"{asked[-1]['risk']:.4g}" in table
    assert "population risk" not in as_markdown({"line": [as_result(task, rows)]})


def test_what_has_no_estimate_is_refused():
    task = LINE.task.make(0)
    with pytest.raises(InputError, match="one kind of examples"):
        watched(Sam(), task)
    with pytest.raises(InputError, match="one kind of examples"):
        watched(AdamW(), Pinn(width=8, depth=1).make(0))
    with pytest.raises(InputError, match=r"one of the optimizers (?!.*soap)"):
        watched(Soap(), task)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"soap"}))
def test_every_other_optimizer_is_followed(name):
    task = LINE.task.make(0)
    watched(OPTIMIZERS[name](), task).tx.init(task.params)


def test_a_later_setting_leaves_stored_settings_as_they_were():
    assert "risk" not in flat(LINE)
    asked = dataclasses.replace(LINE, risk=True)
    assert flat(asked)["risk"] is True
    assert replaced(LINE, flat(asked)) == asked
