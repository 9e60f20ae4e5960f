"""A progress bar, shown only where the output is a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(total: int, done: int) -> Iterator[Callable[[int, str], None]]:
    """Show how far a run has come, where standard output is a terminal.

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
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=total, completed=done)
        yield lambda step, text: bar.update(task, completed=step, description=text)
