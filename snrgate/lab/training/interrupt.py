"""Ctrl-C and SIGTERM, held back until the run can stop safely."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

__all__ = ["Stopped", "abandoned", "deferred_interrupts", "heard_interrupts", "until_told"]

Item = TypeVar("Item")

_TICK = 0.05  # seconds between two looks at whether a signal has come
_THREAD = "a step of a run"
_DEAF = ("_xla_gc_callback", "__del__")  # functions whose exceptions Python drops


class Stopped(Exception):
    """A run that stopped because a signal asked it to.

    Args:
        number: of the signal.
        message: the state of the run, and how to go on.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], int | None]]:
    """Hold back the first SIGINT or SIGTERM. A second one has its usual effect.

    A signal that is ignored stays ignored. A shell may do so for a process in the background.

    Yields:
        A function that returns the number of the signal that was held back, or ``None``.
    """
    came: list[int] = []
    # getsignal returns None for a handler that Python did not set, and that cannot be set again.
    usual = {
        number: signal.getsignal(number) or signal.SIG_DFL
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        restore()

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        restore()


def until_told(items: Iterator[Item], told: Callable[[], int | None]) -> Iterator[Item]:
    """Items, each worked out in a thread, so that a signal need not wait for the next one.

    A program of JAX cannot be interrupted while it is compiled or runs. When a signal comes, the
    item in work is left to itself, and a process that ends then must not wait for it
    (:func:`abandoned`).

    Args:
        items: what is worked out.
        told: of :func:`deferred_interrupts`.

    Yields:
        The items, until there are no more or a signal has come.
    """
    while True:
        outcome: Future[Item | None] = Future()
        thread = threading.Thread(target=_work, args=(items, outcome), name=_THREAD, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_TICK)
            if told() and thread.is_alive():
                return
        item = outcome.result()
        if item is None:
            return
        yield item


def _work(items: Iterator[Item], outcome: Future[Item | None]) -> None:
    try:
        outcome.set_result(next(items, None))
    except BaseException as error:
        outcome.set_exception(error)


def abandoned() -> bool:
    """Whether an item of :func:`until_told` is still in work."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


@contextlib.contextmanager
def heard_interrupts() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` at SIGINT, also where Python would drop it.

    An exception in a callback of the garbage collector, in which JAX spends some of its time, is
    reported and forgotten. The signal is therefore sent again a moment later.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        inner = frame
        while inner is not None:
            if inner.f_code.co_name in _DEAF:
                again = threading.Timer(_TICK, os.kill, (os.getpid(), number))
                again.daemon = True
                again.start()
                return
            inner = inner.f_back
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
