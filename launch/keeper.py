"""One child process kept running: launched again when it ends, with growing pauses while it keeps ending.

Guarantees: no hot loop, one sentence instead of one per attempt, and every line the child writes reaches the terminal
behind its name. Runs in an event loop on the main thread (`processes.launch` needs that). Leaves to others: what is
launched, and ending it (`supervisor.py`): a keeper that is cancelled leaves its child alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

STEADY_SECONDS = 10.0
"""A child that lived this long did start: its end is an accident, and the next one starts at once."""
UP_SECONDS = 5.0
"""Long enough for its end to be news; one that ends before is failing to start, which is told once."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
FAILURES_BEFORE_COMPLAINT = 3
"""Before it a service may be waiting for the backends of a killed one; after it somebody has to look."""


Launch = Callable[[], subprocess.Popen[bytes]]


def pause_before_restart(failures: int) -> float:
    """Seconds to wait before the next start, when the last `failures` starts in a row did not last."""
    if failures == 0:
        return 0.0
    doublings = min(failures - 1, 20)  # more would only overflow
    return min(FIRST_PAUSE_SECONDS * 2.0**doublings, LONGEST_PAUSE_SECONDS)


def describe_exit(return_code: int) -> str:
    """How a process ended, in words."""
    if return_code >= 0:
        return f"exit code {return_code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-return_code).name}"
    return f"killed by signal {-return_code}"


class Exits:
    """Wakes whoever waits for a child whenever the kernel says that one has ended."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """To be called on SIGCHLD."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, process: subprocess.Popen[bytes], seconds: float | None = None) -> bool:
        """Until the process has ended; False when `seconds` passed first."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while process.poll() is None:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if left <= 0:
                return False
            # not wait_for: in Python 3.11 it loses a cancellation that comes together with the result
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        return True


class Printer:
    """Lines of children on this process's standard error, each behind the child's name. Never raises: the terminal may
    have gone.
    """

    def line(self, name: str, text: str) -> None:
        """One line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{name} | {text}\n")
            sys.stderr.flush()


class Output:
    """Copies what one process writes to the printer, line by line, until it has closed its end."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], printer: Printer) -> None:
        if process.stdout is None:
            raise RuntimeError("launched without a pipe")
        self._name = name
        self._pipe = process.stdout
        self._printer = printer
        self._rest = b""
        os.set_blocking(self._pipe.fileno(), False)
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), 65_536)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [self._rest], b""
        for line in lines:
            self._printer.line(self._name, line.decode(errors="replace").rstrip())
        if not data:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._pipe.close()


class Keeper:
    """Keeps one child running: launches it, waits for its end, launches it again."""

    def __init__(self, name: str, launch: Launch, exits: Exits, printer: Printer) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self._launch = launch
        self._exits = exits
        self._printer = printer
        self._failures = 0

    async def keep(self) -> None:
        """Until cancelled. The child lives on then: whoever cancels ends it."""
        while True:
            started = time.monotonic()
            self.process = self._launch()
            await self._exits.wait(self.process)
            self._note_exit(self.process.returncode, time.monotonic() - started)
            await asyncio.sleep(pause_before_restart(self._failures))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, where there is somebody to get it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    async def ended(self, seconds: float) -> bool:
        """Wait for the end of the current process."""
        return self.process is None or await self._exits.wait(self.process, seconds)

    def _note_exit(self, return_code: int, lived: float) -> None:
        how = describe_exit(return_code)
        self._failures = 0 if lived >= STEADY_SECONDS else self._failures + 1
        if lived >= UP_SECONDS:
            self._printer.line(self.name, f"stopped ({how}); starting it again.")
        elif self._failures == FAILURES_BEFORE_COMPLAINT:
            self._printer.line(
                self.name, f"keeps stopping right after its start ({how}); trying on, with pauses of up to 10 s."
            )
