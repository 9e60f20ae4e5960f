"""A photo in tiles is not lost to a signal; with a network of one number, for speed."""

import signal
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from snrgate.lab.tasks.tiles import tiles
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.interrupt import (
    Stopped,
    abandoned,
    deferred_interrupts,
    heard_interrupts,
    until_told,
)
from snrgate.lab.training.loop import TrainState
from snrgate.lab.training.tile_fit import TileFit
from snrgate.lab.training.tile_run import run_tiles

STEPS = 3
PHOTO = np.random.default_rng(0).random((20, 50, 1), np.float32)
LAYOUT = tiles((20, 50), 20, 4)


def fit(tell=lambda calls: None):
    """A training whose state is the sum of the pixels so far; ``tell`` hears of every stretch."""
    calls = []

    def stretch(state, pixels):
        calls.append(pixels)
        tell(len(calls))
        total = state.params + pixels.sum() * state.step
        return state._replace(step=state.step + 1, params=total)

    def picture(state, pixels):
        return pixels * np.float32(state.params)

    zero = jnp.zeros((), jnp.int32)
    start = TrainState(zero, jnp.ones(()), (), zero, zero)
    held_out = np.zeros(LAYOUT.side, bool)
    return TileFit(start, STEPS, held_out, stretch, picture), calls


@pytest.fixture
def python_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", [1, STEPS, STEPS + 2])
def test_a_stopped_photo_goes_on_where_it_was(tmp_path, python_interrupts, when):
    whole = run_tiles(PHOTO, LAYOUT, fit()[0], RunFolder(tmp_path), "")
    for path in tmp_path.iterdir():
        path.unlink()

    released = threading.Event()

    def tell(calls):
        if calls == when:
            interrupt_main()
            released.wait(60)

    stopping, _ = fit(tell)
    with pytest.raises(Stopped, match="saved; continue with: again"):
        run_tiles(PHOTO, LAYOUT, stopping, RunFolder(tmp_path), "again")
    released.set()
    rest, calls = fit()
    resumed = run_tiles(PHOTO, LAYOUT, rest, RunFolder(tmp_path), "")
    np.testing.assert_array_equal(resumed, whole)
    # Only the step in which the signal came is done twice.
    assert len(calls) == STEPS * len(LAYOUT.corners) - (when - 1)


def interrupt_main():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_a_signal_need_not_wait_for_the_step_in_work(python_interrupts):
    """Not for one of a minute."""
    released = threading.Event()

    def slow():
        yield "first"
        interrupt_main()
        released.wait(60)
        yield "never"

    began = time.monotonic()
    with deferred_interrupts() as interrupted:
        assert list(until_told(slow(), interrupted)) == ["first"]
        assert interrupted() == signal.SIGINT
    assert time.monotonic() - began < 30
    assert abandoned()
    released.set()
    while abandoned():
        time.sleep(0.01)


def test_an_error_in_a_step_is_raised_where_the_items_are_used():
    def broken():
        yield 1
        raise KeyError("pixel")

    items = until_told(broken(), lambda: None)
    assert next(items) == 1
    with pytest.raises(KeyError, match="pixel"):
        next(items)


class Deaf:
    """Python drops what is raised while an object is deleted."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)  # the handler runs here


def test_an_interrupt_is_heard_where_python_drops_exceptions(python_interrupts):
    def wait():
        with heard_interrupts():
            Deaf()
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
