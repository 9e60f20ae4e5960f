"""``snrgate audit``: which of the given labels are suspicious?"""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib.figure import Figure

from snrgate.estimators import GatedClassifier
from snrgate.lab.commands.audit_data import Examples, Reading, read
from snrgate.lab.errors import InputError
from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.labels import LabelQuality, label_quality

__all__ = ["Audit", "audit"]

_SHOWN = 20  # examples in the picture


@dataclasses.dataclass(frozen=True)
class Audit:
    """Rank the given labels of a data set, the most suspicious first.

    One gated network learns all examples. It does not fit what the others contradict, so its last
    step shows the labels that are likely to be wrong. Writes a CSV file of all examples, and a
    picture of the twenty most suspicious beside it.
    """

    data: Annotated[Path, tyro.conf.Positional]
    """A CSV, TSV, Parquet or npz file, or a folder with a folder of pictures for each class."""
    label: str | None = None
    """Column (array, in an npz file) of the labels; not for a folder."""
    out: Path = Path("ranked.csv")
    """File of the result. The picture is the same with the ending .png."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out, such as names and numbers of rows."""
    categorical: tuple[str, ...] = ()
    """Columns of numbers that are names."""
    separator: str | None = None
    """Between the cells of a text file; by default a comma, and a tab in a TSV file."""
    size: int = 32
    """Side to which the pictures of a folder are shrunk."""
    steps: int = 1000
    """Number of training steps."""
    seed: int = 0
    """Seed of the initial weights and of the batches."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        for name, least in (("steps", 1), ("size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)} must be at least {least}")
        if self.seed >= 2**32:
            raise InputError(f"seed = {self.seed} must be below 2 ** 32")
        if not self.out.name or self.out.is_dir():
            raise InputError(f"out = {self.out} is a folder; name a file, such as ranked.csv")
        if self.out.suffix.lower() == ".png":
            raise InputError(
                f"out = {self.out} is the name of the picture; name the table of the result, such "
                f"as {self.out.with_suffix('.csv')}"
            )
        if self.separator is not None and len(self.separator) != 1:
            raise InputError(f"separator = {self.separator!r} must be one character")


def audit(settings: Audit) -> None:
    """Read, train, and write the ranked labels and the picture.

    Args:
        settings: what to read, how to train, and where the result goes.

    Raises:
        InputError: something cannot be read, understood or written.
    """
    picture = settings.out.with_suffix(".png")
    for path in (settings.out, picture):
        if path.exists():
            raise InputError(f"{path} is there already; name another file with --out")
    if not settings.out.parent.is_dir():
        raise InputError(f"there is no folder {settings.out.parent} for the result")
    how = Reading(
        settings.label, settings.ignore, settings.categorical, settings.separator, settings.size
    )
    examples = read(settings.data, how)
    names, given = _classes(examples)
    print(f"{len(given)} examples, {examples.x.shape[1]} columns, {len(names)} classes.")
    for note in (*examples.notes, *_lonely(names, given)):
        print(f"Note: {note}.")
    model = GatedClassifier(steps=settings.steps, random_state=settings.seed)
    model.fit(examples.x, given)
    found = label_quality(model.predict_proba(examples.x), given)
    try:
        folder = RunFolder(settings.out.parent)
        folder.write(settings.out.name, _ranked(examples, names, found).encode())
        folder.write(picture.name, to_png(_drawn(examples, names, found)))
    except OSError as error:
        raise InputError(f"{settings.out} cannot be written: {error.strerror}") from error
    other = int((found.suggested != given).sum())
    print(
        f"The network would give another label to {other} examples. All are in {settings.out}, the "
        f"most suspicious first; {picture} shows the first {min(_SHOWN, len(given))}."
    )


def _classes(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The names of the classes, and the number of the class of each example."""
    names, given = np.unique(examples.labels, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"all labels are {str(names[0])!r}; there must be two classes at least")
    if len(names) > max(len(given) // 2, 2):
        raise InputError(
            f"there are {len(names)} different labels of {len(given)} examples; an audit needs "
            "classes with several examples each"
        )
    return names, given


def _lonely(names: np.ndarray, given: np.ndarray) -> list[str]:
    alone = names[np.bincount(given) == 1]
    return [f"class {str(name)!r} has one example, which nothing can confirm" for name in alone]


def _ranked(examples: Examples, names: np.ndarray, found: LabelQuality) -> str:
    """The result as CSV: rank, row, quality, labels, and the row as it was."""
    own = ("rank", "row", "quality", "given", "suggested")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = examples.shown
    writer.writerow([f"audit_{n}" if n in shown else n for n in own] + list(shown.columns))
    cells = shown.astype(object).where(shown.notna(), "").to_numpy()
    for rank, at in enumerate(found.ranked, 1):
        labels = examples.labels[at], names[found.suggested[at]]
        writer.writerow([rank, at + 1, f"{found.scores[at]:.6g}", *labels, *cells[at]])
    return text.getvalue()


def _drawn(examples: Examples, names: np.ndarray, found: LabelQuality) -> Figure:
    """The most suspicious examples: as pictures, or the probabilities of both labels."""
    first = found.ranked[:_SHOWN]
    titles = [
        f"row {at + 1}: {examples.labels[at]}, rather {names[found.suggested[at]]}"
        if names[found.suggested[at]] != examples.labels[at]
        else f"row {at + 1}: {examples.labels[at]}"
        for at in first
    ]
    if examples.pictures is not None:
        figure = Figure(figsize=(10, 9), layout="constrained")
        for ax, at, title in zip(figure.subplots(4, 5).flat, first, titles, strict=False):
            ax.imshow(examples.pictures[at].squeeze(), cmap="gray")
            ax.set_title(title, fontsize=7)
        for ax in figure.axes:
            ax.set_axis_off()
        return figure
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes, places = figure.subplots(), np.arange(len(first))
    likely = found.probabilities[first, found.suggested[first]]
    axes.barh(places - 0.2, found.scores[first], 0.4, color="#b4532a", label="given label")
    axes.barh(places + 0.2, likely, 0.4, color="#1f5f8b", label="most likely label")
    axes.set_yticks(places, titles, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    axes.legend(loc="lower right")
    return figure
