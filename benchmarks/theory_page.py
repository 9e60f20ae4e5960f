"""Write the page of the theory's figures, with the paper's numbers beside ours.

    python benchmarks/theory_page.py

Reads what ``theory_learning.py`` and ``theory_closed.py`` have left in ``results/theory``.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Page:
    """The page of the figures."""

    out: Path = Path("results/theory")
    """Folder of the numbers and the page."""


PAPER = {
    ("coupling", "cut 0.1", "correlation"): "0.991",
    ("coupling", "cut 0.1", "relative error"): "0.165",
    ("coupling", "kernel drift at the end"): "up to about 4.8",
    ("noise", "step 40", "effective rank of the Gramian"): "5.3",
    ("noise", "step 40", "whitened, largest over the one beyond the rank"): "six orders",
}
"""Numbers that the paper reports, by the place of ours."""


def keep(out: Path, name: str, numbers: Mapping[str, Any], figures: Mapping[str, Figure]) -> None:
    """Write numbers and figures, from which the page is made, into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(out)
    for figure_name, figure in figures.items():
        folder.write(f"{figure_name}.png", to_png(figure))
    folder.write_json(name, numbers)
    print(numbers)


def lines_of(numbers: Any, at: tuple[str, ...] = ()) -> list[str]:
    """A line of the table for each number."""
    if isinstance(numbers, dict):
        return [line for name, inner in numbers.items() for line in lines_of(inner, (*at, name))]
    told = f"{numbers:.4g}" if isinstance(numbers, float) else str(numbers)
    return [f"| {': '.join(at)} | {told} | {PAPER.get(at, '-')} |"]


def main(page: Page) -> None:
    """Write the page."""
    numbers: dict[str, Any] = {}
    for name in ("learning", "closed"):
        numbers |= json.loads((page.out / f"{name}.json").read_text())
    text = [
        "# The figures of the theory",
        "",
        "`python benchmarks/theory_learning.py` makes the first three, `python",
        "benchmarks/theory_closed.py` the other ones, and `python benchmarks/theory_page.py` this",
        "page. Each takes a few minutes with one thread.",
        "",
        *(
            f"![{words}]({name}.png)\n"
            for name, words in {
                "cells": "The four cells of the test error (figure 1)",
                "coupling": "What the queries see, and the predicted displacement (figure 2)",
                "noise": "A fifth of the labels wrong (figure 6)",
                "descent": "Double descent (figure 7)",
                "time": "Modes one after the other, training before test (figure 8)",
                "walks": "Drift and diffusion",
            }.items()
        ),
        "| number | ours | the paper's |",
        "|:--|--:|--:|",
        *lines_of(numbers),
    ]
    RunFolder(page.out).write("README.md", ("\n".join(text) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Page))
