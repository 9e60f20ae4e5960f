"""Several processes on one machine: try a program of many hosts where there is one.

    python -m snrgate.lab.launch -n 2 -- python train.py

The program calls :func:`join` before it does anything else with JAX; on a cluster that JAX knows
it calls ``jax.distributed.initialize()`` instead. Lines are printed with the number of the process
before them; when one process fails, the others are ended.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

import jax

__all__ = ["join", "launch", "leave", "main"]

_ADDRESS, _COUNT, _RANK = "SNRGATE_ADDRESS", "SNRGATE_PROCESSES", "SNRGATE_PROCESS"

_PATIENCE = 5.0  # seconds between asking a process to end and ending it
_TICK = 0.05


class _Told(Exception):
    """A signal told the launcher to stop."""


def join() -> bool:
    """Join the other processes of :func:`launch`.

    An exception that nobody catches then ends this process at once, as :func:`leave` does.

    Returns:
        Whether this process was launched with others; if not, nothing is done.

    Example:
        >>> from snrgate.lab.launch import join
        >>> join()
        False
    """
    if _ADDRESS not in os.environ:
        return False
    jax.distributed.initialize(
        os.environ[_ADDRESS],
        num_processes=int(os.environ[_COUNT]),
        process_id=int(os.environ[_RANK]),
    )
    sys.excepthook = _report_and_leave
    return True


def leave(status: int) -> NoReturn:
    """End this process without waiting for its peers, as one that has failed must.

    JAX has a process that ends wait for the others to end as well, for minutes; they are waiting
    for this one.

    Args:
        status: of the exit.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _report_and_leave(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> NoReturn:
    sys.__excepthook__(kind, error, trace)
    leave(1)


def launch(command: Sequence[str], count: int) -> int:
    """Run ``count`` processes of one command as peers, on CPU.

    They find each other by :func:`join`. Each is the leader of a process group of its own, so that
    what it starts ends with it.

    Args:
        command: the program and its arguments.
        count: how many processes.

    Returns:
        0 if all end well; otherwise the exit status of the first that does not, 128 plus the
        number of the signal that ended it. The others are ended, within about 5 seconds.

    Example:
        >>> import sys
        >>> from snrgate.lab.launch import launch
        >>> launch([sys.executable, "-c", "print('here')"], 1)
        [0] here
        0
    """
    peers = {
        _ADDRESS: f"127.0.0.1:{_free_port()}",
        _COUNT: str(count),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_PLATFORMS": "cpu",
    }
    processes: list[subprocess.Popen[str]] = []
    printers: list[threading.Thread] = []
    try:
        with _interrupted_by_sigterm():
            for rank in range(count):
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **peers, _RANK: str(rank)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
                processes.append(process)
                printers.append(
                    threading.Thread(target=_print_lines, args=(rank, process), daemon=True)
                )
                printers[-1].start()
            status = _watch(processes)
    except (_Told, KeyboardInterrupt) as told:
        status = 128 + (signal.SIGTERM if isinstance(told, _Told) else signal.SIGINT)
        print("launch: told to stop; ending all processes", file=sys.stderr)
    finally:
        _end(processes)
    for printer in printers:
        printer.join(timeout=1)  # what is left in a pipe
    return status


def _watch(processes: list[subprocess.Popen[str]]) -> int:
    """Wait until all have ended well or one has not."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            rank, code = failed[0], codes[failed[0]] or 0
            how = (
                f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            )
            print(f"launch: process {rank} {how}; ending the others", file=sys.stderr)
            return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_TICK)


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """Ask every process group to end, and make what is still there after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, number)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until and any(p.poll() is None for p in processes):
            time.sleep(_TICK)


def _print_lines(rank: int, process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            # One write a line, or those of two processes run into each other.
            print(f"[{rank}] {line.rstrip()}\n", end="", flush=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM as an exception, where signals may be handled (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Told

    usual = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def main(args: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        args: default those of the process.

    Returns:
        The exit status, as :func:`launch`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m snrgate.lab.launch",
        description="Run several processes of one program on this machine's CPU, as peers.",
        usage="%(prog)s -n COUNT -- COMMAND ...",
    )
    parser.add_argument("-n", type=int, default=2, help="how many processes (default 2)")
    parser.add_argument("command", nargs="+", help="the program and its arguments")
    given = parser.parse_args(args)
    if given.n < 1:
        parser.error(f"-n {given.n} must be at least 1")
    try:
        return launch(given.command, given.n)
    except OSError as error:
        parser.error(f"cannot start {given.command[0]}: {error.strerror}")


if __name__ == "__main__":
    sys.exit(main())
