"""The rules when to stop, on curves whose answer is known."""

import numpy as np
import theory_rules
from theory_rules import RULES, agreement, first_below, first_minimum, lowest, risen

from snrgate.lab.training.results import Key


def rows(**curves):
    count = len(next(iter(curves.values())))
    return [
        {"step": 10 * (i + 1)} | {k: float(v[i]) for k, v in curves.items()} for i in range(count)
    ]


def test_each_rule_finds_its_place():
    t = np.arange(40.0)
    assert lowest("a")(rows(a=(t - 20) ** 2)) == 22  # the mean over five is lowest two later
    assert first_below("a", 10.0)(rows(a=30 - t)) == 23
    assert first_below("a", -1.0)(rows(a=30 + t)) == 39
    assert risen("a")(rows(a=np.where(t < 15, 30 - t, t))) in range(13, 18)
    assert risen("a")(rows(a=-t)) == 39
    assert abs(first_minimum("a")(rows(a=np.abs(t - 10))) - 12) <= 1


def test_agreement_of_a_perfect_and_a_doubled_estimate():
    t = np.linspace(0, 1, 40)
    true, training = 1 + t, 1 - 0.5 * t
    same = {"true": true, "training": training, "band": np.full(40, 0.1), "score": t}
    perfect = agreement(rows(**same, risk=true, gap=true - training))
    assert perfect["estimated / true gap, end"] == 1
    assert perfect["covered by the band"] == 1
    assert perfect["correlation of the risk"] > 0.999
    doubled = agreement(rows(**same, risk=training + 3 * t, gap=2 * (true - training)))
    assert abs(doubled["estimated / true gap, end"] - 2) < 0.01


def test_the_page_has_every_rule_and_run():
    t = np.linspace(0, 1, 40)
    names = ("true", "risk", "gap", "band", "score", "held", "change", "evidence")
    curves = rows(**dict.fromkeys(names, 1 + t), training=1 - t, gradstop=t, disparity=t, changed=t)
    runs = {
        Key(part, name, 0): curves
        for part in ("whole", "held-out")
        for name in ("digits-40/AdamW", "table/gate")
    }
    page = theory_rules.page(runs, lambda values: sorted(values)[len(values) // 2])
    assert all(f"| {rule} |" in page for rule in RULES)
    assert "digits-40/AdamW" in page
    assert theory_rules.picture(runs)[:4] == b"\x89PNG"
