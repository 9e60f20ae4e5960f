"""The error that the user can mend, and that is shown to them as one line."""

__all__ = ["InputError", "StorageError"]


class InputError(Exception):
    """An argument, a setting or a file cannot be used. The message says which, and what to do.

    It is not a ``ValueError``, so that a mistake in this package never passes for one of the
    user's.
    """


class StorageError(InputError):
    """The storage of a run failed on the way; its threads may still write lines of their own."""
