"""The folder of one run: settings, metrics, and files that appear whole or not at all."""

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

import snrgate
from snrgate.lab.errors import InputError
from snrgate.lab.training.settings import flat, replaced

__all__ = ["FREE", "RunFolder", "alone", "stored_settings"]

Settings = TypeVar("Settings")

FREE = ("steps", "devices")
"""Settings of a training that may differ where a run is resumed."""

_SETTINGS = "config.json"
_METRICS = "metrics.jsonl"
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of file systems that have none


def stored_settings(path: Path, like: Settings) -> Settings:
    """The settings that a run was started with.

    Args:
        path: folder of the run.
        like: settings of the same kind: a frozen dataclass, or several nested ones.

    Raises:
        InputError: there is no run in the folder, or one of another kind.
    """
    try:
        stored = json.loads((path / _SETTINGS).read_text())["settings"]
        settings = replaced(like, stored)
        if missing := [name for name in flat(like) if name not in stored]:
            raise ValueError(f"there is no {missing[0]}")
        return settings
    except FileNotFoundError:
        raise InputError(
            f"there is no run in {path} to resume; leave out --resume to start one"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path / _SETTINGS} does not hold settings of such a run: {error}; resume it with "
            "the config that it was started with, or start another run with another --out"
        ) from error


@contextlib.contextmanager
def alone(folder: Path, *, waits: bool) -> Iterator[None]:
    """Keep other processes out of a folder for a while.

    The system ends the lock of a process that is dead.

    Args:
        folder: must exist.
        waits: whether to wait until no other process is there.

    Raises:
        InputError: another process is there, and this one does not wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(
                f"another process trains in {folder}; wait until it ends, or give another --out"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


class RunFolder:
    """A run on disk. As a context, it keeps the folder of a live run from other processes.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._claim = contextlib.ExitStack()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._claim.close()

    def start(self, settings: Any, fingerprint: int) -> None:
        """Claim the folder for a new run.

        Args:
            settings: frozen dataclass.
            fingerprint: a checksum of the data.

        Raises:
            InputError: the folder is not empty, or another process trains there.
            OSError: the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._claim.enter_context(alone(self.path, waits=False))
        if (self.path / _SETTINGS).exists():
            raise InputError(
                f"{self.path} holds a run already; continue it with --resume, or give another --out"
            )
        if any(self.path.iterdir()):
            raise InputError(f"{self.path} is not empty; give another --out")
        self.write_json(
            _SETTINGS,
            {
                "version": snrgate.__version__,
                "settings": flat(settings),
                "fingerprint": fingerprint,
            },
        )

    def reopen(self, settings: Any, fingerprint: int, free: Collection[str] = ()) -> None:
        """Check that the run in the folder is the one that is to be resumed.

        Args:
            settings: frozen dataclass.
            fingerprint: a checksum of the data.
            free: settings that may differ from those of the run. The folder has them from now on.

        Raises:
            InputError: there is no run, or another process trains there, or it has other settings,
                or another version of this package made it, or the data has changed.
        """
        stored = flat(stored_settings(self.path, settings))
        self._claim.enter_context(alone(self.path, waits=False))
        changed = [
            f"{name} is {stored[name]} there, not {value}"
            for name, value in flat(settings).items()
            if stored[name] != value and name not in free
        ]
        if changed:
            raise InputError(
                f"the run in {self.path} has other settings: {'; '.join(changed)}; leave these "
                "out to resume it, or start another run with another --out"
            )
        kept = json.loads((self.path / _SETTINGS).read_text())
        if kept.get("version") != snrgate.__version__:
            raise InputError(
                f"the run in {self.path} was made by snrgate {kept.get('version')}, this is "
                f"{snrgate.__version__}; resume it with that one, or start another run with "
                "another --out"
            )
        if kept.get("fingerprint") != fingerprint:
            raise InputError(
                f"the data has changed since the run in {self.path} began, or the config of its "
                "optimizers; start another run with another --out"
            )
        if (now := flat(settings)) != kept["settings"]:
            self.write_json(_SETTINGS, kept | {"settings": now})

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to the metrics, each as a line of JSON."""
        with (self.path / _METRICS).open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def rows(self) -> list[dict[str, Any]]:
        """The metrics so far. A last line that was cut off does not count.

        Raises:
            InputError: the file holds something else.
        """
        path = self.path / _METRICS
        try:
            rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
            if not all(isinstance(row, dict) and "step" in row for row in rows):
                raise ValueError("a line is no measurement of a step")
            return rows
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise InputError(f"{path} is damaged; start another run with another --out") from error

    def truncate(self, step: int) -> None:
        """Drop the metrics after a step, because a resumed run will write them again.

        Raises:
            InputError: the metrics do not reach the step.
        """
        kept = [row for row in self.rows() if row["step"] <= step]
        if step > 0 and (not kept or kept[-1]["step"] != step):
            raise InputError(
                f"{self.path / _METRICS} does not reach step {step}, where the checkpoint is; "
                "start another run with another --out"
            )
        self.write(_METRICS, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write(self, name: str, content: bytes) -> None:
        """Write a file, replacing the old one only when the new one is complete."""
        partial = self.path / f".{name}.partial"
        try:
            partial.write_bytes(content)
            partial.replace(self.path / name)
        finally:
            partial.unlink(missing_ok=True)

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a mapping as JSON."""
        self.write(name, (json.dumps(values, indent=2) + "\n").encode())

    def write_png(self, name: str, image: Image.Image) -> None:
        """Write a picture as PNG."""
        buffer = io.BytesIO()
        image.save(buffer, "png")
        self.write(name, buffer.getvalue())
