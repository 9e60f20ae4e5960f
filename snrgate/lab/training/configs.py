"""Configs: settings with a name, each a Python file of this package; and one's own, as JSON."""

import importlib.util
import json
from pathlib import Path
from typing import Any, TypeVar

from snrgate.lab.errors import InputError
from snrgate.lab.training.settings import replaced

__all__ = ["config_names", "load_config", "task_names"]

Settings = TypeVar("Settings")

_LABORATORY = Path(__file__).parents[1]


def _folder(task: str) -> Path:
    """Inside the package where it is installed, beside it in a clone of the repository."""
    inside = _LABORATORY / "configs"
    return (inside if inside.is_dir() else _LABORATORY.parents[1] / "configs") / task


def config_names(task: str) -> list[str]:
    """The names of a task's configs.

    Example:
        >>> from snrgate.lab.training.configs import config_names
        >>> "default" in config_names("denoise")
        True
    """
    # A folder of the package, never one that .. leads to: its files are run.
    return sorted(path.stem for path in _folder("").glob("*/*.py") if path.parent.name == task)


def task_names(kind: type[Settings]) -> list[str]:
    """The tasks that have configs of one kind.

    Args:
        kind: what their ``CONFIG`` is.

    Example:
        >>> from snrgate.lab.training.configs import task_names
        >>> from snrgate.lab.training.train import Training
        >>> "digits" in task_names(Training)
        True
    """
    folders = sorted(path for path in _folder("").iterdir() if path.is_dir())
    firsts = {folder.name: min(folder.glob("*.py"), default=None) for folder in folders}
    return [n for n, path in firsts.items() if path and isinstance(_config_of(path), kind)]


def load_config(task: str, config: str, kind: type[Settings]) -> Settings:
    """A config of this package by its name, or a JSON file on top of one.

    Such a file holds an object: the name of a config at ``"config"`` and settings by the names
    that they have on the command line, as in
    ``{"config": "gated", "optimizer.learning_rate": 0.01}``. It runs no code.

    Args:
        task: folder of the configs.
        config: a name, or a path ending in ``.json``.
        kind: what the settings must be.

    Raises:
        InputError: there is no such task, config or setting, or it does not hold what it should.
    """
    if config.endswith(".json"):
        return _of_json(task, Path(config), kind)
    names = config_names(task)
    if config in names:
        settings = _config_of(_folder(task) / f"{config}.py")
        if isinstance(settings, kind):
            return settings
    elif names:
        raise InputError(
            f"there is no config {config}; give one of {', '.join(names)}, or a path ending in "
            ".json"
        )
    raise InputError(f"there is no task {task}; give one of {', '.join(task_names(kind))}")


def _of_json(task: str, path: Path, kind: type[Settings]) -> Settings:
    """The settings of a file that may come from anywhere."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"config {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"config {path} is not JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(name := values.pop("config", None), str):
        known = ", ".join(config_names(task))
        raise InputError(f'config {path} must hold an object with "config": one of {known}')
    if name.endswith(".json"):
        raise InputError(f"config {path} is on top of {name}; name a config of snrgate there")
    try:
        return replaced(load_config(task, name, kind), values)
    except ValueError as error:
        raise InputError(f"config {path}: {error}") from error


def _config_of(path: Path) -> Any:
    """What a config file of this package sets ``CONFIG`` to."""
    spec = importlib.util.spec_from_file_location(f"snrgate_config_{path.stem}", path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CONFIG
