"""How far a run has come: a bar on a terminal, and otherwise a line now and then."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["progress_bar"]

_SILENT = 30  # seconds from one line to the next


@contextlib.contextmanager
def progress_bar(total: int, done: int) -> Iterator[Callable[[int, str], None]]:
    """Show how far a run has come.

    A terminal gets a bar. Elsewhere, as in a log or a notebook, a line is printed every half a
    minute.

    Args:
        total: number of steps of the run.
        done: number of steps that are done already.

    Yields:
        A function that takes the step reached and the text to show beside it.
    """
    console = Console()
    columns = (
        TextColumn("step {task.completed} of {task.total}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    if not console.is_terminal:
        yield _lines(total)
        return
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=total, completed=done)
        yield lambda step, text: bar.update(task, completed=step, description=text)


def _lines(total: int) -> Callable[[int, str], None]:
    """A function that prints a line, unless it did so a moment ago."""
    last = time.monotonic()

    def show(step: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _SILENT:
            last = time.monotonic()
            print(f"step {step} of {total}: {text}", flush=True)

    return show
