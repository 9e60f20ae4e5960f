"""A progress bar for a person who watches; nothing for a file."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(total: int, done: int) -> Iterator[Callable[[int, str], None]]:
    """Show how far a run has come, where standard output is a terminal.

    Args:
        total: steps of the run.
        done: steps that it has behind it.

    Yields:
        A function that is told the step reached and what to say about it.
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
