"""All that the pages of the comparison are written from, read from the stored runs."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from comparison.choice import edges_of, values_of
from comparison.contenders import WIDE_GRID
from comparison.fixed import Ends, best_setting, ends_of, fixed
from comparison.numbers import Values
from comparison.rows import ROWS, RULED
from comparison.scales import POINTS
from comparison.seconds import seconds_of, step_ratios
from snrgate.lab.training.results import Key, Result, Results

__all__ = ["Stored"]

Runs = Mapping[Key, Result]
"""The runs of one row."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """What was measured."""

    LEAST_SEEDS: ClassVar[int] = 3
    """Fresh seeds without which a row does not count, nor a contender on it."""

    runs: Mapping[str, Runs]
    """The runs of the rows."""
    ruled: Mapping[str, Runs]
    """The runs on equations and rules."""
    scales: Values
    """The errors of the points of the curves."""

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        """All runs of a folder."""
        scales = {name: values_of(runs) for name, runs in _read(folder, POINTS).items()}
        return cls(_read(folder, ROWS), _read(folder, RULED), scales)

    @functools.cached_property
    def values(self) -> Values:
        """The errors by row, contender and seed."""
        more = fixed(self.ends)
        found = {row: self._errors[row] | more.get(row, {}) for row in self.runs}
        return {row: of_row for row, of_row in found.items() if of_row}

    @functools.cached_property
    def ends(self) -> Ends:
        """The last steps of AdamW's settings on the rows that count."""
        rows = [row for row, errors in self._errors.items() if self._enough(errors.get("gate", {}))]
        return ends_of({row: self.runs[row] for row in rows})

    @functools.cached_property
    def _errors(self) -> dict[str, dict[str, dict[int, float]]]:
        """The errors of the contenders that are chosen on each row by itself."""
        return {row: values_of(runs) for row, runs in self.runs.items()}

    @functools.cached_property
    def counted(self) -> Values:
        """The errors with enough fresh seeds for a ratio of theirs to count."""
        found = {
            row: {name: of_name for name, of_name in of_row.items() if self._enough(of_name)}
            for row, of_row in self.values.items()
        }
        return {row: of_row for row, of_row in found.items() if "gate" in of_row}

    def _enough(self, of_name: Mapping[int, float]) -> bool:
        return len(of_name) >= self.LEAST_SEEDS

    @property
    def _counted_runs(self) -> dict[str, Runs]:
        return {row: self.runs[row] for row in self.counted}

    @functools.cached_property
    def seconds(self) -> dict[str, float]:
        """The seconds of all runs of a contender on a row."""
        return seconds_of(self._counted_runs)

    @functools.cached_property
    def times(self) -> dict[str, float]:
        """How many times as long as a run of AdamW a gated run takes, by row."""
        return step_ratios(self._counted_runs)

    @functools.cached_property
    def edges(self) -> tuple[int, int]:
        """How often the hold-out chose the highest rate or decay, and how often it chose."""
        return edges_of(self._counted_runs.values())

    @functools.cached_property
    def wide_edges(self) -> tuple[int, int]:
        """The same for the wider grid."""
        return edges_of(self._counted_runs.values(), WIDE_GRID)

    @functools.cached_property
    def hindsight(self) -> str:
        """The setting of AdamW that is best on all rows that count."""
        return best_setting(self.ends, self.ends)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The rows whose targets are labels."""
        return tuple(
            row
            for row, runs in self._counted_runs.items()
            if next(iter(runs.values()))["metric"] == "accuracy"
        )


def _read(folder: Path, names: Iterable[str]) -> dict[str, Runs]:
    """The runs of all rows that have been measured, as far as they have."""
    found = {name: Results(folder / f"{name}.jsonl").read() for name in names}
    return {name: runs for name, runs in found.items() if runs}
