"""When a viewer's credentials end: the key revoked, the session ended, the member removed, or a token expired.

Guarantees: whoever watches is told once, with the reason, and not at all after `forget`. Leaves to others: closing what
is open under the credentials, and what `Revocations` guarantees of how soon. Stops with `forget`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from engine.identity import MEMBER_TOKEN_EXPIRED, Viewer
from engine.live.revocations import Revocations

SESSION_EXPIRED: Final = (
    "This access token has expired: refresh the session, and come back with your cursor and the new one."
)


class Ending:
    """The end of one viewer's credentials, for one who watches."""

    def __init__(self, callback: Callable[[str], None]) -> None:
        self._callback: Callable[[str], None] | None = callback
        self._watched: list[Callable[[], None]] = []

    def watch(self, revocations: Revocations, viewer: Viewer, *, now: datetime) -> None:
        """From now on; calls back at once where the credentials have ended. `now` is what tokens expire by."""
        if viewer.expires_at is not None:
            delay = (viewer.expires_at - now).total_seconds()
            reason = SESSION_EXPIRED if viewer.session is not None else MEMBER_TOKEN_EXPIRED
            timer = asyncio.get_running_loop().call_later(max(delay, 0), self._end, reason)
            self._watched.append(timer.cancel)
        for credential_id, told in viewer.credentials:
            self._watch_one(revocations, credential_id, told)

    def forget(self) -> None:
        """Watch no more. Safe to call more than once."""
        self._callback = None
        watched, self._watched = self._watched, []
        for stop in watched:
            stop()

    def _watch_one(self, revocations: Revocations, credential_id: UUID, told: str) -> None:
        if self._callback is not None:
            stop = revocations.watch(credential_id, lambda: self._end(told))
            self._watched.append(stop)

    def _end(self, reason: str) -> None:
        callback = self._callback
        self.forget()
        if callback is not None:
            callback(reason)
