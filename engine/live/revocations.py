"""Revoked API keys, from the log of the system project, which every gateway follows for ever.

Guarantees: within a second of the commit that revokes a key, and within two while Redis is away, `revoked` says so and
all who watch the key are called, once. Nothing is missed: what was revoked before `start` is for the look-up of the
key in the database to say, and from there on the log is dense. Leaves to others: closing what the key has open.
Stops when `stop` is called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from db.database import Database
from db.events import read_event_page
from db.records import SYSTEM_PROJECT, EventRecord
from engine.backoff import Backoff
from engine.lanes import EVENTS
from engine.live.hub import Hub, Watch

REVOKED = "api_key.revoked"
PAGE_ITEMS = 500

_logger = logging.getLogger(__name__)


class _Properties(msgspec.Struct, frozen=True, rename="camel"):
    api_key_id: UUID


_decoder = msgspec.json.Decoder(_Properties)


class Revocations:
    """What is known of revoked keys. Belongs to one event loop."""

    def __init__(self, hub: Hub, database: Database) -> None:
        self._hub = hub
        self._database = database
        self._watch: Watch | None = None
        self._revoked: set[UUID] = set()
        self._watchers: dict[UUID, dict[object, Callable[[], None]]] = {}
        self._callbacks: list[Callable[[UUID], None]] = []
        self._rereading: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Follow the log from its head. Await it before the first key is looked up.

        Waits as long as PostgreSQL is away.
        """
        self._watch = await self._hub.watch(SYSTEM_PROJECT, EVENTS)
        self._watch.feed.followers.append(self)

    def stop(self) -> None:
        """Follow no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.feed.followers.remove(self)
            watch.release()
        for task in self._rereading:
            task.cancel()

    def revoked(self, api_key_id: UUID) -> bool:
        """Whether the key was revoked since `start`."""
        return api_key_id in self._revoked

    def watch(self, api_key_id: UUID, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when the key is revoked; at once if it was. Returns the function that forgets it."""
        if api_key_id in self._revoked:
            callback()
            return lambda: None
        token = object()
        self._watchers.setdefault(api_key_id, {})[token] = callback

        def forget() -> None:
            watchers = self._watchers.get(api_key_id, {})
            if watchers.pop(token, None) is not None and not watchers:
                del self._watchers[api_key_id]

        return forget

    def on_revoked_any(self, callback: Callable[[UUID], None]) -> Callable[[], None]:
        """Call `callback(api_key_id)` for every key that is revoked. Returns the function that forgets it."""
        self._callbacks.append(callback)

        def forget() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return forget

    def advance(self, records: Sequence[EventRecord], reached: int) -> None:  # noqa: ARG002
        """See `feed.Follower`."""
        for event in records:
            if event.event_type == REVOKED:
                self._revoke(event)

    def expire(self) -> None:
        """See `feed.Follower`. After a restore the log is short: read all of it, keys may be revoked anew."""
        task = asyncio.create_task(self._read_all(), name="revocations-again")
        self._rereading.add(task)
        task.add_done_callback(self._rereading.discard)

    def _revoke(self, event: EventRecord) -> None:
        try:
            api_key_id = _decoder.decode(event.properties).api_key_id
        except msgspec.DecodeError:
            _logger.error("revocations.unreadable", extra={"seq": event.seq})
            return
        if api_key_id in self._revoked:
            return
        self._revoked.add(api_key_id)
        for told in (*self._callbacks, *(_ignoring_id(each) for each in self._watchers.pop(api_key_id, {}).values())):
            try:
                told(api_key_id)
            except Exception:
                _logger.exception("revocations.callback_failed")

    async def _read_all(self) -> None:
        backoff, after, head = Backoff(first=0.1, cap=1.0), 0, 1
        while after < head:
            try:
                async with self._database.connection() as connection:
                    page = await read_event_page(connection, project_id=SYSTEM_PROJECT, after=after, limit=PAGE_ITEMS)
            except Exception as error:
                _logger.warning("revocations.unreadable_log", extra={"reason": type(error).__name__})
                await backoff.wait()
            else:
                self.advance(page.events, page.reached)
                after, head = page.reached, page.head.head


def _ignoring_id(callback: Callable[[], None]) -> Callable[[UUID], None]:
    return lambda _api_key_id: callback()
