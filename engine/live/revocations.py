"""Credentials that were revoked or have ended, from the log of the system project, which every gateway follows.

Guarantees: within a second of the commit that revokes a key, ends a session or removes a member, and within two while
Redis is away, `revoked` says so and all who watch the credential are called, once. Nothing is missed: what was revoked
before `start` is for the look-up in the database to say, and from there on the log is dense. Nobody looks up sessions:
those that ended within `SESSION_MEMORY` before `start` are read then, and each is remembered for so long, since no
access token outlives it.
Leaves to others: closing what the credential has open, and access tokens that expire. Stops when `stop` is called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from db.database import Database
from db.events import read_event_page
from db.records import SYSTEM_PROJECT, EventPage, EventRecord
from engine.accounts.signing_keys import ACCESS_TOKEN_LIFETIME
from engine.backoff import Backoff
from engine.lanes import EVENTS
from engine.live.hub import Hub, Watch
from engine.revoking import PROPERTY, Revocation

PROPERTIES: Final = {what.value: named for what, named in PROPERTY.items()}
"""By type of event, which property names the credential."""
SESSION_ENDED: Final = Revocation.SESSION_ENDED.value
SESSION_MEMORY = ACCESS_TOKEN_LIFETIME + timedelta(minutes=1)
"""As long as an access token lives, with room for clocks that differ."""
PAGE_ITEMS = 500

_logger = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_id_decoder = msgspec.json.Decoder(UUID)


class Revocations:
    """What is known of revoked credentials. Belongs to one event loop."""

    def __init__(self, hub: Hub, database: Database, *, clock: Callable[[], float] = monotonic) -> None:
        self._hub = hub
        self._database = database
        self._clock = clock
        self._watch: Watch | None = None
        self._revoked: set[UUID] = set()
        self._ended: dict[UUID, float] = {}
        self._watchers: dict[UUID, dict[object, Callable[[], None]]] = {}
        self._callbacks: list[Callable[[UUID], None]] = []
        self._rereading: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Follow the log from its head. Await it before the first credential is looked up.

        Waits as long as PostgreSQL is away.
        """
        self._watch = await self._hub.watch(SYSTEM_PROJECT, EVENTS)
        feed = self._watch.feed
        feed.followers.append(self)
        await self._read_ended_sessions(feed.last)

    def stop(self) -> None:
        """Follow no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.feed.followers.remove(self)
            watch.release()
        for task in self._rereading:
            task.cancel()

    def revoked(self, credential_id: UUID) -> bool:
        """Whether the credential was revoked, or the session has ended, as far as the log was followed."""
        return credential_id in self._revoked or credential_id in self._ended

    @property
    def remembered_sessions(self) -> int:
        """How many ended sessions are kept in memory."""
        return len(self._ended)

    def watch(self, credential_id: UUID, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when the credential is revoked; at once if it was. Returns what forgets it."""
        if self.revoked(credential_id):
            callback()
            return lambda: None
        token = object()
        self._watchers.setdefault(credential_id, {})[token] = callback

        def forget() -> None:
            watchers = self._watchers.get(credential_id, {})
            if watchers.pop(token, None) is not None and not watchers:
                del self._watchers[credential_id]

        return forget

    def on_revoked_any(self, callback: Callable[[UUID], None]) -> Callable[[], None]:
        """Call `callback(credential_id)` for all that is revoked but sessions, which nobody caches. Returns the
        function that forgets it."""
        self._callbacks.append(callback)

        def forget() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return forget

    def advance(self, records: Sequence[EventRecord], reached: int) -> None:  # noqa: ARG002
        """See `feed.Follower`."""
        for event in records:
            if event.event_type in PROPERTIES:
                self._revoke(event)

    def expire(self) -> None:
        """See `feed.Follower`. After a restore the log is short: read all of it, keys may be revoked anew."""
        task = asyncio.create_task(self._read_all(), name="revocations-again")
        self._rereading.add(task)
        task.add_done_callback(self._rereading.discard)

    def _revoke(self, event: EventRecord) -> None:
        try:
            credential_id = _id_decoder.decode(_decoder.decode(event.properties)[PROPERTIES[event.event_type]])
        except (msgspec.DecodeError, KeyError):
            _logger.error("revocations.unreadable", extra={"seq": event.seq})
            return
        if event.event_type == SESSION_ENDED:
            self._end_session(credential_id, event.received_at)
        elif credential_id not in self._revoked:
            self._revoked.add(credential_id)
            self._tell(credential_id, self._callbacks)

    def _end_session(self, session_id: UUID, ended_at: datetime) -> None:
        now = self._clock()
        while self._ended and now - next(iter(self._ended.values())) > SESSION_MEMORY.total_seconds():
            del self._ended[next(iter(self._ended))]
        if session_id not in self._ended and datetime.now(UTC) - ended_at < SESSION_MEMORY:
            self._ended[session_id] = now
            self._tell(session_id, ())

    def _tell(self, credential_id: UUID, callbacks: Sequence[Callable[[UUID], None]]) -> None:
        watchers = self._watchers.pop(credential_id, {}).values()
        for told in (*callbacks, *(_ignoring_id(each) for each in watchers)):
            try:
                told(credential_id)
            except Exception:
                _logger.exception("revocations.callback_failed")

    async def _read_ended_sessions(self, head: int) -> None:
        """Backwards from the head, as far as sessions are remembered."""
        since, until = datetime.now(UTC) - SESSION_MEMORY, head
        while until > 0:
            page = await self._read_page(max(0, until - PAGE_ITEMS), until)
            for event in page.events:
                if event.event_type == SESSION_ENDED:
                    self._revoke(event)
            until -= PAGE_ITEMS
            if page.events and page.events[0].received_at < since:
                return

    async def _read_all(self) -> None:
        after, head = 0, 1
        while after < head:
            page = await self._read_page(after)
            self.advance(page.events, page.reached)
            after, head = page.reached, page.head.head

    async def _read_page(self, after: int, until: int | None = None) -> EventPage:
        """Tries until PostgreSQL answers."""
        backoff = Backoff(first=0.1, cap=1.0)
        while True:
            try:
                async with self._database.connection() as connection:
                    return await read_event_page(
                        connection, project_id=SYSTEM_PROJECT, after=after, until=until, limit=PAGE_ITEMS
                    )
            except Exception as error:
                _logger.warning("revocations.unreadable_log", extra={"reason": type(error).__name__})
                await backoff.wait()


def _ignoring_id(callback: Callable[[], None]) -> Callable[[UUID], None]:
    return lambda _credential_id: callback()
