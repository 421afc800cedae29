"""Accepting a send: one batch per idempotency key, whatever becomes of the connection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from db.database import Database
from db.delivery_records import NewDelivery
from db.send_batches import BatchCounts
from engine.announcements import Announcement
from engine.dispatch.sending import (
    MakeDeliveries,
    Sending,
    SendRefused,
    SentBatch,
    check_idempotency_key,
    hash_request,
)
from engine.errors import UserError
from engine.work import Work, WorkKind
from tests.integration.delivery_support import make_delivery, new_delivery, node_id
from tests.integration.graphql_support import open_gateway
from tests.integration.log_support import make_project, open_database
from tests.integration.postgres_proxy import open_proxy

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


class StandingClock:
    def now(self) -> datetime:
        return NOW


class Office:
    """Accepts sends, and keeps what it told."""

    def __init__(self, database: Database) -> None:
        self.announced: list[Announcement] = []
        self.woken: list[Work] = []
        self.made = 0
        self._sending = Sending(database, StandingClock(), self.announced.append, self.woken.append)

    async def send(
        self, project_id: UUID, *, key: str | None = None, request: object = "a", make: MakeDeliveries | None = None
    ) -> SentBatch:
        return await self._sending.send(
            project_id=project_id, kind="PUSH", idempotency_key=key, request=request, make=make or self._make
        )

    async def _make(self, _connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        self.made += 1
        return [
            new_delivery(now, batch_id=batch_id),
            new_delivery(now, batch_id=batch_id, status="SUPPRESSED", suppressed_reason="NO_TOKENS", finished_at=now),
        ]


async def test_what_would_store_the_same_text_a_thousand_times_is_refused(database_url: str) -> None:
    """Half a MiB, which one request can bring, to as many as one can name."""

    async def make(_connection: asyncpg.Connection, batch_id: UUID, now: datetime) -> Sequence[NewDelivery]:
        text = '{"body_html": "' + "x" * 512 * 1024 + '"}'
        return [new_delivery(now, batch_id=batch_id, content=text) for _ in range(1000)]

    async with open_database(database_url) as database:
        project_id = await make_project(database)
        office = Office(database)
        with pytest.raises(SendRefused) as refused:
            await office.send(project_id, key="large", make=make)
        assert [(error.code, error.path) for error in refused.value.errors] == [
            ("LIMIT_EXCEEDED", ("input", "userIds"))
        ]
        assert await _stored(database) == (0, 0, 0)
        assert (office.announced, office.woken) == ([], [])


async def _stored(database: Database) -> tuple[int, int, int]:
    """Batches, deliveries, transitions."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM send_batches) AS batches, (SELECT count(*) FROM deliveries) AS deliveries,"
            " (SELECT count(*) FROM delivery_transitions) AS transitions"
        )
    return row["batches"], row["deliveries"], row["transitions"]


def _is_commit(sent: bytes) -> bool:
    return b"COMMIT;" in sent


@pytest.mark.parametrize("key", [None, "order-1"])
async def test_a_commit_whose_answer_is_lost_is_one_send(database_url: str, tmp_path: Path, key: str | None) -> None:
    async with open_proxy(tmp_path, database_url) as proxy, open_database(proxy.url, max_size=3) as database:
        project_id = await make_project(database)
        office = Office(database)
        proxy.lose_answers_to(_is_commit, times=2)
        sent = await office.send(project_id, key=key)
        assert (proxy.lost, office.made) == (2, 1)
        assert await _stored(database) == (1, 2, 2)
        assert (sent.counts, len(sent.deliveries)) == (BatchCounts(queued=1, suppressed=1), 2)
        assert office.woken == [Work(WorkKind.DELIVERIES, project_id)]


async def test_what_is_refused_leaves_nothing_and_its_key_free(database_url: str) -> None:
    async with open_database(database_url) as database:
        project_id = await make_project(database)
        office = Office(database)

        async def refuse(_connection: asyncpg.Connection, _batch: UUID, _now: datetime) -> Sequence[NewDelivery]:
            raise SendRefused(UserError("No.", "NOT_CONFIGURED", ("input",)))

        with pytest.raises(SendRefused) as refused:
            await office.send(project_id, key="order-1", make=refuse)
        assert [error.code for error in refused.value.errors] == ["NOT_CONFIGURED"]
        assert await _stored(database) == (0, 0, 0)
        assert (office.announced, office.woken) == ([], [])
        assert (await office.send(project_id, key="order-1")).counts.queued == 1


async def test_a_key_is_of_one_project_and_one_request(database_url: str) -> None:
    async with open_database(database_url) as database:
        first, second = await make_project(database), await make_project(database)
        office = Office(database)
        made = await office.send(first, key="order-1")
        assert (await office.send(first, key="order-1")).batch_id == made.batch_id
        assert (await office.send(second, key="order-1")).batch_id != made.batch_id
        with pytest.raises(SendRefused) as refused:
            await office.send(first, key="order-1", request="b")
        assert [(error.code, error.path) for error in refused.value.errors] == [
            ("CONFLICT", ("input", "idempotencyKey"))
        ]


def test_the_order_of_keys_in_objects_makes_no_other_request() -> None:
    assert hash_request("PUSH", {"a": 1, "b": {"c": 2, "d": 3}}) == hash_request(
        "PUSH", {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert hash_request("PUSH", {"a": 1}) != hash_request("SMS", {"a": 1})
    assert hash_request("PUSH", {"a": 1}) != hash_request("PUSH", {"a": 2})


@pytest.mark.parametrize(
    ("key", "is_one"), [(None, True), ("a b", True), ("", False), ("x" * 129, False), ("\0", False)]
)
def test_what_can_be_a_key(key: str | None, is_one: bool) -> None:
    assert (check_idempotency_key(key, "input") == ()) is is_one


async def test_a_report_whose_commit_is_unanswered_is_no_duplicate(database_url: str, tmp_path: Path) -> None:
    async with open_proxy(tmp_path, database_url) as proxy, open_gateway(proxy.url) as gateway:
        shop = await gateway.tenant()
        delivery_id = node_id(await make_delivery(shop, status="SENT", attempt_count=1))
        document = """mutation ($id: ID!) {
          trackPush(input: {deliveryId: $id, interaction: OPENED}) { duplicate event { eventType } }
        }"""
        proxy.lose_answers_to(_is_commit, times=1)
        first = (await shop.data(document, id=delivery_id))["trackPush"]
        assert proxy.lost == 1
        assert first == {"duplicate": False, "event": {"eventType": "push.opened"}}
        assert (await shop.data(document, id=delivery_id))["trackPush"]["duplicate"] is True
