"""One training, in many ways, with the same numbers (``benchmarks/equivalence.py``)."""

import equivalence
import jax
import pytest
from equivalence import STEPS, TOLERANCE, WAYS, Setting, compare, deviation, one_device, outcome

# Each kind of float and each kind of block; the table in the documents has all four.
TESTED = [Setting("float64", "parameter"), Setting("float32", "unit")]


@pytest.fixture(autouse=True)
def no_other_settings(monkeypatch):
    monkeypatch.setattr(equivalence, "SETTINGS", TESTED)


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_the_same_numbers(way):
    for setting in TESTED:  # in one test, so that processes are started once for all settings
        found = compare(way, setting)
        assert max(found.loss, found.moments, found.params) <= TOLERANCE[setting.dtype], setting
        # In float32 a gate may lie so near its threshold that rounding opens or shuts it.
        assert found.gates <= (0 if setting.dtype == "float64" else 2), setting


def test_one_example_less_is_noticed():
    setting = TESTED[1]
    batches = ((tuple(x[:-1] for x in equivalence.batch_of(i, "float32")),) for i in range(STEPS))
    step = jax.jit(equivalence.make_step(setting))
    less = outcome(*equivalence.train(step, equivalence.start(setting), batches))
    found = deviation(less, one_device(setting))
    assert min(found.loss, found.moments, found.params) > 1e-3
    assert found.gates > 2
