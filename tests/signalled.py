"""A command in a process of its own, to which a signal comes."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, whatever was inherited
from snrgate.lab.cli import main
sys.exit(main())
"""


def signalled(
    args: Sequence[str], number: signal.Signals, when: Callable[[], bool]
) -> subprocess.CompletedProcess[str]:
    """Run ``snrgate`` and send it a signal as soon as ``when()`` is true.

    Args:
        args: the command line after ``snrgate``.
        number: of the signal.
        when: whether the moment has come.

    Returns:
        The exit status and what was said.
    """
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not when() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)
