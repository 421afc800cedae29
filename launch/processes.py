"""Child processes that cannot outlive the process that started them.

Guarantees: when the parent is gone, however it went, its children get a signal. On Linux the kernel sends it
(PR_SET_PDEATHSIG, which follows the *thread*: call `launch` from the main one); elsewhere a watchdog process does,
which notices that a pipe has closed. Each child leads a session of its own, so that a Ctrl-C in the terminal reaches
only the parent, and the parent decides who stops first. Leaves to others: restarting what dies (`supervisor.py`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

GO = b"g"
"""What a supervised child reads from its standard input once it may begin."""

_PR_SET_PDEATHSIG = 1

_WATCHDOG = """\
import os, select, sys
pid, number = int(sys.argv[1]), int(sys.argv[2])
try:
    while not select.select([0], [], [], 1)[0]:
        os.kill(pid, 0)
    os.kill(pid, number)
except ProcessLookupError:
    pass
"""
"""Ends when its standard input does, having sent the signal, or within a second of the other process."""


class Child(subprocess.Popen[bytes]):
    """A child process, with its watchdog where the kernel does not do that work."""

    watchdog: subprocess.Popen[bytes] | None = None


def launch(
    command: Sequence[str | Path],
    *,
    orphan_signal: signal.Signals,
    output: int | IO[bytes],
    stdin: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    inherited: Sequence[int] = (),
    before: Callable[[], None] | None = None,
    user: int | None = None,
) -> Child:
    """Start a child that gets `orphan_signal` when this process ends. `output` takes both of its output streams.

    `before` runs in the child before anything else; `user` is a numeric id to become (with the group of that number).
    """
    child = Child(
        [str(part) for part in command],
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=inherited,
        start_new_session=True,
        preexec_fn=_prepare_child(orphan_signal, before, user),
    )
    if sys.platform != "linux":
        child.watchdog = watch(child, orphan_signal)
    return child


def watch(child: subprocess.Popen[bytes], orphan_signal: signal.Signals) -> subprocess.Popen[bytes]:
    """Send `orphan_signal` to `child` when this process ends: for systems whose kernel does not.

    The watchdog waits for the end of its standard input, whose other end only this process holds.
    """
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _WATCHDOG, str(child.pid), str(int(orphan_signal))],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], signal_number: signal.Signals, timeout: float) -> None:
    """Ask with a signal, wait `timeout` seconds, then kill."""
    if process.poll() is None:
        process.send_signal(signal_number)
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_go() -> bool:
    """In a supervised child: wait for the parent's `GO`, then leave this process at once when the parent has gone.

    False when the parent went before it said so. The imports of a child are done before, while its services start.
    """
    if os.read(0, 1) != GO:
        return False
    threading.Thread(target=_leave_with_parent, name="parent watch", daemon=True).start()
    return True


def _leave_with_parent() -> None:
    while os.read(0, 1):
        continue
    os._exit(1)


def _prepare_child(
    orphan_signal: signal.Signals, before: Callable[[], None] | None, user: int | None
) -> Callable[[], None]:
    parent = os.getpid()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if before is not None:
            before()
        if user is not None:  # before prctl: becoming somebody else clears the signal
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(orphan_signal))
            if os.getppid() != parent:
                os._exit(1)

    return prepare
