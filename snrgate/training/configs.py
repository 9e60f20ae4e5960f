"""Configs: settings with a name, each a Python file that ends in ``CONFIG = ...``."""

import importlib.util
from pathlib import Path
from typing import TypeVar

from snrgate.errors import InputError

__all__ = ["config_names", "load_config"]

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


def load_config(task: str, config: str, kind: type[Settings]) -> Settings:
    """Run a config file and return its ``CONFIG``.

    Only files of this package run by name; any other has to be given as a path that ends in
    ``.py``.

    Args:
        task: folder of the configs.
        config: a name, or a path.
        kind: what ``CONFIG`` must be.

    Raises:
        InputError: there is no such config, or it does not hold what it should.
    """
    names = config_names(task)
    if config in names:
        path = _folder(task) / f"{config}.py"
    elif config.endswith(".py"):
        path = Path(config)
    else:
        raise InputError(
            f"there is no config {config}; give one of {', '.join(names)}, or a path ending in .py"
        )
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
        raise InputError(f"config {config} fails: {type(error).__name__}: {error}") from error
    settings = getattr(module, "CONFIG", None)
    if not isinstance(settings, kind):
        raise InputError(f"config {config} must set CONFIG to a {kind.__name__}(...)")
    return settings
