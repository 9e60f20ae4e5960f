"""The error that is the user's to mend, and is shown to them as one line."""

__all__ = ["InputError"]


class InputError(Exception):
    """Something that was given cannot be used; the message says what, and what to do.

    It is not a ``ValueError``, so that a mistake in this package never passes for one of the
    user's.
    """
