"""Results of many runs in one file: a line of JSON for each run.

The file is replaced as a whole, by one process at a time. Two processes may therefore add their
runs to it at once, and a process that is killed while it writes leaves the file as it was.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from snrgate.lab.errors import InputError
from snrgate.lab.training.folder import RunFolder, alone

__all__ = ["Key", "Result", "Results"]

Result = dict[str, Any]
"""``settings``, ``metric``, ``last`` and ``best`` rows, ``curve``, ``diverged`` and ``seconds``."""


class Key(NamedTuple):
    """The key of one run in a file.

    Attributes:
        part: purpose of the run, as "tuning" or "runs".
        name: name of the contender, with its settings where several are tried.
        seed: seed of the run.
    """

    part: str
    name: str
    seed: int


class Results:
    """The results in a file.

    Args:
        path: the file, ``.jsonl``, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[Key, Result]:
        """All results by their keys, sorted by part, name and seed.

        Raises:
            InputError: a line of the file is no result.
        """
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return {}
        found = {}
        for number, line in enumerate(lines, 1):
            try:
                result = json.loads(line)
                key = Key(*(result.pop(name) for name in Key._fields))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"line {number} of {self.path} is no result of a run; restore the file, or "
                    "delete that line to have the run measured again"
                ) from error
            found[key] = result
        return found

    def update(self, changes: Mapping[Key, Result | None]) -> None:
        """Add results, or replace those that have the same keys.

        Args:
            changes: the new results; ``None`` removes the old one.

        Raises:
            InputError: a line of the file is no result.
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with alone(self.path.parent, waits=True):
            merged = {**self.read(), **changes}
            lines = [
                json.dumps(key._asdict() | result, separators=(",", ":")) + "\n"
                for key, result in sorted(merged.items(), key=lambda item: item[0])
                if result is not None
            ]
            RunFolder(self.path.parent).write(self.path.name, "".join(lines).encode())
