"""Several processes on one machine, to try a program that is made for many hosts.

    python -m snrgate.lab.launch -n 2 -- python train.py

The program calls :func:`join` before it does anything else with JAX. On a cluster that JAX knows
it calls ``jax.distributed.initialize()`` instead. Each printed line begins with the number of its
process. When one process fails, the others are ended.
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

    After this, an exception that nobody catches ends the process at once, as :func:`leave` does.

    Returns:
        Whether this process was launched with others. If it was not, nothing is done.

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
    """End this process without waiting for its peers, as a process that has failed must.

    By default JAX makes a process that ends wait some minutes for the others to end too. They
    would wait for this process in turn.

    Args:
        status: the exit status.
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

    They find each other by :func:`join`. Each leads a new process group, so that the processes
    that it starts end with it.

    Args:
        command: the program and its arguments.
        count: the number of processes.

    Returns:
        0 if all end well. Otherwise the exit status of the first process that does not, or 128
        plus the number of the signal that ended it. The others are ended within about 5 seconds.

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
            # Start the processes, each with a thread that prints its lines.
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
        printer.join(timeout=1)  # for the lines that are left in a pipe
    return status


def _watch(processes: list[subprocess.Popen[str]]) -> int:
    """Wait until all processes have ended well, or one has failed."""
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
    """Ask every process group to end, and kill the groups that have not ended after a while."""
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
            # Each line is one write, so that the lines of two processes do not mix.
            print(f"[{rank}] {line.rstrip()}\n", end="", flush=True)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Raise an exception at SIGTERM, in the main thread, where signals may be handled."""
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
        args: the command line; by default that of the process.

    Returns:
        The exit status of :func:`launch`.
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
