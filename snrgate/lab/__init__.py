"""The laboratory: all that the ``snrgate`` command needs, and the library does not."""
