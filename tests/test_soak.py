"""A long run does not grow: a short version of ``benchmarks/soak.py``."""

import jax
import pytest
import soak


@pytest.fixture(autouse=True)
def no_listener_left():
    yield
    jax.monitoring.unregister_event_duration_listener(soak._count)


def test_nothing_grows():
    seen = soak.soak(4000)
    assert set(seen) == set(soak.WAYS)
    for points in seen.values():
        assert [point.steps for point in points] == list(range(400, 4001, 400))
        assert points[0].traces > 0
        assert points[0].programs > 0


@pytest.mark.parametrize("leak", ["arrays", "programs and traces"])
def test_growth_is_seen(monkeypatch, leak):
    kept = []

    def leaking(steps):
        for step in soak.by_hand(steps):
            if step % 10 == 0 and leak == "arrays":
                kept.append(jax.numpy.zeros(1))
            elif step == 50:
                jax.clear_caches()
            yield step

    monkeypatch.setattr(soak, "WAYS", {"leaking": leaking})
    with pytest.raises(RuntimeError, match="leaking has grown from"):
        soak.soak(100)
