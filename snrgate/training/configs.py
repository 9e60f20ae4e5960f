"""Configs: settings with a name, each a Python file that ends in ``CONFIG = ...``."""

import importlib.util
from pathlib import Path
from typing import Any, TypeVar

from snrgate.errors import InputError

__all__ = ["config_names", "load_config", "task_names"]

Settings = TypeVar("Settings")

_PACKAGE = Path(__file__).parents[1]


def _folder(task: str) -> Path:
    """Inside the package where it is installed, beside it in a clone of the repository."""
    inside = _PACKAGE / "configs"
    return (inside if inside.is_dir() else _PACKAGE.parent / "configs") / task


def config_names(task: str) -> list[str]:
    """The names of a task's configs.

    Example:
        >>> from snrgate.training.configs import config_names
        >>> "default" in config_names("denoise")
        True
    """
    return sorted(path.stem for path in _folder(task).glob("*.py"))


def task_names(kind: type[Settings]) -> list[str]:
    """The tasks that have configs of one kind.

    Args:
        kind: what their ``CONFIG`` is.

    Example:
        >>> from snrgate.training.configs import task_names
        >>> from snrgate.training.train import Training
        >>> "digits" in task_names(Training)
        True
    """
    folders = sorted(path for path in _folder("").iterdir() if path.is_dir())
    firsts = {folder.name: min(folder.glob("*.py"), default=None) for folder in folders}
    return [n for n, path in firsts.items() if path and isinstance(_config_of(path), kind)]


def load_config(task: str, config: str, kind: type[Settings]) -> Settings:
    """Run a config file and return its ``CONFIG``.

    Only files of this package run by name; any other has to be given as a path that ends in
    ``.py``.

    Args:
        task: folder of the configs.
        config: a name, or a path.
        kind: what ``CONFIG`` must be.

    Raises:
        InputError: there is no such task or config, or it does not hold what it should.
    """
    names = config_names(task)
    if config in names:
        path = _folder(task) / f"{config}.py"
    elif config.endswith(".py"):
        path = Path(config)
    elif names:
        raise InputError(
            f"there is no config {config}; give one of {', '.join(names)}, or a path ending in .py"
        )
    else:
        raise InputError(f"there is no task {task}; give one of {', '.join(task_names(kind))}")
    settings = _config_of(path)
    if not isinstance(settings, kind):
        raise InputError(f"config {config} must set CONFIG to a {kind.__name__}(...)")
    return settings


def _config_of(path: Path) -> Any:
    """What a config file sets ``CONFIG`` to, ``None`` where it does not."""
    spec = importlib.util.spec_from_file_location(f"snrgate_config_{path.stem}", path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    # The file is the user's program: whatever goes wrong in it is theirs to read.
    except Exception as error:
        message = f"config {path.stem} fails: {type(error).__name__}: {error}"
        raise InputError(message) from error
    return getattr(module, "CONFIG", None)
