"""Configs: a commented file of settings for each task, and a user's file on top of it.

The files are TOML, so a config is never a program, whoever wrote it.
"""

import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.denoise import Denoise
from snrgate.lab.training.optimizers import OPTIMIZERS
from snrgate.lab.training.settings import replaced
from snrgate.lab.training.train import Training

__all__ = ["denoise_config", "optimizer_names", "task_names", "training_config"]

Settings = TypeVar("Settings")

_LABORATORY = Path(__file__).parents[1]
_PHOTO = "denoise"  # the config of the command, not of a task


def _folder() -> Path:
    """The folder of the configs: inside an installed package, beside it in a clone."""
    inside = _LABORATORY / "configs"
    return inside if inside.is_dir() else _LABORATORY.parents[1] / "configs"


def task_names() -> list[str]:
    """The tasks that have a config.

    Example:
        >>> from snrgate.lab.training.configs import task_names
        >>> "digits" in task_names()
        True
    """
    return sorted(path.stem for path in _folder().glob("*.toml") if path.stem != _PHOTO)


def optimizer_names(task: str) -> list[str]:
    """The optimizers of a task's config, the default one first.

    Args:
        task: the name of the config.

    Raises:
        InputError: there is no such task.

    Example:
        >>> from snrgate.lab.training.configs import optimizer_names
        >>> optimizer_names("digits")[:2]
        ['gated', 'adamw']
    """
    return list(_values(task)["optimizers"])


def training_config(task: str, optimizer: str, own: Path | None = None) -> Training:
    """The settings of one optimizer on one task.

    Args:
        task: the name of the config.
        optimizer: the name of one of its optimizers.
        own: a TOML file of settings on top of the config, a changed copy of it or of a part.

    Raises:
        InputError: there is no such task, optimizer or setting, or a setting has a value that
            cannot be used.
    """
    values = _values(task)
    try:
        if own is not None:
            values = _merged(values, _read(own))
            # Check the section of every optimizer, so that no mistake is passed over.
            for name in _sections(values):
                _training(task, name, values)
        if optimizer not in (names := _sections(values)):
            known = ", ".join(names)
            raise InputError(f"there is no optimizer {optimizer} for {task}; give one of {known}")
        return _training(task, optimizer, values)
    except ValueError as error:
        raise InputError(f"config {own or task}: {error}") from error


def denoise_config(own: Path | None = None) -> Denoise:
    """The settings of ``snrgate denoise``.

    Args:
        own: a TOML file of settings on top of them.

    Raises:
        InputError: there is no such setting, or one has a value that cannot be used.
    """
    values = _read(_folder() / f"{_PHOTO}.toml") | ({} if own is None else _read(own))
    try:
        return replaced(Denoise(), _flat(values))
    except ValueError as error:
        raise InputError(f"config {own or _PHOTO}: {error}") from error


def _values(task: str) -> dict[str, Any]:
    # Only a known name is read, so that .. cannot lead to another file.
    if task not in task_names():
        raise InputError(f"there is no task {task}; give one of {', '.join(task_names())}")
    return _read(_folder() / f"{task}.toml")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"config {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"config {path} is not TOML: {error}") from error


def _merged(values: Any, own: Any) -> Any:
    """Settings replaced one by one, table by table."""
    if not isinstance(values, dict) or not isinstance(own, dict):
        return own
    return values | {name: _merged(values.get(name), value) for name, value in own.items()}


def _sections(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each optimizer by its name."""
    sections = values["optimizers"]
    if not isinstance(sections, dict) or not all(isinstance(x, dict) for x in sections.values()):
        raise ValueError("optimizers must hold a table of settings for each optimizer")
    return sections


def _training(task: str, optimizer: str, values: Mapping[str, Any]) -> Training:
    """The settings of a task with one of its optimizers.

    The class of the settings of a task has the same name as its module in ``tasks``.
    """
    if "optimizer" in values:
        raise ValueError("there is no setting optimizer; name its settings optimizers.NAME.SETTING")
    section = dict(_sections(values)[optimizer])
    kind = section.pop("kind", optimizer)
    if kind not in OPTIMIZERS:
        raise ValueError(
            f"optimizers.{optimizer}.kind = {kind!r} must be one of {', '.join(OPTIMIZERS)}"
        )
    settings = getattr(importlib.import_module(f"snrgate.lab.tasks.{task}"), task.capitalize())
    plain = Training(settings(), OPTIMIZERS[kind](), steps=1, batch_size=2)
    shared = {name: value for name, value in values.items() if name != "optimizers"}
    return replaced(plain, _flat(shared | {"optimizer": section}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings in nested tables, by their names on the command line."""
    named = {}
    for name, value in values.items():
        if isinstance(value, dict):
            named |= _flat(value, f"{prefix}{name}.")
        else:
            named[f"{prefix}{name}"] = value
    return named
