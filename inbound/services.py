"""What the routes need of the process that serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from db.database import Database
from engine.announcements import Announcement
from engine.clock import Clock
from engine.log import EventLog
from engine.vault import Vault


class InboundServices(Protocol):
    """A part of the process's services, which are made once. `announce` never blocks."""

    @property
    def database(self) -> Database: ...

    @property
    def log(self) -> EventLog: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def vault(self) -> Vault: ...

    @property
    def announce(self) -> Callable[[Announcement], None]: ...

    @property
    def public_url(self) -> str: ...
