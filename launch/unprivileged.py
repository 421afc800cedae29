"""Who PostgreSQL runs as: it refuses to be root, and `make run` is often root (in containers, on small servers)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from launch import processes

NOBODY = 65534
_CLONE_NEWUSER = 0x10000000


class NoUnprivilegedUserError(Exception):
    """A sentence for the operator: nobody else than root can run the server here."""


class RunAs:
    """A user to become, or something to do before, between fork and exec."""

    def __init__(self, *, before: Callable[[], None] | None = None, user: int | None = None) -> None:
        self.before = before
        self.user = user

    def own(self, *directories: Path) -> None:
        """Hand over what the server must own."""
        if self.user is None:
            return
        for directory in directories:
            os.chown(directory, self.user, self.user)
            for path in directory.rglob("*"):
                os.chown(path, self.user, self.user, follow_symlinks=False)


def choose_user(server: Path) -> RunAs:
    """As an ordinary user: as it is. As root: in a user namespace, which needs no other user, no chown and no open
    parent folder; where a container forbids that, as `nobody`.
    """
    if os.geteuid() != 0:
        return RunAs()
    for candidate in (RunAs(before=_user_namespace_entry()), RunAs(user=NOBODY)):
        try:
            trial = processes.launch(
                [server, "--version"],
                orphan_signal=signal.SIGKILL,
                output=subprocess.DEVNULL,
                before=candidate.before,
                user=candidate.user,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        if trial.wait() == 0:
            return candidate
    raise NoUnprivilegedUserError(
        "PostgreSQL refuses to run as root, and no other user can reach this folder: "
        "run this as an ordinary user, or set DATABASE_URL to a PostgreSQL server."
    )


def _user_namespace_entry() -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)

    def enter() -> None:
        if libc.unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no user namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text("1000 0 1")
        Path("/proc/self/gid_map").write_text("1000 0 1")

    return enter
