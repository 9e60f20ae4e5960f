"""Packages of the extra ``preferences``, imported where they are used."""

import importlib
from types import ModuleType

__all__ = ["require"]


def require(name: str) -> ModuleType:
    """Import a package of the extra ``preferences``.

    Args:
        name: the name of the module.

    Raises:
        ImportError: the package is not installed. The message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The package {error.name} is missing. Language models are read and written with the "
            "extra: pip install 'snrgate[preferences]'."
        ) from error
