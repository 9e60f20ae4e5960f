"""Ctrl-C and SIGTERM, held back until the run can stop safely."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Stopped", "deferred_interrupts"]


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
